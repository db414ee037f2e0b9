"""The table's rows: what follows from the times, and how near it is to what a device allows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clkd_core.metrics.frames import DEADLINE_MS
from clkd_core.runtime.bench.ceilings import Ceilings
from clkd_core.runtime.bench.contenders.spec import Contender, Kind
from clkd_core.runtime.bench.seat import Facts


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The least time an answer can take here; nothing overlaps better than in this sum."""

    decode_ms: float
    """Measured: the images alone, decoded as this contender does."""
    memory_ms: float
    """The answer's weights, each read once a call, at the device's bandwidth."""
    compute_ms: float
    """The answer's products at the device's pace for its number format."""
    floor_ms: float
    """Decoding, and then the larger of the other two: a device reads while it computes."""
    weight_bytes: int
    flops: int
    dtype: str
    """That the products are computed in."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender's figures."""

    name: str
    what: str
    kind: Kind
    backend: str
    checkpoint: str | None
    """Folder of the weights; None: they are random."""
    frames: int
    every: int
    """Took part in every so many rounds."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    frames_per_s: float
    """Answers per second of its own time, one after the other."""
    total_parameters: int
    active_parameters: int
    """That one token passes through."""
    peak_memory_mib: float
    """Largest resident size of its process, libraries and building included."""
    gpu_peak_mib: float | None
    threads: int
    late_ms: float
    """What counts as late: 80 ms; for a control loop as far above its own median as 80 ms is
    above the first contender's."""
    late_frac: float
    """Share of frames that were."""
    ratio_to_first: float
    """Its p50 over the first contender's, both of the rounds that both took part in."""
    floor: Floor | None
    """None where there is no model."""
    times_ms: tuple[float, ...]
    """Each answer's, in order, rounded to a microsecond."""


_Timed = tuple[Contender, Sequence[float]]


def build_rows(
    contenders: Sequence[Contender],
    times: Mapping[str, Sequence[float]],
    facts: Mapping[str, Facts],
    ceilings: Ceilings,
) -> list[Row]:
    """One row for each contender that has times, in their order.

    Args:
        contenders: all that were wanted.
        times: milliseconds by name, at least one each.
        facts: by name.
        ceilings: of the device.
    """
    seated = [contender for contender in contenders if contender.name in times]
    return [
        _build_row(
            (each, times[each.name]),
            (seated[0], times[seated[0].name]),
            facts[each.name],
            ceilings,
        )
        for each in seated
    ]


def _build_row(timed: _Timed, first: _Timed, facts: Facts, ceilings: Ceilings) -> Row:
    contender, times = timed
    p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99)))
    late_ms = DEADLINE_MS
    if contender.kind == "machine":
        late_ms += p50 - float(np.median(first[1]))
    return Row(
        name=contender.name,
        what=contender.what,
        kind=contender.kind,
        backend=facts.backend,
        checkpoint=facts.checkpoint,
        frames=len(times),
        every=contender.every,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        max_ms=max(times),
        frames_per_s=1e3 * len(times) / sum(times),
        total_parameters=facts.total_parameters,
        active_parameters=facts.active_parameters,
        peak_memory_mib=facts.peak_memory_mib,
        gpu_peak_mib=facts.gpu_peak_mib,
        threads=facts.threads,
        late_ms=late_ms,
        late_frac=float(np.mean(np.asarray(times) > late_ms)),
        ratio_to_first=_ratio((times, contender.every), (first[1], first[0].every)),
        floor=compute_floor(facts, ceilings),
        times_ms=tuple(round(value, 3) for value in times),
    )


def compute_floor(facts: Facts, ceilings: Ceilings) -> Floor | None:
    """The least time that an answer's bytes, products and images take on the device.

    A number format that was not measured is held against the fastest that was.
    """
    work = facts.work
    if work is None:
        return None
    pace = ceilings.flops_per_s
    memory_ms = 1e3 * work.weight_bytes / ceilings.memory_bytes_per_s
    compute_ms = 1e3 * work.flops / pace.get(work.dtype, max(pace.values()))
    return Floor(
        decode_ms=facts.decode_ms,
        memory_ms=memory_ms,
        compute_ms=compute_ms,
        floor_ms=facts.decode_ms + max(memory_ms, compute_ms),
        weight_bytes=work.weight_bytes,
        flops=work.flops,
        dtype=work.dtype,
    )


def compute_ratios(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Every row's p50 over every other one's as :func:`compute_ratio`, by both names."""
    return {
        row.name: {other.name: compute_ratio(row, other) for other in rows if other is not row}
        for row in rows
    }


def compute_ratio(row: Row, other: Row) -> float:
    """p50 over p50 of the rounds that both took part in: the same frames, the same minutes."""
    return _ratio((row.times_ms, row.every), (other.times_ms, other.every))


def _ratio(above: tuple[Sequence[float], int], below: tuple[Sequence[float], int]) -> float:
    """Of (times, every so many rounds) each; a run's first round is everybody's.

    Rounded as rows keep the times, so that whoever reads them finds the same ratio.
    """
    both = math.lcm(above[1], below[1])
    medians = [np.median(np.round(times[:: both // every], 3)) for times, every in (above, below)]
    return float(medians[0] / medians[1])
