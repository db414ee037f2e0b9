"""Index nuScenes, any version folder, so that it can be trained on and judged on.

Reads the tables through nuscenes-devkit (extra ``nuscenes``) and writes
``<root>/<version>/clkd_keyframes.jsonl``. Training does the same by itself where it finds tables
that have not been indexed.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's words."""
    parser.add_argument("root", type=Path, help="folder with samples/, maps/ and the tables")
    parser.add_argument("--version", required=True, help="folder of the tables, e.g. v1.0-mini")
    parser.add_argument(
        "--out",
        type=Path,
        help="write below this folder, with links to the images, where ROOT cannot be written",
    )
    parser.add_argument(
        "--skip-missing", action="store_true", help="leave out images that are not there"
    )
    parser.add_argument(
        "--senna-questions",
        action="store_true",
        help="ask Senna's questions: plan, vulnerable road users, behaviour of agents",
    )
    parser.add_argument("--workers", type=int, help="processes, default one for every core")


def run(args: argparse.Namespace) -> int:
    """Write the sidecar, say what is in it and where; 0.

    Raises:
        ConfigError: nuscenes-devkit is not installed.
        DataError: the tables or images cannot be used, or the sidecar cannot be written.
    """
    from clkd_core.data.nuscenes.index import index_nuscenes

    counts = index_nuscenes(
        args.root,
        args.version,
        out=args.out,
        skip_missing=args.skip_missing,
        senna_questions=args.senna_questions,
        workers=args.workers,
    )
    print(f"wrote {counts.sidecar}: {counts.describe()}")
    return 0
