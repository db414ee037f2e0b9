"""Build a run's metrics.json and report.html again from its files."""

import argparse
from pathlib import Path

from clkd_core.report.build import METRICS_FILE, PAGE_FILE, build_report
from clkd_core.report.summary import summarize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``clkd report``."""
    parser.add_argument(
        "run", type=Path, help="folder of a finished run: frames.csv and provenance.json"
    )


def run(args: argparse.Namespace) -> int:
    """Build, print the headline numbers, say where the files are; 0."""
    metrics = build_report(args.run)
    for line in summarize(metrics):
        print(line)
    print(f"report: {args.run / PAGE_FILE}, {args.run / METRICS_FILE}")
    return 0
