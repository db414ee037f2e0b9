"""Train a teacher, distil its half-size student, judge both.

Also ``python -m clkd_core.distill CONFIG [key=value ...] [--resume | --dry-run]
[--skip-missing]``.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from clkd_core.cli import end_process, run_guarded

SHORT_KEYS = {"alpha0": "release.alpha0", "gamma": "release.gamma"}
"""The paper's symbols, accepted on the command line without their section."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("config", type=Path, help="YAML file, e.g. config/train/smoke.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. h2g.token_frac=1")
    parser.add_argument(
        "--dry-run", action="store_true", help="count parameters and steps, train nothing"
    )
    parser.add_argument("--resume", action="store_true", help="go on where the run was stopped")
    parser.add_argument(
        "--skip-missing",
        action="store_true",
        help="go on without the views whose image files are missing (data.skip_missing=true)",
    )


def run(args: argparse.Namespace) -> int:
    """Train and distil as the config says.

    Raises:
        ClkdError: the config, the data or a state to resume cannot be used.
    """
    # OpenMP's threads otherwise spin while they wait: with other processes on the same cores a
    # step took 16 s in place of 2 (two cores, load 8). Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported late, so that --help and a misspelt option answer at once.
    from clkd_core.config import load_config
    from clkd_core.distill.config import TrainConfig
    from clkd_core.distill.dry_run import describe_run
    from clkd_core.distill.train import train

    words = [_full_key(word) for word in args.overrides]
    words += ["data.skip_missing=true"] if args.skip_missing else []
    config = load_config(TrainConfig, args.config, words)
    if args.dry_run:
        print("\n".join(describe_run(config)))
        return 0
    result = train(config, resume=args.resume)
    if os.environ.get("RANK", "0") == "0":
        what = "student" if config.distill else "teacher"
        print(f"{what}: {result}  report: {config.out / 'report.md'}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """What ``python -m clkd_core.distill`` does; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m clkd_core.distill",
        description="Train a teacher, distil its half-size student, judge both.",
    )
    add_arguments(parser)
    args = parser.parse_intermixed_args(argv)
    return run_guarded(lambda: run(args))


def _full_key(word: str) -> str:
    key, equals, value = word.partition("=")
    return f"{SHORT_KEYS.get(key, key)}{equals}{value}"


if __name__ == "__main__":
    end_process(main())
