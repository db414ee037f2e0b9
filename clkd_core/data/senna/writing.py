"""Our keyframes in Senna's layout, one record per question, for its trainer and evaluation."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from clkd_core.data.keyframes import Keyframe, QuestionAnswer
from clkd_core.data.labels import lidar_from_ego, route_command_from_pose
from clkd_core.data.senna.layout import (
    IMAGE_ORDER,
    SennaRecord,
    camera_of,
    record_to_json,
)
from clkd_core.data.senna.questions import PLAN_WORDS, build_questions
from clkd_core.errors import DataError
from clkd_core.files import write_text_atomic
from clkd_core.progress import progress
from clkd_core.types import RouteCommand

_COMMAND_STEPS = 12
"""Keyframes ahead of the pose that the navigation command follows from: 6 s."""


@dataclass
class ExportCounts:
    """What a file holds and what did not get into it."""

    keyframes: int = 0
    records: int = 0
    plans: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Keyframes by the reason why they have no record."""


def write_senna_json(
    keyframes: Sequence[Keyframe],
    out: Path,
    *,
    public_commands: Mapping[str, RouteCommand] | None = None,
) -> ExportCounts:
    """Write the questions of a set and those that a rule adds, plan first.

    The trainer puts six pictures into every question, so keyframes without all six views are left
    out, and so are those about a region, whose red box is in no file. Picture paths are written as
    the keyframes have them: the trainer opens them from the folder it runs in.

    Args:
        keyframes: of one split.
        out: the JSON file; one that is there goes when the new one is complete.
        public_commands: navigation commands as the public converter says them, by sample token
            (see :func:`load_public_commands`); views are then named as it names them too.

    Raises:
        DataError: no keyframe has a record, a command is missing, or the file cannot be written.
    """
    counts = ExportCounts()
    lines = [
        json.dumps(record_to_json(record, names_follow_images=public_commands is None))
        for record in _records(keyframes, counts, public_commands)
    ]
    if not lines:
        reasons = ", ".join(f"{n} {reason}" for reason, n in counts.left_out.items())
        raise DataError(f"no keyframe can be written in Senna's layout: {reasons}")
    write_text_atomic(out, "[\n" + ",\n".join(lines) + "\n]\n")
    return counts


def load_public_commands(root: Path, version: str) -> dict[str, RouteCommand]:
    """Every sample's navigation command as the public converter says it, by sample token.

    From the LIDAR's way to the keyframe 12 ahead, or to the scene's last one, with the converter's
    mistaken axes.

    Args:
        root: of a set with nuScenes' tables.
        version: their folder.

    Raises:
        ConfigError: nuscenes-devkit is not installed.
        DataError: there are no such tables, or they are damaged.
    """
    from clkd_core.data.nuscenes.devkit import has_tables, open_nuscenes
    from clkd_core.data.nuscenes.scene_rows import collect_scene

    if not has_tables(root, version):
        raise DataError(
            f"{root / version} has no tables of nuScenes, expected them: the public converter's "
            "navigation command follows from where the LIDAR is 6 s later"
        )
    nusc = open_nuscenes(root, version)
    commands: dict[str, RouteCommand] = {}
    for scene in progress(nusc.scene, desc="navigation commands", unit="scenes"):
        rows = collect_scene(nusc, scene)
        lidar = rows.world_from_ego @ rows.ego_from_lidar
        for i, token in enumerate(rows.tokens):
            goal = lidar[min(i + _COMMAND_STEPS, len(lidar) - 1), :3, 3]
            right, forward, _ = ((goal - lidar[i, :3, 3]) @ lidar[i, :3, :3]).tolist()
            commands[token] = route_command_from_pose(forward, -right, senna_compat=True)
    return commands


