"""Build a run's metrics.json, report.md and report.html again from its files."""

import argparse
from pathlib import Path

from clkd_core.report.build import build_report
from clkd_core.report.sheet import write_sheet
from clkd_core.report.summary import describe_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``clkd report``."""
    parser.add_argument(
        "run", type=Path, help="folder of a finished run: frames.csv and provenance.json"
    )
    parser.add_argument("--sheet", type=Path, help="also write one JPEG of the run's pictures")


def run(args: argparse.Namespace) -> int:
    """Build, print the headline numbers, say where the files are; 0."""
    for line in describe_report(args.run, build_report(args.run)):
        print(line)
    if args.sheet is not None:
        print(f"sheet: {args.sheet}, {write_sheet(args.run, args.sheet)} pictures")
    return 0
