"""Draw quality against speed and size (the paper's Figure 1) from files of `clkd bench latency`.

Quality is the macro-F1 of the meta-action: from folders of `clkd evaluate` or `clkd report` with
--evaluation, or by hand with --score. Beside the picture comes the table, as Markdown.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from clkd_core.errors import ConfigError
from clkd_core.files import write_bytes_atomic, write_text_atomic
from clkd_core.report.compare.entries import Entry, add_evaluations, add_scores, load_entries
from clkd_core.report.compare.figure import draw_comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``clkd report compare``."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="JSON of `clkd bench latency`"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FIG.png")
    parser.add_argument(
        "--score",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="macro-F1 of a contender, 0..1",
    )
    parser.add_argument(
        "--evaluation",
        nargs="+",
        default=[],
        metavar="[NAME=]DIR",
        help="a scored run; without a name it is of the checkpoint that was timed",
    )


def run(args: argparse.Namespace) -> int:
    """Draw, print the table, say where both are; 0.

    Raises:
        ConfigError: a word is none or names nobody.
        DataError: a file or folder is none of ours, or the picture cannot be written.
    """
    if args.out.suffix != ".png":
        raise ConfigError(f"--out is {args.out}, expected a name that ends in .png")
    entries = add_scores(load_entries(args.files), args.score)
    entries = add_evaluations(entries, args.evaluation)
    table, page = build_table(entries), args.out.with_suffix(".md")
    write_bytes_atomic(args.out, draw_comparison(entries, _devices(entries, len(args.files))))
    title = "# Quality, speed and size"
    picture = f"![Quality over time per answer]({args.out.name})"
    write_text_atomic(page, "\n".join([title, "", picture, "", *table]) + "\n")
    for line in table:
        print(line)
    print(f"comparison: {args.out}, {page}")
    return 0


def _devices(entries: Sequence[Entry], count: int) -> list[str]:
    by_file = {entry.file: entry.device for entry in entries}
    return [by_file.get(number, "no contender") for number in range(1, count + 1)]


def build_table(entries: Sequence[Entry]) -> list[str]:
    """Lines of a Markdown table, the fastest first, and what is behind it."""
    head = (
        "contender", "device", "p50 ms", "p99 ms", "frames/s", "parameters", "active", "peak MiB",
        "macro-F1", "of",
    )  # fmt: skip
    lines = [_line(head), "|---|---|" + "---:|" * 7 + "---|"]
    lines += [_line(_cells(entry)) for entry in sorted(entries, key=lambda each: each.p50_ms)]
    return [*lines, "", *(f"- `{name}`: {what}" for name, what in _descriptions(entries))]


def _descriptions(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    return list({entry.name: entry.what for entry in entries}.items())


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cells(entry: Entry) -> tuple[str, ...]:
    return (
        entry.name,
        entry.device,
        f"{entry.p50_ms:.1f}",
        f"{entry.p99_ms:.1f}",
        f"{entry.frames_per_s:.2f}",
        f"{entry.total_parameters / 1e6:.2f} M",
        f"{entry.active_parameters / 1e6:.2f} M",
        f"{entry.peak_memory_mib:.0f}",
        _score_words(entry),
        "no trained weights" if entry.quality is None else entry.quality.source,
    )


def _score_words(entry: Entry) -> str:
    if entry.quality is None:
        return "unknown"
    score = entry.quality.macro_f1
    if not (math.isfinite(score.low) and math.isfinite(score.high)):
        return f"{score.value:.3f}"
    return f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"
