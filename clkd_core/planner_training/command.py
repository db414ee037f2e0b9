"""Train the planner on a student's frozen vision features, and judge it."""

import argparse
from pathlib import Path

from clkd_core.config import load_config
from clkd_core.planner_training.config import PlannerTrainConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Words of ``clkd train-planner``."""
    parser.add_argument("config", type=Path, help="YAML file, e.g. config/planner/demo.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="e.g. steps=100 model.width=96"
    )
    parser.add_argument(
        "--evaluate-only",
        action="store_true",
        help="judge the planner that the student has already; trains and writes nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Train or load, judge, and say what was made and where."""
    config = load_config(PlannerTrainConfig, args.config, args.overrides)
    from clkd_core.planner_training.scoring.tables import score_lines
    from clkd_core.planner_training.train import evaluate_planner, train_planner

    folder, scores = (evaluate_planner if args.evaluate_only else train_planner)(config)
    for line in score_lines(scores):
        print(line)
    print(f"planner: {folder}")
    return 0
