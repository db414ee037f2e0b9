"""The planner on disk: the folder ``planner/`` inside the folder of the student it was trained on.

The planner reads the student's vision features, which mean nothing in another student's terms;
so the hash of the student's weights is kept with it and compared whenever it is loaded.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clkd_core.config import config_from_dict, config_to_dict
from clkd_core.errors import CheckpointError, ConfigError
from clkd_core.models.checkpoint import load_weights, unique_state
from clkd_core.models.checkpoint_files import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    check_manifest,
    write_manifest,
)
from clkd_core.models.drivable import broken_limits
from clkd_core.models.planner import Planner, PlannerConfig
from clkd_core.models.vehicle import VehicleConfig

FOLDER = "planner"
FAMILY = "vocabulary-planner"
FORMAT_VERSION = 2
"""2 keeps the vehicle; 1 kept one limit of acceleration and is read as the default vehicle's."""

_log = logging.getLogger(__name__)


def student_identity(student: Path) -> str:
    """SHA-256 of the student's weights, as its manifest has it; ``load_vlm`` compares the two.

    Raises:
        CheckpointError: there is no student, or its manifest does not list the weights.
    """
    if not (student / MANIFEST).is_file():
        raise CheckpointError(f"{student} holds no student, expected a checkpoint of one")
    try:
        manifest = json.loads((student / MANIFEST).read_text(encoding="utf-8"))
        return str(manifest["sha256"][WEIGHTS])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"{student / MANIFEST} lists no {WEIGHTS}: {err}") from err


def write_planner(planner: Planner, folder: Path, *, student_sha256: str) -> None:
    """Write weights (vocabulary included), config and manifest into an existing folder.

    Hand in the folder that ``files.replace_folder`` yields, so that it appears whole or not, and
    write what else belongs into it before: the manifest covers every file.
    """
    config = {
        "family": FAMILY,
        "format_version": FORMAT_VERSION,
        "architecture": config_to_dict(planner.config),
        "vehicle": config_to_dict(planner.vehicle),
        "vocabulary": len(planner.vocabulary_m),
        "patches": planner.patches,
        "feature_width": planner.feature_width,
        "student_sha256": student_sha256,
    }
    save_file(unique_state(planner), folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    write_manifest(folder)


def load_planner(
    student: Path,
    *,
    device: torch.device | str = "cpu",
    vehicle: VehicleConfig | None = None,
) -> Planner:
    """Read the planner of a student, in evaluation mode.

    Args:
        student: the student's folder; the planner lies in its ``planner/``.
        device: where to put it.
        vehicle: the one that will drive; None trusts that it is the one the planner was made
            for. Trajectories that this one cannot drive are counted in the log and not chosen.

    Raises:
        CheckpointError: the planner is missing, damaged, of another kind or version, was trained
            on another student's features, or, where a vehicle is given, made for another one:
            of another name, or one that may do more.
    """
    folder = student / FOLDER
    if not folder.is_dir():
        raise CheckpointError(f"{student} holds no planner, expected {FOLDER}/ in it")
    check_manifest(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        _check_kind(folder, config)
        _check_student(folder, config, student)
        planner = _build(folder, config)
        _check_vehicle(folder, planner, vehicle)
    except (ConfigError, OSError, ValueError, KeyError, TypeError) as err:
        raise CheckpointError(f"{folder / CONFIG}: {' '.join(str(err).split())}") from err
    load_weights(planner, folder / WEIGHTS)
    return planner.to(device).eval()


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    found = (config.get("family"), config.get("format_version"))
    if found not in ((FAMILY, 1), (FAMILY, FORMAT_VERSION)):
        raise CheckpointError(
            f"{folder} holds {found[0]} version {found[1]}, "
            f"expected {FAMILY} version {FORMAT_VERSION}"
        )


def _check_student(folder: Path, config: Mapping[str, Any], student: Path) -> None:
    wanted, found = str(config["student_sha256"]), student_identity(student)
    if wanted != found:
        raise CheckpointError(
            f"{folder} was trained on the features of student {wanted[:12]}, the one beside it "
            f"is {found[:12]}: run clkd train-planner again"
        )


def _check_vehicle(folder: Path, planner: Planner, vehicle: VehicleConfig | None) -> None:
    """Refuse another vehicle's planner; say what of the vocabulary its own cannot drive."""
    made_for = planner.vehicle
    if vehicle is not None:
        differences = made_for.looser_than(vehicle)
        if made_for.name != vehicle.name:
            differences.insert(0, f"it is a {made_for.name}")
        if differences:
            raise CheckpointError(
                f"{folder} was made for another vehicle than {vehicle.name}: "
                f"{', '.join(differences)}; run clkd train-planner with this vehicle's limits"
            )
    unknown = np.full(len(planner.vocabulary_m), np.nan, np.float32)
    broken = broken_limits(planner.vocabulary_m.numpy(), unknown, made_for)
    counts = [f"{name} {rows.sum()}" for name, rows in broken.items() if rows.any()]
    if counts:
        _log.warning(
            "%s: %d of %d trajectories are beyond the limits of %s and will not be chosen (%s)",
            folder, int(np.any(list(broken.values()), axis=0).sum()), len(unknown),
            made_for.name, ", ".join(counts),
        )  # fmt: skip


def _build(folder: Path, config: Mapping[str, Any]) -> Planner:
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"{folder / WEIGHTS} is no safetensors file: {err}") from err
    vocabulary_m = tensors["vocabulary_m"]
    if not torch.isfinite(vocabulary_m).all():
        raise CheckpointError(f"{folder / WEIGHTS}: the vocabulary holds NaN, expected metres")
    source, architecture = str(folder / CONFIG), dict(config["architecture"])
    if config["format_version"] == 1:
        architecture.pop("max_accel_mps2", None)
        vehicle = VehicleConfig()
    else:
        vehicle = config_from_dict(VehicleConfig, config["vehicle"], source=source)
    return Planner(
        config_from_dict(PlannerConfig, architecture, source=source),
        vocabulary_m=vocabulary_m,
        own_action=tensors["own_action"],
        patches=int(config["patches"]),
        feature_width=int(config["feature_width"]),
        vehicle=vehicle,
    )
