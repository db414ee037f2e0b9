"""Write a set: drives in parallel, each once; the set appears at its place when complete.

Work goes on in a folder beside the set. A drive is finished when its own JSON file is there, so
an interrupted run goes on where it was; another config, or another version of this file's
format, starts afresh.
"""

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np

from clkd_core.config import config_to_dict, save_config
from clkd_core.data.keyframes import Keyframe
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json, load_keyframes
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.frames import WorldFrame, render_frame
from clkd_core.data.world.overview import write_overview
from clkd_core.data.world.render.ground import draw_map_mask
from clkd_core.data.world.render.renderer import DriveRenderer
from clkd_core.data.world.scene.build import build_drive, build_layout
from clkd_core.data.world.scene.script import SPLITS, DriveSpec, plan_drives
from clkd_core.data.world.tables import (
    LIDAR_STUB,
    drive_tables,
    fixed_tables,
    image_name,
    map_name,
    merged,
    sample_token,
)
from clkd_core.data.world.workers import worker_pool
from clkd_core.errors import DataError
from clkd_core.files import replace_folder, write_bytes_atomic, write_text_atomic
from clkd_core.progress import progress

_FORMAT = 1
"""Raised when a change makes unfinished work of earlier versions unusable."""
_KEY_NS = 500_000_000


def write_world(config: WorldConfig, out: Path) -> list[DriveSpec]:
    """Make a whole set at ``out``; what stood there is replaced when the new one is complete.

    Returns:
        the drives written.

    Raises:
        DataError: the folder cannot be written or holds something else than a world set, or
            validation would repeat a training layout.
    """
    _refuse_other_folders(out)
    refuse_repeated_layouts(config)
    specs = plan_drives(config, "train")
    if config.val_on_disk:
        specs += plan_drives(config, "val")
    work = prepare_work_folder(config, out)
    render_drives(specs, config, work)
    _write_tables(specs, config, work)
    save_config(config, work / "world.yaml")
    write_overview(load_keyframes(work, config.version, "train"), work / "overview.jpg")
    with replace_folder(out) as fresh:
        for child in work.iterdir():
            if child.name not in ("drives", "work.json"):
                os.rename(child, fresh / child.name)
    shutil.rmtree(work, ignore_errors=True)
    return specs


def _refuse_other_folders(out: Path) -> None:
    """A set is only ever replaced by a set: never a folder that somebody else filled."""
    if out.is_file():
        raise DataError(f"{out} is a file, expected a folder or nothing")
    if out.is_dir() and any(out.iterdir()) and not any(out.glob(f"*/{SIDECAR}")):
        raise DataError(f"{out} holds files but no world set, expected a set or an empty folder")


def refuse_repeated_layouts(config: WorldConfig) -> None:
    """Check that no two splits share a road layout.

    Raises:
        DataError: they do; another seed helps.
    """
    digests = {s: {build_layout(d).digest() for d in plan_drives(config, s)} for s in SPLITS}
    repeated = digests["train"] & digests["val"]
    if repeated:
        raise DataError(f"seed {config.seed}: {len(repeated)} layouts are in both splits")


def work_folder(out: Path) -> Path:
    """Where a set grows before it is complete."""
    return out.parent / f".{out.name}.growing"


def prepare_work_folder(config: WorldConfig, out: Path) -> Path:
    """The folder of unfinished work, emptied unless it was begun with the same config."""
    work = work_folder(out)
    values = {k: v for k, v in config_to_dict(config).items() if k != "workers"}
    stamp = json.dumps({"format": _FORMAT, "config": values}, sort_keys=True)
    mark = work / "work.json"
    try:
        if not mark.is_file() or mark.read_text() != stamp:
            shutil.rmtree(work, ignore_errors=True)
        for name in ("drives", "maps", "samples/LIDAR_TOP"):
            (work / name).mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(f"cannot write {work}: {err.strerror or err}") from err
    write_text_atomic(mark, stamp)
    write_bytes_atomic(work / LIDAR_STUB, np.zeros(5, np.float32).tobytes())
    return work


def render_drives(specs: Sequence[DriveSpec], config: WorldConfig, work: Path) -> None:
    """Render the drives that are not finished yet, one per task, on all cores asked for."""
    todo = [s for s in specs if not _done_file(work, s.name).is_file()]
    workers = min(config.workers or os.cpu_count() or 1, len(todo))
    if workers <= 1:
        for spec in progress(todo, desc="world", unit="drives"):
            write_drive(spec, config, work)
        return
    try:
        with worker_pool(workers) as pool:
            tasks = [pool.submit(write_drive, spec, config, work) for spec in todo]
            done = progress(as_completed(tasks), total=len(todo), desc="world", unit="drives")
            for task in done:
                task.result()
    except BrokenProcessPool as err:
        raise DataError("a rendering process was killed; workers=1 needs least memory") from err


def write_drive(spec: DriveSpec, config: WorldConfig, work: Path) -> None:
    """Render one drive's keyframes and leave its rows in ``drives/<name>.json``."""
    drive = build_drive(spec, config)
    renderer = DriveRenderer(drive)
    frames = []
    for i in range(len(drive.key_times_s)):
        frame = render_frame(drive, renderer, i * _KEY_NS)
        for camera, encoded in frame.images.items():
            path = work / image_name(frame, camera)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded)
        frames.append(frame)
    cv2.imwrite(str(work / map_name(spec.name)), draw_map_mask(drive.layout))
    keyframes = [keyframe_to_json(_keyframe(f, work), split=spec.split, root=work) for f in frames]
    rows = {"tables": drive_tables(drive, frames), "keyframes": keyframes}
    write_text_atomic(_done_file(work, spec.name), json.dumps(rows))


def _done_file(work: Path, name: str) -> Path:
    return work / "drives" / f"{name}.json"


def _keyframe(frame: WorldFrame, root: Path) -> Keyframe:
    return Keyframe(
        sample_token=sample_token(frame),
        scene=frame.scene,
        case_name=frame.case_name,
        stamp_ns=frame.stamp_ns,
        image_paths={camera: root / image_name(frame, camera) for camera in frame.images},
        image_stamps_ns=frame.image_stamps_ns,
        ego=frame.ego,
        command=frame.command,
        future=frame.future,
        action=frame.action,
        agents=frame.agents,
        questions=frame.questions,
    )


def _write_tables(specs: Sequence[DriveSpec], config: WorldConfig, work: Path) -> None:
    parts = [json.loads(_done_file(work, spec.name).read_text()) for spec in specs]
    folder = work / config.version
    tables = merged([fixed_tables(config), *(part["tables"] for part in parts)])
    for name, rows in tables.items():
        write_text_atomic(folder / f"{name}.json", json.dumps(rows))
    lines = [json.dumps(k) for part in parts for k in part["keyframes"]]
    write_text_atomic(folder / SIDECAR, "\n".join(lines) + "\n")
