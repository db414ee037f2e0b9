"""Train the planner on a student's frozen vision features."""

import argparse
from pathlib import Path

from clkd_core.config import load_config
from clkd_core.planner_training.config import PlannerTrainConfig
from clkd_core.planner_training.evaluate import PlannerScores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Words of ``clkd train-planner``."""
    parser.add_argument("config", type=Path, help="YAML file, e.g. config/planner/demo.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="e.g. steps=100 model.width=96"
    )


def run(args: argparse.Namespace) -> int:
    """Train, score, and say what was made and where."""
    config = load_config(PlannerTrainConfig, args.config, args.overrides)
    from clkd_core.planner_training.train import train_planner

    folder, scores = train_planner(config)
    for line in score_lines(scores):
        print(line)
    print(f"planner: {folder}")
    return 0


def score_lines(scores: PlannerScores) -> list[str]:
    """A small table: one way to plan per line, L2 at 1, 2 and 3 s in both conventions."""
    lines = ["L2 on validation drives [m]     average to 1/2/3 s   at 1/2/3 s"]
    for name, score in scores.l2.items():
        average = " / ".join(f"{value.value:.2f}" for value in score.average_m.values())
        horizon = " / ".join(f"{value.value:.2f}" for value in score.horizon_m.values())
        lines.append(f"  {name:<30}{average}   {horizon}")
    return lines
