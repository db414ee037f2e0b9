"""``clkd evaluate`` on the smallest inputs, for its tests."""

import argparse
import json
from pathlib import Path
from typing import Any

from clkd_core.evaluation import command

TABLES = ("frames.csv", "frames_blank.csv", "frames_shuffled.csv", "answers.jsonl")
"""What two runs with the same seed have in common to the last byte."""


def evaluate(out: Path, checkpoint: Path, *words: object) -> dict[str, Any]:
    """Run the verb, on one question a keyframe and in this process; what metrics.json holds."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["--checkpoint", checkpoint, "--out", out, "--device", "cpu", "--max-new-tokens", 4]
    given += ["--limit-questions", 1]
    given += [] if "--workers" in words else ["--workers", 1]
    assert command.run(parser.parse_args([str(word) for word in (*given, *words)])) == 0
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return metrics


def numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """All of metrics.json but when and where it was made."""
    return {name: value for name, value in metrics.items() if name != "provenance"}
