"""Our keyframes in Senna's layout: which questions are written, and the public command."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_nuscenes import (
    LIDAR_M,
    VERSION,
    add_scene,
    circle,
    fixed_tables,
    straight,
    write_tables,
)

from clkd_core.data.keyframes import AgentFuture, Keyframe, QuestionAnswer, Region
from clkd_core.data.senna.questions import PLAN_WORDS, build_questions
from clkd_core.data.senna.writing import (
    load_public_commands,
    merge_questions,
    survey_scenes,
    write_senna_json,
)
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS, EgoState, MetaAction, RouteCommand, Trajectory

CAR = AgentFuture(
    category="vehicle.car", size_m=(4.0, 2.0), poses=np.tile([9.0, 0.0, 0.0], (7, 1))
)
WEATHER = QuestionAnswer(kind="description", question="What is the weather?", answer="Rain.")
OTHER_PLAN = QuestionAnswer(
    kind="planning", question=f"Tell the {PLAN_WORDS}!", answer="KEEP, STRAIGHT"
)


def keyframe(token: str = "t", **changes: Any) -> Keyframe:
    fields = {
        "sample_token": token,
        "scene": "s",
        "case_name": "regular",
        "stamp_ns": int(token[1:] or 0),
        "image_paths": {c: Path(f"set/samples/{c}/{token}__{c}__1.jpg") for c in CAMERAS},
        "image_stamps_ns": dict.fromkeys(CAMERAS, 1000),
        "ego": EgoState(stamp_ns=0, speed_mps=8.0),
        "command": RouteCommand.STRAIGHT,
        "future": Trajectory(xy_m=np.float32([[4 * i, 0.5 * i] for i in range(1, 7)])),
        "action": MetaAction.from_text("KEEP, STRAIGHT"),
        "agents": (CAR,),
        "questions": (WEATHER,),
    }
    return Keyframe(**{**fields, **changes})


def written(tmp_path: Path, *keyframes: Keyframe, **options: Any) -> list[dict[str, Any]]:
    write_senna_json(keyframes, tmp_path / "qa.json", **options)
    records: list[dict[str, Any]] = json.loads((tmp_path / "qa.json").read_text())
    return records


def question_of(record: dict[str, Any]) -> str:
    return str(record["conversations"][0]["value"])


def test_every_question_is_a_record_and_the_plan_comes_first(tmp_path: Path) -> None:
    records = written(tmp_path, keyframe())
    assert [r["kind"] for r in records] == ["planning", "perception", "prediction", "description"]
    assert PLAN_WORDS in question_of(records[0])
    assert records[0]["conversations"][1]["value"] == "KEEP, STRAIGHT\n"
    assert records[3]["conversations"][1]["value"] == "Rain."
    assert {r["token"] for r in records} == {"t"}


def test_future_is_written_in_lidar_axes(tmp_path: Path) -> None:
    own = written(tmp_path, keyframe())[0]
    assert json.loads(own["ego_fut_trajs"])[:4] == [-0.5, 4.0, -1.0, 8.0]
    measured = np.array([[0.1 * i, 3.9 * i] for i in range(1, 7)])
    seen = written(tmp_path, keyframe(lidar_future=measured))[0]
    assert json.loads(seen["ego_fut_trajs"]) == measured.reshape(-1).tolist()


def test_keyframe_without_future_is_written_without_plan(tmp_path: Path) -> None:
    records = written(tmp_path, keyframe(future=None, action=None))
    assert not any(PLAN_WORDS in question_of(record) for record in records)
    assert {r["fut_valid_flag"] for r in records} == {"False"}
    assert {r["ego_fut_trajs"] for r in records} == {"[]"}


def test_neighbours_are_those_of_the_scene_in_the_order_of_time(tmp_path: Path) -> None:
    frames = [keyframe("t2"), keyframe("t1"), keyframe("t3"), keyframe("t9", scene="other")]
    chains = {r["token"]: (r["prev"], r["next"]) for r in written(tmp_path, *frames)}
    assert chains == {"t1": ("", "t2"), "t2": ("t1", "t3"), "t3": ("t2", ""), "t9": ("", "")}


def test_what_the_trainer_cannot_read_is_left_out_and_counted(tmp_path: Path) -> None:
    five = {c: p for c, p in keyframe().image_paths.items() if c != "CAM_BACK"}
    nameless = {c: Path(f"set/{i}.jpg") for i, c in enumerate(CAMERAS)}
    swapped = dict(keyframe().image_paths, CAM_FRONT=Path("set/CAM_BACK/x.jpg"))
    counts = write_senna_json(
        [
            keyframe("t1"),
            keyframe("t2", image_paths=five),
            keyframe("t3", image_paths=nameless),
            keyframe("t4", image_paths=swapped),
            keyframe("t5", region=Region(camera="CAM_BACK", box_xywh_px=(0, 0, 1, 1))),
        ],
        tmp_path / "qa.json",
    )
    assert (counts.keyframes, counts.plans, counts.records) == (1, 1, 4)
    assert counts.left_out == {
        "without all six views": 1,
        "whose pictures' paths do not name their cameras": 2,
        "about a region of a view": 1,
    }


def test_nothing_to_write_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "qa.json").write_text("old")
    with pytest.raises(DataError, match="2 without all six views"):
        write_senna_json([keyframe(image_paths={})] * 2, tmp_path / "qa.json")
    assert (tmp_path / "qa.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["qa.json"]


def test_scene_that_nobody_annotated_is_not_said_to_be_empty(tmp_path: Path) -> None:
    frames = [keyframe("t1", agents=()), keyframe("t2", scene="other", agents=())]
    frames.append(keyframe("t3", scene="other"))
    kinds: dict[str, list[str]] = {}
    for record in written(tmp_path, *frames):
        kinds.setdefault(record["token"], []).append(record["kind"])
    assert kinds["t1"] == ["planning", "description"]
    assert kinds["t2"] == ["planning", "perception", "description"]


def test_question_that_the_set_has_already_is_not_asked_twice() -> None:
    once = merge_questions(keyframe(), agents_known=True)
    assert merge_questions(keyframe(questions=once), agents_known=True) == once
    assert once == (*build_questions(keyframe()), WEATHER)


def test_plan_of_somebody_else_stays_the_only_one() -> None:
    asked = merge_questions(keyframe(questions=(OTHER_PLAN,)), agents_known=True)
    assert [q for q in asked if PLAN_WORDS in q.question] == [OTHER_PLAN]


def test_survey_looks_past_what_is_about_a_region() -> None:
    region = Region(camera="CAM_BACK", box_xywh_px=(0, 0, 1, 1))
    survey = survey_scenes([keyframe("t1"), keyframe("t2", region=region, scene="r")])
    assert survey.annotated == {"s"}
    assert survey.neighbours == {"t1": ("", "")}


def test_public_command_stands_in_the_plan_and_views_are_named_as_in_public(
    tmp_path: Path,
) -> None:
    commands = {"t": RouteCommand.LEFT}
    had = keyframe(questions=build_questions(keyframe()))
    plans = [
        question_of(r)
        for r in written(tmp_path, had, public_commands=commands)
        if PLAN_WORDS in question_of(r)
    ]
    assert len(plans) == 1
    assert "'turn left'" in plans[0] and "'go straight'" not in plans[0]
    assert plans[0].startswith("<FRONT VIEW>:\n<image>\n<FRONT LEFT VIEW>")
    assert question_of(written(tmp_path, had)[0]).startswith(
        "<FRONT VIEW>:\n<image>\n<FRONT RIGHT VIEW>"
    )


def test_keyframe_without_a_public_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sample 't' is not in the tables"):
        written(tmp_path, keyframe(), public_commands={})


def slow_public_command(
    pose_at: Callable[[float], Sequence[float]], now_s: float, to_s: float
) -> str:
    """The converter's rule in words, from where the LIDAR is now and then."""
    (x, y, yaw), (x2, y2, yaw2) = pose_at(now_s), pose_at(to_s)
    mount_m = LIDAR_M[0]
    gone_x = x2 + mount_m * math.cos(yaw2) - x - mount_m * math.cos(yaw)
    gone_y = y2 + mount_m * math.sin(yaw2) - y - mount_m * math.sin(yaw)
    forward = math.cos(yaw) * gone_x + math.sin(yaw) * gone_y
    right = math.sin(yaw) * gone_x - math.cos(yaw) * gone_y
    if abs(forward) < 10:
        return "go straight"
    straight = "go straight and " if right >= 20 else ""
    return straight + ("turn left" if forward >= 10 else "turn right")


