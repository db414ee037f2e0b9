"""Write a set: drives in parallel, each once; the set appears at its place when complete.

Work goes on in a folder beside the set. A drive is finished when its own JSON file is there, so
an interrupted run goes on where it was; another config, or another version of this file's
format, starts afresh.
"""

import json
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from clkd_core.config import config_to_dict, save_config
from clkd_core.data.keyframes import Keyframe
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json, load_keyframes, write_sidecar
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
    region_token,
    sample_token,
)
from clkd_core.data.world.workers import worker_pool
from clkd_core.errors import DataError
from clkd_core.files import replace_folder, write_bytes_atomic, write_text_atomic
from clkd_core.progress import progress

_FORMAT = 2
"""Raised when a change makes unfinished work of earlier versions unusable."""
_KEY_NS = 500_000_000


@dataclass(frozen=True)
class Spent:
    """What one drive took."""

    begin_s: float
    """On the machine's monotonic clock."""
    end_s: float
    cpu_s: float
    """Time on a core."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What was rendered, and how fast; drives that an interrupted run had finished not counted."""

    keyframes: int
    """Six views each."""
    took_s: float
    """From the first drive's beginning to the last one's end."""
    cpu_s: float
    """Time on cores, of all workers together."""
    workers: int
    """Processes that rendered."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A set that is complete."""

    drives: tuple[DriveSpec, ...]
    rendered: Rendered


def write_world(config: WorldConfig, out: Path) -> Written:
    """Make a whole set at ``out``; what stood there is replaced when the new one is complete.

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
    rendered = render_drives(specs, config, work)
    _write_tables(specs, config, work)
    save_config(config, work / "world.yaml")
    write_overview(load_keyframes(work, config.version, "train"), work / "overview.jpg")
    with replace_folder(out) as fresh:
        for child in work.iterdir():
            if child.name not in ("drives", "work.json"):
                os.rename(child, fresh / child.name)
    shutil.rmtree(work, ignore_errors=True)
    return Written(drives=tuple(specs), rendered=rendered)


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


def render_drives(specs: Sequence[DriveSpec], config: WorldConfig, work: Path) -> Rendered:
    """Render the drives that are not finished yet, one per task, on all cores asked for."""
    todo = [s for s in specs if not _done_file(work, s.name).is_file()]
    workers = max(1, min(config.workers or os.cpu_count() or 1, len(todo)))
    if workers == 1:
        shown = progress(todo, desc="world", unit="drives")
        spent = [write_drive(spec, config, work) for spec in shown]
    else:
        spent = _render_at_once(todo, config, work, workers)
    return Rendered(
        keyframes=len(todo) * round(config.drive_s * 1e9 / _KEY_NS),
        took_s=max((s.end_s for s in spent), default=0)
        - min((s.begin_s for s in spent), default=0),
        cpu_s=sum(s.cpu_s for s in spent),
        workers=workers,
    )


def _render_at_once(
    specs: Sequence[DriveSpec], config: WorldConfig, work: Path, workers: int
) -> list[Spent]:
    try:
        with worker_pool(workers) as pool:
            tasks = [pool.submit(write_drive, spec, config, work) for spec in specs]
            done = progress(as_completed(tasks), total=len(specs), desc="world", unit="drives")
            return [task.result() for task in done]
    except BrokenProcessPool as err:
        raise DataError("a rendering process was killed; workers=1 needs least memory") from err


def write_drive(spec: DriveSpec, config: WorldConfig, work: Path) -> Spent:
    """Render one drive's keyframes and leave its rows in ``drives/<name>.json``."""
    begin_s, begin_cpu_s = time.monotonic(), time.process_time()
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
    keyframes = [
        keyframe_to_json(keyframe, split=spec.split, root=work)
        for frame in frames
        for keyframe in keyframes_of(frame, work)
    ]
    rows = {"tables": drive_tables(drive, frames), "keyframes": keyframes}
    write_text_atomic(_done_file(work, spec.name), json.dumps(rows))
    return Spent(begin_s, time.monotonic(), time.process_time() - begin_cpu_s)


def _done_file(work: Path, name: str) -> Path:
    return work / "drives" / f"{name}.json"


def keyframes_of(frame: WorldFrame, root: Path) -> list[Keyframe]:
    """The keyframe, and in corner cases its twin with questions about a part of a view.

    The twin has a token of its own and no plan: neither a future nor an action, so that whatever
    learns or scores plans counts the instant once.
    """
    whole = Keyframe(
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
        history=frame.history,
    )
    if frame.about is None:
        return [whole]
    twin = replace(
        whole,
        sample_token=region_token(frame),
        future=None,
        action=None,
        agents=(),
        history=None,
        questions=frame.about.questions,
        region=frame.about.region,
    )
    return [whole, twin]


def _write_tables(specs: Sequence[DriveSpec], config: WorldConfig, work: Path) -> None:
    parts = [json.loads(_done_file(work, spec.name).read_text()) for spec in specs]
    folder = work / config.version
    tables = merged([fixed_tables(config), *(part["tables"] for part in parts)])
    for name, rows in tables.items():
        write_text_atomic(folder / f"{name}.json", json.dumps(rows))
    write_sidecar(folder / SIDECAR, (k for part in parts for k in part["keyframes"]))
