"""Judge a checkpoint on a set or on bags, beside every baseline, with many workers.

A set in sidecar form (--data) or bags and folders of bags. Every scene or bag is a task; what is
finished is kept in OUT/tasks, so an interrupted run goes on. The same seed gives the same numbers
however many workers there are. Leaves frames.csv, answers.jsonl, metrics.json, report.md and
report.html in OUT.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from clkd_core.errors import ConfigError
from clkd_core.files import shipped_student

if TYPE_CHECKING:  # torch takes seconds, and a wrong word should not
    from clkd_core.evaluation.config import JudgeConfig
    from clkd_core.evaluation.inputs import Inputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd evaluate``."""
    parser.add_argument("bags", nargs="*", type=Path, help="bags, or folders of bags")
    parser.add_argument("--data", type=Path, help="a set in place of bags, every scene a task")
    parser.add_argument("--version", help="folder of the set; default the only one there is")
    parser.add_argument("--split", choices=("train", "val"), default="val")
    parser.add_argument(
        "--checkpoint", type=Path, help="folder of a model; the shipped student when not given"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the report")
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="ray: an existing cluster"
    )
    parser.add_argument(
        "--workers", type=int, help="tasks at a time; default as many as cores, one on a GPU"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu or cuda[:N]; auto means cpu on a Ray cluster"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch in each worker")
    parser.add_argument("--seed", type=int, default=0, help="of every choice; default 0")
    parser.add_argument("--topics", type=Path, help="YAML: which topic of the bags is what")
    parser.add_argument("--planner", action="store_true", help="also the planner in CHECKPOINT")
    parser.add_argument(
        "--time", action="store_true", help="measure inference_ms and RSDR; one worker only"
    )
    parser.add_argument(
        "--limit-questions", type=int, metavar="N", help="at most N about a keyframe"
    )
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest answer")
    parser.add_argument(
        "--skip-missing", action="store_true", help="go on without images that are missing"
    )


def run(args: argparse.Namespace) -> int:
    """Judge as asked; 0 when the report is written."""
    args.checkpoint = args.checkpoint or shipped_student()
    _check(args)
    from clkd_core.evaluation.run import do_tasks, find_blind, write_run
    from clkd_core.report.build import build_report
    from clkd_core.report.summary import describe_report

    config = _judge_config(args)
    inputs = _open(args, config)
    blind = find_blind(args.checkpoint, inputs, seed=args.seed)
    outcomes = do_tasks(inputs, config, args.out, engine=args.engine, workers=args.workers)
    write_run(args.out, inputs, outcomes, config, blind, engine=args.engine)
    for line in describe_report(args.out, build_report(args.out)):
        print(line)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises ConfigError for words that do not go together."""
    if bool(args.bags) == (args.data is not None):
        raise ConfigError("expected either bags or --data, one of the two")
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}, expected at least 1")
    if args.time and (args.engine != "local" or (args.workers or 1) > 1):
        raise ConfigError("--time needs --engine local and one worker: several slow each other")
    if args.topics is not None and args.data is not None:
        raise ConfigError("--topics is for bags, not for --data")
    if args.skip_missing and args.data is None:
        raise ConfigError("--skip-missing is for --data, not for bags")


def _judge_config(args: argparse.Namespace) -> "JudgeConfig":
    from clkd_core.evaluation.config import JudgeConfig, checkpoint_identity
    from clkd_core.runtime.devices import choose_device

    on_ray = args.engine == "ray"  # what its machines have is not seen from here
    device = "cpu" if on_ray and args.device == "auto" else args.device
    return JudgeConfig(
        checkpoint=args.checkpoint.resolve(),
        identity=checkpoint_identity(args.checkpoint, planner=args.planner),
        device=device if on_ray else str(choose_device(device)),
        threads=args.threads,
        seed=args.seed,
        planner=args.planner,
        timed=args.time,
        limit_questions=args.limit_questions,
        max_new_tokens=args.max_new_tokens,
    )


def _open(args: argparse.Namespace, config: "JudgeConfig") -> "Inputs":
    from clkd_core.data.bags.topics import load_topics
    from clkd_core.evaluation.inputs import open_bags, open_set

    if args.data is None:
        names = load_topics(args.topics) if args.topics else None
        return open_bags([path.resolve() for path in args.bags], names, config)
    return open_set(
        args.data.resolve(), args.version, args.split, config, skip_missing=args.skip_missing
    )
