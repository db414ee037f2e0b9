"""Lay training runs side by side: settings, curves, validation numbers."""

import argparse
from pathlib import Path

from clkd_core.distill.record.compare import build_tables, draw_curves, load_runs
from clkd_core.distill.record.compare_page import build_html, build_markdown, build_text
from clkd_core.errors import ConfigError
from clkd_core.files import write_bytes_atomic, write_text_atomic

PICTURE_FILE = "compare.png"
MARKDOWN_FILE = "compare.md"
PAGE_FILE = "compare.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``clkd compare``."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a training run's folder"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/compare"),
        help="folder of the comparison: %(default)s",
    )
    parser.add_argument(
        "--smooth",
        type=int,
        default=1,
        metavar="N",
        help="draw the running mean of N logged points; %(default)s draws what was logged",
    )


def run(args: argparse.Namespace) -> int:
    """Compare, print the tables, say where the pages are; 0.

    Raises:
        ConfigError: fewer than two runs, one given twice, or a running mean of no points.
        DataError: a folder is no run, or the pages cannot be written.
    """
    if args.smooth < 1:
        raise ConfigError(f"--smooth is {args.smooth}, expected >= 1")
    runs = load_runs(args.runs)
    names, tables = [each.name for each in runs], build_tables(runs)
    png = draw_curves(runs, smooth=args.smooth)
    write_bytes_atomic(args.out / PICTURE_FILE, png)
    write_text_atomic(args.out / MARKDOWN_FILE, build_markdown(names, tables, PICTURE_FILE))
    write_text_atomic(args.out / PAGE_FILE, build_html(names, tables, png))
    print(build_text(tables))
    files = ", ".join(str(args.out / name) for name in (PAGE_FILE, MARKDOWN_FILE, PICTURE_FILE))
    print(f"\ncomparison: {files}")
    return 0
