"""Run a checkpoint over a bag and report: directly and repeatably, or live through the nodes.

`clkd replay BAG --checkpoint DIR --out DIR` reads the bag without a transport, as fast as it
goes; three such runs give the same decisions. `--live` plays it in real time through the nodes.
Both leave frames.csv, report.html, report.md and metrics.json.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from clkd_core.data.bags.files import find_bags
from clkd_core.data.bags.frames import count_image_sets, load_labels
from clkd_core.data.bags.topics import BagTopics, load_topics
from clkd_core.errors import ConfigError, DataError
from clkd_core.files import shipped_student
from clkd_core.metrics.frames import DEADLINE_MS, FrameRow, Outcome, write_frames
from clkd_core.metrics.frames import read_frames as read_rows
from clkd_core.progress import progress
from clkd_core.report.build import FRAMES_FILE, build_report
from clkd_core.report.scoring.answers import ANSWERS_FILE
from clkd_core.runtime.bag_run import ReplayConfig, replay_bag

if TYPE_CHECKING:  # torch takes seconds, and --live needs it in other processes
    from clkd_core.runtime.engine import Engine
    from clkd_core.runtime.planning import PlannerEngine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd replay``."""
    parser.add_argument("bag", type=Path, help="a bag, or a folder of bags")
    parser.add_argument(
        "--checkpoint", type=Path, help="folder of a student; the shipped one when not given"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument("--live", action="store_true", help="in real time through the nodes")
    parser.add_argument(
        "--topics", type=Path, help="YAML file: which topic of somebody else's bag is what"
    )
    parser.add_argument("--blank", action="store_true", help="show black images")
    parser.add_argument(
        "--keyframes-only", action="store_true", help="decide on labelled keyframes only"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:N]")
    parser.add_argument("--threads", type=int, help="of the model; default all cores")
    parser.add_argument(
        "--deadline-ms",
        type=float,
        default=DEADLINE_MS,
        help="an answer after it is late (default %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Replay as asked; 0 when the report is written."""
    args.checkpoint = args.checkpoint or shipped_student()
    if args.live:
        return _run_live(args)
    config = ReplayConfig(
        keyframes_only=args.keyframes_only, blank=args.blank, deadline_ms=args.deadline_ms
    )
    names = load_topics(args.topics) if args.topics else None
    bags = find_bags(args.bag)
    total = sum(count_image_sets(bag, names) for bag in bags)  # a wrong bag: before the model
    engine, planner = _load(args)
    rows = list(
        progress(
            chain.from_iterable(
                replay_bag(bag, engine, planner, config=config, names=names) for bag in bags
            ),
            total=None if config.keyframes_only else total,
            desc="replay",
            unit="frames",
        )
    )
    _write(args, bags, rows, config, str(engine.device))
    finish_run(args.out, bags, engine, args.checkpoint, comparisons=not args.blank, names=names)
    return 0


def finish_run(
    run: Path,
    bags: Sequence[Path],
    engine: "Engine",
    checkpoint: Path,
    *,
    comparisons: bool = True,
    names: BagTopics | None = None,
) -> None:
    """From ``frames.csv`` and ``provenance.json`` to the report: comparisons, pictures, page.

    Prints the headline and where the files are. Used after direct and live replay alike, and on
    what the evaluator node left. A live run gets a row for each keyframe of the bags that it never
    heard of, and its keyframes are answered directly, too.

    Args:
        run: folder of the run.
        bags: what was played.
        engine: the run's student; of a live run with as many threads as its node had, because
            rounding depends on them.
        checkpoint: its folder.
        comparisons: answer the labelled keyframes without their own images and by ego status
            too.
        names: which topic of the bags is what; ours when None.

    Raises:
        DataError: a file of the run or a bag cannot be read, or the run is not of these bags.
    """
    from clkd_core.report.bag_pictures import make_gallery_from_bags
    from clkd_core.report.provenance import read_provenance, write_provenance
    from clkd_core.report.summary import describe_report
    from clkd_core.runtime.comparisons import remove_comparisons, write_comparisons

    live = read_provenance(run).mode == "live"
    if live:
        count_keyframes(run, bags, checkpoint, names)
    (run / ANSWERS_FILE).unlink(missing_ok=True)  # of an evaluation in the same folder
    remove_comparisons(run)
    not_built = {"blank": "all images were black", "shuffled": "all images were black"}
    if comparisons:
        not_built = write_comparisons(run, bags, engine, checkpoint, names=names, live=live)
    write_provenance(run, replace(read_provenance(run), not_built=not_built))
    make_gallery_from_bags(run, read_rows(run / FRAMES_FILE), bags, names)
    for line in describe_report(run, build_report(run)):
        print(line)


def count_keyframes(
    run: Path, bags: Sequence[Path], checkpoint: Path, names: BagTopics | None = None
) -> None:
    """Give a live run the rows that it lacks, and name its bags and its student.

    Raises:
        DataError: a file of the run or a bag cannot be read, or the run is not of these bags, or
            another student's.
    """
    from clkd_core.report.provenance import read_provenance, write_provenance
    from clkd_core.runtime.live_run import account_for, recount

    provenance, rows = read_provenance(run), read_rows(run / FRAMES_FILE)
    said = Path(provenance.checkpoint)
    if provenance.checkpoint and said.is_dir() and not said.samefile(checkpoint):
        raise DataError(f"{run} was answered by {said}, expected that student, not {checkpoint}")
    labels = [label for bag in bags for label in load_labels(bag, names)]
    counted = account_for(rows, labels)
    write_frames(run / FRAMES_FILE, counted)
    provenance = replace(
        provenance, checkpoint=str(checkpoint), bag=", ".join(str(bag) for bag in bags)
    )
    write_provenance(run, recount(provenance, rows, counted))


def _run_live(args: argparse.Namespace) -> int:
    """Hand over to whoever registered ``replay`` for the nodes; the core does not know them."""
    from clkd_core.cli import find_entries, load_entry

    if args.blank or args.keyframes_only:
        raise ConfigError("--blank and --keyframes-only are for direct replay, without --live")
    entries = find_entries("clkd.live")
    if "replay" not in entries:
        raise ConfigError("replay --live needs the nodes, and clkd_ros is not installed")
    code: int = load_entry(entries["replay"])(args)  # calls finish_run itself
    return code


def _load(args: argparse.Namespace) -> "tuple[Engine, PlannerEngine | None]":
    from clkd_core.models.planner_checkpoint import load_planner
    from clkd_core.runtime.engine import Engine
    from clkd_core.runtime.planning import PlannerEngine

    engine = Engine.from_checkpoint(args.checkpoint, device=args.device, threads=args.threads)
    engine.warm_up()
    if args.blank or not (args.checkpoint / "planner").is_dir():
        return engine, None
    planner = PlannerEngine(load_planner(args.checkpoint, device=engine.device), engine)
    planner.warm_up()
    return engine, planner


def _write(
    args: argparse.Namespace,
    bags: Sequence[Path],
    rows: Sequence[FrameRow],
    config: ReplayConfig,
    device: str,
) -> None:
    from clkd_core.report.provenance import collect_provenance, write_provenance

    notes = describe_rows(rows) + (["black images were shown"] if config.blank else [])
    write_frames(args.out / FRAMES_FILE, rows)
    provenance = collect_provenance(
        mode="direct",
        checkpoint=args.checkpoint,
        bag=", ".join(str(bag) for bag in bags),
        device=device,
        counters=Counter(row.outcome.value for row in rows),
        deadline_ms=config.deadline_ms,
        notes=notes,
    )
    write_provenance(args.out, provenance)
    for note in notes:
        print(note)


def describe_rows(rows: Sequence[FrameRow]) -> list[str]:
    """What a user must know about a run: missing inputs, missing answers, missing labels."""
    lines = [
        f"{count} of {len(rows)} frames: {reason}"
        for reason, count in Counter(
            reason for row in rows for reason in row.reason.split("; ") if reason
        ).most_common(8)
    ]
    dropped = sum(row.outcome is Outcome.DROPPED for row in rows)
    if dropped:
        lines.append(f"{dropped} of {len(rows)} frames were not answered")
    if not any(row.label for row in rows):
        lines.append("not labelled: no accuracy, RSDR or L2")
    return lines
