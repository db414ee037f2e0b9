"""A small set with nuScenes' tables and, unlike our world's own, sweeps: rows, poses and files."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.generate import write_world

VERSION = "v1.0-clkd"
KEYFRAMES, LABELLED = 7, 1
"""Of each scene: six must follow a labelled one."""
SCANS = (2, 3, 5, 7, 8)
"""Sweeps between two keyframes: 12 Hz with them, and as in nuScenes spread over ten turns of the
LIDAR, so that they are 50 or 100 ms apart."""
SWEEPS = len(SCANS)
FRAMES = KEYFRAMES + (KEYFRAMES - 1) * SWEEPS
Tables = dict[str, list[dict[str, Any]]]


def load_tables(root: Path, *names: str) -> Tables:
    return {name: json.loads((root / VERSION / f"{name}.json").read_text()) for name in names}


def save_tables(root: Path, tables: Tables) -> None:
    for name, rows in tables.items():
        (root / VERSION / f"{name}.json").write_text(json.dumps(rows))


def change(root: Path, name: str, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    tables = load_tables(root, name)
    edit(tables[name])
    save_tables(root, tables)


def add_sweeps(root: Path) -> None:
    """Camera and LIDAR rows between the keyframes, each with a pose and a file of its own."""
    tables = load_tables(root, "sample_data", "ego_pose", "sample")
    scene_of = {row["token"]: row["scene_token"] for row in tables.pop("sample")}
    poses = {row["token"]: row for row in tables["ego_pose"]}
    chains: dict[str, list[dict[str, Any]]] = {}
    for row in tables["sample_data"]:
        key = f"{row['calibrated_sensor_token']} {scene_of[row['sample_token']]}"
        chains.setdefault(key, []).append(row)
    for chain in chains.values():
        chain.sort(key=lambda row: row["timestamp"])
        pairs = itertools.pairwise(chain)
        made = [new for pair in pairs for new in sweeps_between(root, *pair, poses, tables)]
        chain.extend(made)
        chain.sort(key=lambda row: row["timestamp"])
        for row, following in zip(chain, [*chain[1:], {"token": ""}], strict=True):
            row["next"] = following["token"]
        for row, before in zip(chain, [{"token": ""}, *chain[:-1]], strict=True):
            row["prev"] = before["token"]
        tables["sample_data"].extend(made)
    save_tables(root, tables)


def sweeps_between(
    root: Path, row: dict[str, Any], later: dict[str, Any], poses: Any, tables: Tables
) -> Iterator[dict[str, Any]]:
    for number, scan in enumerate(SCANS, 1):
        part = scan / 10
        at_us = round(row["timestamp"] + part * (later["timestamp"] - row["timestamp"]))
        one, two = poses[row["ego_pose_token"]], poses[later["ego_pose_token"]]
        mix = {
            key: ((1 - part) * np.array(one[key]) + part * np.array(two[key])).tolist()
            for key in ("translation", "rotation")
        }
        token = f"{row['token']}-{number}"
        tables["ego_pose"].append({"token": token, "timestamp": at_us, **mix})
        filename = row["filename"].replace("samples/", "sweeps/").replace(".jpg", f"-{number}.jpg")
        (root / filename).parent.mkdir(parents=True, exist_ok=True)
        if filename.endswith(".jpg"):
            sweep = (root / row["filename"]).read_bytes() + f"sweep {number}".encode()
            (root / filename).write_bytes(sweep)
        yield row | {
            "token": token,
            "ego_pose_token": token,
            "timestamp": at_us,
            "filename": filename,
            "is_key_frame": False,
        }


def write_set(root: Path) -> None:
    """Two drives of ``KEYFRAMES`` keyframes with sweeps between them."""
    config = WorldConfig(
        train_drives=2, val_drives=1, drive_s=KEYFRAMES / 2, width_px=64, height_px=36, workers=1
    )
    write_world(config, root)
    add_sweeps(root)
