"""Samples gathered from Senna's records: labels, speeds and commands recovered, pictures found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.data.labels import meta_action_from_future
from clkd_core.data.senna.layout import SennaRecord
from clkd_core.data.senna.reading import (
    PictureFolder,
    build_keyframe,
    count_samples,
    load_samples,
)
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS, RouteCommand

PLAN = "At 7 m/s, the command is 'turn left': which SPEED plan?"
STRAIGHT_ON = np.stack([np.zeros(6), 4.0 * np.arange(1, 7)], axis=1)
IMAGES = {c: f"d/samples/{c}/n__{c}__15331516035{i:05}.jpg" for i, c in enumerate(CAMERAS)}


def record(*turns: tuple[str, str], token: str = "t", **changes: Any) -> SennaRecord:
    fields = {"token": token, "scene": "s", "images": IMAGES, "lidar_future": STRAIGHT_ON}
    return SennaRecord(turns=turns, **{**fields, **changes})


def samples(*records: SennaRecord) -> Any:
    return load_samples((f"qa.json: record {i}", r) for i, r in enumerate(records, 1))


def only_keyframe(*records: SennaRecord, paths: Mapping[str, Path] | None = None) -> Any:
    (sample,) = samples(*records).samples.values()
    return build_keyframe(sample, paths or {c: Path(name) for c, name in IMAGES.items()})


def test_plan_becomes_label_speed_and_command() -> None:
    keyframe = only_keyframe(record((PLAN, "KEEP, STRAIGHT\n")))
    assert keyframe.action.text == "KEEP, STRAIGHT"
    assert (keyframe.ego.speed_mps, keyframe.command) == (7.0, RouteCommand.LEFT)
    assert keyframe.questions[0].kind == "planning"
    assert keyframe.questions[0].answer == "KEEP, STRAIGHT"
    assert keyframe.is_corner is False and keyframe.agents == () and keyframe.history is None


def test_future_is_turned_into_the_ego_frame_and_kept_as_the_lidar_saw_it() -> None:
    future = np.array([[1.0, 2.0 * i] for i in range(1, 7)])
    keyframe = only_keyframe(record(("Who?", "Nobody."), lidar_future=future))
    assert keyframe.future.xy_m.tolist() == [[2.0 * i, -1.0] for i in range(1, 7)]
    assert keyframe.lidar_future.tolist() == future.tolist()
    assert keyframe.action == meta_action_from_future(future)


def test_stamp_is_the_newest_picture_that_is_there() -> None:
    keyframe = only_keyframe(record(("Who?", "Nobody.")))
    assert keyframe.stamp_ns == 1533151603500005_000 == keyframe.image_stamps_ns["CAM_BACK"]
    fewer = only_keyframe(record(("Who?", "Nobody.")), paths={"CAM_FRONT": Path("x")})
    assert fewer.stamp_ns == 1533151603500000_000


def test_descriptions_and_explanations_are_kept_as_questions_in_their_order() -> None:
    keyframe = only_keyframe(
        record(("Make a description.", "A wide road.")),
        record(("A traffic light?", "Red")),
        record((PLAN, "KEEP, STRAIGHT")),
        record(("At 7 m/s, command 'turn left', you keep on; explain it.", "It is free.")),
    )
    kinds = [question.kind for question in keyframe.questions]
    assert kinds == ["description", "perception", "planning", "planning"]
    assert keyframe.questions[0].answer == "A wide road."


def test_speed_and_command_come_from_an_explanation_too() -> None:
    asked = record(("At 3 m/s, command 'go straight', you stop; explain it.", "A wall."))
    keyframe = only_keyframe(asked)
    assert (keyframe.ego.speed_mps, keyframe.command) == (3.0, RouteCommand.STRAIGHT)


def test_speeds_of_others_are_not_taken_for_ours() -> None:
    keyframe = only_keyframe(record(("A car at 12 m/s; predict what it does.", "KEEP, STRAIGHT")))
    assert keyframe.ego is None and keyframe.command is None


def test_kind_and_case_that_the_record_names_win() -> None:
    keyframe = only_keyframe(record(("Why?", "Fog."), kind="suggestion", case_name="fog"))
    assert keyframe.questions[0].kind == "suggestion"
    assert keyframe.is_corner


@pytest.mark.parametrize(
    ("future", "answer", "field"),
    [
        (STRAIGHT_ON, "KEEP, STRAIGHT", "labelled"),
        (STRAIGHT_ON, "STOP, STRAIGHT", "contradicted"),
        (None, "KEEP, STRAIGHT", "without_future"),
    ],
)
def test_plan_is_a_label_only_where_it_follows_from_its_future(
    future: Any, answer: str, field: str
) -> None:
    asked = record((PLAN, answer), lidar_future=future)
    counts = count_samples(samples(asked))
    named = {n: getattr(counts, n) for n in ("labelled", "contradicted", "without_future")}
    assert named == {name: int(name == field) for name in named}
    keyframe = only_keyframe(asked)
    assert (keyframe.action is not None) == (field == "labelled")
    assert (keyframe.future is None) == (keyframe.action is None)
    assert keyframe.questions[0].answer == answer
    assert keyframe.ego.speed_mps == 7.0


def test_sample_without_plan_and_future_is_unlabelled_and_no_fault() -> None:
    counts = count_samples(samples(record(("Who?", "Nobody."), lidar_future=None)))
    assert (counts.labelled, counts.contradicted, counts.without_future) == (0, 0, 0)


def test_question_that_comes_twice_is_counted_and_taken_once() -> None:
    file = samples(record(("Who?", "Nobody.")), record(("Who?", "Nobody. ")))
    counts = count_samples(file)
    assert (counts.repeated, counts.kinds) == (1, {"general": 1})


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (record(("Who?", "A."), scene="other"), "scene of sample 't'"),
        (record(("Who?", "A."), images={"CAM_BACK": IMAGES["CAM_BACK"]}), "images of sample 't'"),
        (record(("Who?", "A."), case_name="fog"), "case_name of sample 't'"),
        (record(("Who?", "A."), lidar_future=None), "ego_fut_trajs of sample 't'"),
        (record(("Who?", "A."), lidar_future=STRAIGHT_ON + 1), "ego_fut_trajs of sample 't'"),
        (record((PLAN + " Really?", "STOP, STRAIGHT")), "second, other plan"),
        (record((PLAN, "go on")), "meta-action text is 'go on'"),
        (record((PLAN.replace("7", "8"), "KEEP, STRAIGHT")), "speed_mps of sample 't' is 8"),
        (record((PLAN.replace("left", "right"), "KEEP, STRAIGHT")), "in another question it is"),
    ],
)
def test_record_that_says_something_else_of_its_sample_is_refused(
    second: SennaRecord, message: str
) -> None:
    with pytest.raises(DataError, match=r"qa\.json: record 2: .*" + message):
        samples(record((PLAN, "KEEP, STRAIGHT")), second)


@pytest.mark.parametrize("name", ["CAM_FRONT/a.jpg", "CAM_FRONT/a__99999999999999999.jpg"])
def test_picture_without_capture_time_is_refused(name: str) -> None:
    asked = record(("Who?", "A."), images={"CAM_FRONT": name})
    with pytest.raises(DataError, match="no capture time"):
        only_keyframe(asked, paths={"CAM_FRONT": Path(name)})


turns = st.tuples(
    st.text(max_size=20) | st.sampled_from([PLAN, "explain", "7 m/s 'go straight'", "SPEED plan"]),
    st.text(max_size=10) | st.sampled_from(["KEEP, STRAIGHT", "STOP, STRAIGHT\n"]),
)


@settings(max_examples=150, deadline=None)
@given(asked=st.lists(st.lists(turns, min_size=1, max_size=3), min_size=1, max_size=5))
def test_any_questions_make_keyframes_or_a_data_error(asked: list[list[tuple[str, str]]]) -> None:
    try:
        file = samples(*(record(*turns) for turns in asked))
    except DataError:
        return
    (sample,) = file.samples.values()
    keyframe = build_keyframe(sample, {"CAM_BACK": Path("x")})
    assert len(keyframe.questions) + file.repeated == sum(map(len, asked))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place in ("set/samples/CAM_FRONT/a.jpg", "secret/CAM_FRONT/s.jpg"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(b"jpeg")
    (tmp_path / "set/samples/CAM_FRONT/empty.jpg").touch()
    (tmp_path / "set/loose.jpg").write_bytes(b"jpeg")
    return tmp_path / "set"


@pytest.mark.parametrize(
    "name",
    [
        "samples/CAM_FRONT/a.jpg",
        "./data/nuscenes/samples/CAM_FRONT/a.jpg",
        "../data/nuscenes/samples/CAM_FRONT/a.jpg",
        "/elsewhere/nuscenes//samples/CAM_FRONT/a.jpg",
        "CAM_FRONT/samples/CAM_FRONT/a.jpg",
    ],
)
def test_picture_is_found_below_the_folder_whatever_root_it_was_written_with(
    folder: Path, name: str
) -> None:
    found = PictureFolder(folder).find(name, "CAM_FRONT", "here")
    assert str(found) == "samples/CAM_FRONT/a.jpg"


@pytest.mark.parametrize(
    "name",
    [
        "samples/CAM_FRONT/other.jpg",
        "samples/CAM_FRONT/empty.jpg",
        "samples/CAM_FRONT",
        "../secret/CAM_FRONT/s.jpg",
        "CAM_FRONT/loose.jpg",
        "CAM_FRONT/" + "x/" * 1500 + "a.jpg",
    ],
)
def test_picture_that_is_not_below_the_folder_is_not_found(folder: Path, name: str) -> None:
    assert PictureFolder(folder).find(name, "CAM_FRONT", "here") is None


def test_absolute_path_outside_of_the_folder_is_not_found(folder: Path) -> None:
    secret = str(folder.parent / "secret/CAM_FRONT/s.jpg")
    assert PictureFolder(folder).find(secret, "CAM_FRONT", "here") is None


@pytest.mark.parametrize("name", ["samples/../../secret/CAM_FRONT/s.jpg", "CAM_FRONT/\0.jpg"])
def test_path_that_climbs_out_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"here: picture .* leaves its folder"):
        PictureFolder(folder).find(name, "CAM_FRONT", "here")


def test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        PictureFolder(tmp_path / "nothing")


@settings(max_examples=100, deadline=None)
@given(name=st.text(max_size=30) | st.text(alphabet="./CAM_FRONT\0", max_size=40))
def test_any_path_stays_below_the_folder(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp()
    try:
        found = PictureFolder(root).find(name, "CAM_FRONT", "here")
    except DataError:
        return
    assert found is None or (root / found).resolve().is_relative_to(root.resolve())
