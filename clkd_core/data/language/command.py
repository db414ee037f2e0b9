"""Merge DriveLM (regular) and CODA-LM (corner) into one set for training, with a manifest."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from clkd_core.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the words of ``clkd data merge``; their defaults are those of ``MergeConfig``."""
    parser.add_argument(
        "--drivelm",
        nargs="+",
        type=Path,
        metavar="JSON_OR_DIR",
        help="DriveLM's JSON files, v1.0 or v1.1, or folders of such",
    )
    parser.add_argument(
        "--coda-lm",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="folder with Train, Val, Test or Mini, one of these, or one of the flat layout",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="folders with nuScenes' samples/ and CODA's val/images and test/images; those of "
        "the annotations and above are looked at anyway",
    )
    parser.add_argument("--out", type=Path, required=True, help="root of the set")
    parser.add_argument("--version", help="folder of the set below OUT; v1.0 if not given")
    parser.add_argument(
        "--nuscenes",
        type=_root_and_version,
        metavar="ROOT:VERSION",
        help="set that `clkd data nuscenes` wrote: gives DriveLM ego state, plan and agents",
    )
    parser.add_argument(
        "--skip-missing",
        action="store_true",
        help="go on without the keyframes whose images are missing or damaged",
    )
    _add_shares(parser)


def _add_shares(parser: argparse.ArgumentParser) -> None:
    judged = parser.add_mutually_exclusive_group()
    judged.add_argument(
        "--val-frac",
        type=float,
        metavar="SHARE",
        help="of the scenes without a split of their own that are judged on; 0.1 if not given",
    )
    judged.add_argument(
        "--val",
        dest="val_scenes",
        nargs="+",
        metavar="SCENE",
        help="the scenes that are judged on in place of a share",
    )
    parser.add_argument(
        "--regular-per-corner",
        type=float,
        metavar="RATIO",
        help="leave out training questions at random until there are so many regular ones per "
        "corner one (the paper: 17)",
    )
    parser.add_argument(
        "--questions-per-keyframe",
        type=int,
        metavar="N",
        help="a training keyframe with more comes several times, each time with other questions",
    )
    parser.add_argument("--seed", type=int, help="of all that is drawn; 1 if not given")


def run(args: argparse.Namespace) -> int:
    """Write the set, say what is in it and what was left out; 0.

    Raises:
        ClkdError: an argument, an annotation or an image cannot be used.
    """
    from clkd_core.data.language.manifest import describe_manifest
    from clkd_core.data.language.merge import MergeConfig, merge

    given: dict[str, Any] = {f.name: getattr(args, f.name) for f in fields(MergeConfig)}
    values = {name: value for name, value in given.items() if value is not None}
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    merged = merge(MergeConfig(**{**values, **lists}))
    for source in merged.sources:
        for line in source.skips.lines():
            print(f"{source.name}: {line}")
        for name, value in source.notes.items():
            print(f"{source.name}: {_note(name, value)}")
    print("\n".join(describe_manifest(merged.manifest)))
    print(f"wrote {merged.folder}: {merged.manifest['sidecar']['records']} records")
    return 0


def _note(name: str, value: object) -> str:
    words = name.replace("_", " ")
    if isinstance(value, dict):
        return f"{words}: " + ", ".join(f"{count} {what}" for what, count in value.items())
    return f"{words}: {value}"


def _root_and_version(text: str) -> tuple[Path, str]:
    root, colon, version = text.rpartition(":")
    if not colon or not root or not version:
        raise ConfigError(f"--nuscenes is {text!r}, expected ROOT:VERSION")
    return Path(root), version