@dataclass
class SceneSurvey:
    """What has to be known of all keyframes before the first is written."""

    annotated: set[str] = field(default_factory=set)
    """Scenes in which somebody annotated agents: elsewhere no agents means nobody looked."""
    neighbours: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Tokens before and after each keyframe in its scene, in the order of time; empty at ends."""


def survey_scenes(keyframes: Sequence[Keyframe]) -> SceneSurvey:
    """Look through all keyframes once; those about a region are no instants of their own."""
    survey, drives = SceneSurvey(), dict[str, list[tuple[int, str]]]()
    for keyframe in progress(keyframes, desc="look for agents", unit="keyframes"):
        if keyframe.region is not None:
            continue
        if keyframe.agents:
            survey.annotated.add(keyframe.scene)
        drives.setdefault(keyframe.scene, []).append((keyframe.stamp_ns, keyframe.sample_token))
    for drive in drives.values():
        tokens = ["", *(token for _, token in sorted(drive)), ""]
        for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
            survey.neighbours[token] = (before, after)
    return survey


def merge_questions(keyframe: Keyframe, *, agents_known: bool) -> tuple[QuestionAnswer, ...]:
    """What a rule asks, then what the set asks besides; a plan of somebody else's stays alone."""
    built = build_questions(keyframe, agents_known=agents_known)
    return _beside(built, [asked for asked in keyframe.questions if asked not in built])


def _beside(
    built: Sequence[QuestionAnswer], others: Sequence[QuestionAnswer]
) -> tuple[QuestionAnswer, ...]:
    if any(PLAN_WORDS in asked.question for asked in others):
        built = [asked for asked in built if PLAN_WORDS not in asked.question]
    return (*built, *others)


def _records(
    keyframes: Sequence[Keyframe],
    counts: ExportCounts,
    commands: Mapping[str, RouteCommand] | None,
) -> Iterator[SennaRecord]:
    survey = survey_scenes(keyframes)
    for keyframe in progress(keyframes, desc="write questions", unit="keyframes"):
        reason = _unfit(keyframe)
        if reason is not None:
            counts.left_out[reason] += 1
            continue
        counts.keyframes += 1
        for asked in _questions(keyframe, keyframe.scene in survey.annotated, commands):
            counts.records += 1
            counts.plans += PLAN_WORDS in asked.question
            yield _record(keyframe, asked, *survey.neighbours[keyframe.sample_token])


def _unfit(keyframe: Keyframe) -> str | None:
    if keyframe.region is not None:
        return "about a region of a view"
    if set(IMAGE_ORDER) - set(keyframe.image_paths):
        return "without all six views"
    try:
        named = {camera: camera_of(str(p)) for camera, p in keyframe.image_paths.items()}
    except ValueError:
        named = {}
    if any(named.get(camera) != camera for camera in IMAGE_ORDER):
        return "whose pictures' paths do not name their cameras"
    return None


def _questions(
    keyframe: Keyframe, agents_known: bool, commands: Mapping[str, RouteCommand] | None
) -> tuple[QuestionAnswer, ...]:
    if commands is None:
        return merge_questions(keyframe, agents_known=agents_known)
    if keyframe.sample_token not in commands:
        raise DataError(f"sample {keyframe.sample_token!r} is not in the tables of nuScenes")
    own = build_questions(keyframe, agents_known=agents_known)
    public = replace(keyframe, command=commands[keyframe.sample_token])
    built = build_questions(public, agents_known=agents_known)
    return _beside(built, [asked for asked in keyframe.questions if asked not in own])


def _record(keyframe: Keyframe, asked: QuestionAnswer, before: str, after: str) -> SennaRecord:
    future = keyframe.lidar_future
    if future is None and keyframe.future is not None:
        future = lidar_from_ego(keyframe.future.xy_m)
    is_plan = PLAN_WORDS in asked.question
    return SennaRecord(
        token=keyframe.sample_token,
        scene=keyframe.scene,
        images={camera: str(path) for camera, path in keyframe.image_paths.items()},
        turns=((asked.question, asked.answer + "\n" if is_plan else asked.answer),),
        kind=asked.kind,
        case_name=keyframe.case_name,
        before=before,
        after=after,
        lidar_future=future,
    )