def test_public_commands_of_a_set_agree_with_the_slow_rule(tmp_path: Path) -> None:
    pytest.importorskip("nuscenes", reason="nuscenes-devkit is not installed")
    drives = {
        "straight": straight(9.0),
        "slow": straight(1.0),
        "back": straight(-9.0),
        "left": circle(9.0, 20.0, yaw=1.0),
        "right": circle(9.0, -20.0, yaw=2.0),
        "wide": circle(9.0, -35.0),
    }
    tables = fixed_tables()
    for name, pose_at in drives.items():
        add_scene(tables, name, 16, pose_at)
    write_tables(tmp_path, tables)
    commands = load_public_commands(tmp_path, VERSION)
    assert len(commands) == 16 * len(drives)
    for token, command in commands.items():
        name, _, number = token.rpartition("-")
        i = int(number)
        wanted = slow_public_command(drives[name], 0.5 * i, 0.5 * min(i + 12, 15))
        assert command.value == wanted, token
    assert commands["straight-00"] == RouteCommand.LEFT
    assert commands["back-00"] == RouteCommand.RIGHT
    assert RouteCommand.STRAIGHT_LEFT in commands.values()
    assert commands["straight-15"] == RouteCommand.STRAIGHT


def test_set_without_tables_has_no_public_commands(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no tables of nuScenes"):
        load_public_commands(tmp_path, "v1")


def test_label_of_a_written_plan_is_the_keyframes_own(tmp_path: Path) -> None:
    stop = replace(keyframe(), action=MetaAction.from_text("STOP, STRAIGHT"))
    assert written(tmp_path, stop)[0]["conversations"][1]["value"] == "STOP, STRAIGHT\n"
