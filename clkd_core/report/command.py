"""Build a run's metrics.json, report.md and report.html again from its files.

With ``--bag`` and ``--checkpoint`` the student looks at the run's keyframes once more: what needs
it is added to what the evaluator node left (comparison rows, pictures, live against direct).
"""

import argparse
from pathlib import Path

from clkd_core.errors import ConfigError
from clkd_core.report.build import build_report
from clkd_core.report.sheet import write_sheet
from clkd_core.report.summary import describe_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``clkd report``."""
    parser.add_argument(
        "run", type=Path, help="folder of a finished run: frames.csv and provenance.json"
    )
    parser.add_argument("--sheet", type=Path, help="also write one JPEG of the run's pictures")
    group = parser.add_argument_group("to add what needs the bag and the student")
    group.add_argument(
        "--bag", type=Path, nargs="+", help="what the run was played from: bags, folders of bags"
    )
    group.add_argument("--checkpoint", type=Path, help="folder of the run's student")
    group.add_argument("--topics", type=Path, help="YAML file: which topic of the bags is what")
    group.add_argument("--device", default="auto", help="auto, cpu or cuda[:N]")
    group.add_argument(
        "--threads",
        type=int,
        default=1,
        help="of the model; as many as the run had (default %(default)s, as nodes have)",
    )


def run(args: argparse.Namespace) -> int:
    """Build, print the headline numbers, say where the files are; 0."""
    if (args.bag is None) != (args.checkpoint is None):
        raise ConfigError("report takes --bag and --checkpoint together or neither of them")
    if args.bag is None:
        for line in describe_report(args.run, build_report(args.run)):
            print(line)
    else:
        _finish(args)
    if args.sheet is not None:
        print(f"sheet: {args.sheet}, {write_sheet(args.run, args.sheet)} pictures")
    return 0


def _finish(args: argparse.Namespace) -> None:
    from clkd_core.data.bags.files import find_bags
    from clkd_core.data.bags.topics import load_topics
    from clkd_core.report.provenance import read_provenance
    from clkd_core.runtime.engine import Engine  # torch takes seconds
    from clkd_core.runtime.replay import finish_run

    read_provenance(args.run)  # a wrong folder or bag: before the model
    bags = [found for bag in args.bag for found in find_bags(bag)]
    names = load_topics(args.topics) if args.topics else None
    engine = Engine.from_checkpoint(args.checkpoint, device=args.device, threads=args.threads)
    finish_run(args.run, bags, engine, args.checkpoint, names=names)
