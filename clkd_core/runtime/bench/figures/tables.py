"""The benchmark's figures as lines for a terminal."""

from collections.abc import Sequence

from clkd_core.runtime.bench.ceilings import Ceilings
from clkd_core.runtime.bench.contenders.line_up import CONTROL
from clkd_core.runtime.bench.contest import Skipped
from clkd_core.runtime.bench.figures.goals import Verdict
from clkd_core.runtime.bench.figures.rows import Row, compute_ratio

_DASH = "-"


def format_all(
    rows: Sequence[Row],
    skipped: Sequence[Skipped],
    verdicts: Sequence[Verdict],
    ceilings: Ceilings,
    frames: str,
) -> list[str]:
    """Device, times, sizes and floors, ratios, goals; then who is who."""
    names = [*(row.name for row in rows), *(each.name for each in skipped)]
    width = max(map(len, names), default=0)
    blocks = [
        _device_lines(rows, ceilings, frames),
        _time_lines(rows, width),
        _size_lines(rows, width),
        _ratio_lines(rows, width),
        _late_lines(rows),
        ["goals:", *map(_goal_line, verdicts)],
        [f"{row.name:{width}} {row.what} ({row.backend})" for row in rows],
        [f"{each.name:{width}} left out: {each.why} ({each.what})" for each in skipped],
    ]
    return [line for block in blocks if block for line in (*block, "")][:-1]


def _device_lines(rows: Sequence[Row], ceilings: Ceilings, frames: str) -> list[str]:
    threads = sorted({row.threads for row in rows})
    paces = ", ".join(f"{pace / 1e9:.0f} GFLOP/s {name}" for name, pace in _paces(ceilings))
    return [
        f"device: {ceilings.device_words}; threads {', '.join(map(str, threads))}",
        f"measured ceilings: {ceilings.memory_bytes_per_s / 1e9:.1f} GB/s, {paces}",
        f"a frame: {frames}, decoding inside the clock",
    ]


def _paces(ceilings: Ceilings) -> list[tuple[str, float]]:
    return list(ceilings.flops_per_s.items())


def _time_lines(rows: Sequence[Row], width: int) -> list[str]:
    head = f"{'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9} {'frames/s':>9} {'> 80 ms':>8}"
    lines = [f"{'':{width}} {head} {'ratio':>8} {'n':>6}"]
    for row in rows:
        times = f"{row.p50_ms:9.1f} {row.p95_ms:9.1f} {row.p99_ms:9.1f} {row.frames_per_s:9.2f}"
        late = f"{row.late_frac:8.2%} {row.ratio_to_first:7.2f}x {row.frames:6d}"
        lines.append(f"{row.name:{width}} {times} {late}")
    return lines


def _size_lines(rows: Sequence[Row], width: int) -> list[str]:
    head = f"{'params':>10} {'active':>10} {'peak MiB':>9} {'GPU MiB':>8}"
    floor_head = f"{'decode':>8} {'bytes':>8} {'FLOPs':>8} {'floor ms':>9} {'p50/floor':>9}"
    lines = [f"{'':{width}} {head} {floor_head}"]
    for row in rows:
        gpu = _DASH if row.gpu_peak_mib is None else f"{row.gpu_peak_mib:.0f}"
        sizes = f"{_millions(row.total_parameters)} {_millions(row.active_parameters)}"
        memory = f"{row.peak_memory_mib:9.0f} {gpu:>8}"
        lines.append(f"{row.name:{width}} {sizes} {memory} {_floor_words(row)}")
    lines.append(
        "floor: decoding as measured, then the larger of bytes (weights over bandwidth) and FLOPs "
        "(products over the matmul ceiling), ms"
    )
    return lines


def _millions(count: int) -> str:
    return f"{count / 1e6:9.2f}M"


def _floor_words(row: Row) -> str:
    floor = row.floor
    if floor is None:
        return " ".join(f"{_DASH:>{width}}" for width in (8, 8, 8, 9, 9))
    parts = f"{floor.decode_ms:8.1f} {floor.memory_ms:8.2f} {floor.compute_ms:8.2f}"
    return f"{parts} {floor.floor_ms:9.1f} {row.p50_ms / floor.floor_ms:9.2f}"


def _ratio_lines(rows: Sequence[Row], width: int) -> list[str]:
    """How many times the p50 of the column the row's is, in the rounds of both."""
    columns = range(1, len(rows) + 1)
    head = " ".join(f"{f'/ {number}':>8}" for number in columns)
    lines = [f"{'p50 of row / of column':{width + 4}} {head}"]
    for number, row in zip(columns, rows, strict=True):
        ratios = " ".join(f"{compute_ratio(row, other):8.3g}" for other in rows)
        lines.append(f"{number:2d}  {row.name:{width}} {ratios}")
    return lines


def _late_lines(rows: Sequence[Row]) -> list[str]:
    control = next((row for row in rows if row.name == CONTROL), None)
    if control is None or control is rows[0]:
        return []
    first, beyond = rows[0], rows[0].late_frac - control.late_frac
    return [
        f"{first.name} over {first.late_ms:.0f} ms: {first.late_frac:.3%} of {first.frames}; "
        f"{control.name} over {control.late_ms:.1f} ms, as far above its median: "
        f"{control.late_frac:.3%} of {control.frames}; difference {beyond:+.3%}"
    ]


def _goal_line(verdict: Verdict) -> str:
    sign = ">=" if verdict.at_least else "<="
    words = {True: "met", False: "missed", None: ""}[verdict.met]
    value = _DASH if verdict.value is None else f"{verdict.value:.4g}"
    remark = f"{'; ' if words else ''}{verdict.remark}" if verdict.remark else ""
    return f"  {verdict.goal:42} {value:>9} {sign} {verdict.limit:<6g} {words}{remark}"
