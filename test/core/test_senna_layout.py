"""Records of Senna's JSON: what is read, what is refused, and what its own tools would read."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clkd_core.data.senna.layout import (
    IMAGE_ORDER,
    SennaRecord,
    camera_of,
    kind_of,
    read_records,
    record_from_json,
    record_to_json,
)
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS

VIEWS = "".join(
    f"<{camera[4:].replace('_', ' ')} VIEW>:\n<image>\n" for camera in CAMERAS
)  # as the public converter names them
FUTURE = [float(v) for v in np.arange(12) / 4]


def picture(camera: str) -> str:
    return f"./data/nuscenes/samples/{camera}/n015__{camera}__1533151603512404.jpg"


def public_record(**changes: Any) -> dict[str, Any]:
    """A record as the public converter writes it, question and answer in our words."""
    record = {
        "token": "t0",
        "image": picture("CAM_FRONT"),
        "images": [picture(camera) for camera in IMAGE_ORDER],
        "prev": "",
        "next": "t1",
        "scene_token": "s0",
        "fut_valid_flag": "True",
        "ego_fut_trajs": str(FUTURE),
        "conversations": [
            {"from": "human", "value": VIEWS + "At 7 m/s, 'turn left': what SPEED plan?"},
            {"from": "gpt", "value": "KEEP, STRAIGHT\n"},
        ],
    }
    return {**record, **changes}


def said(*words: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(words)]


def test_record_is_read_with_its_question_free_of_views() -> None:
    record = record_from_json(public_record())
    assert record.turns == (("At 7 m/s, 'turn left': what SPEED plan?", "KEEP, STRAIGHT\n"),)
    assert (record.token, record.scene, record.after) == ("t0", "s0", "t1")
    assert record.lidar_future is not None and record.lidar_future.tolist() == [
        [0.0, 0.25], [0.5, 0.75], [1.0, 1.25], [1.5, 1.75], [2.0, 2.25], [2.5, 2.75],
    ]  # fmt: skip


def test_pictures_go_to_the_camera_that_they_name_wherever_they_stand() -> None:
    names = [picture(camera) for camera in sorted(CAMERAS)]
    record = record_from_json(public_record(images=names))
    assert record.images == {camera: picture(camera) for camera in CAMERAS}
    assert list(record.images) == list(CAMERAS)


@pytest.mark.parametrize(
    ("name", "camera"),
    [
        ("samples/CAM_FRONT/a.jpg", "CAM_FRONT"),
        ("a__CAM_BACK_LEFT__15.jpg", "CAM_BACK_LEFT"),
        ("CAM_BACK_RIGHT.png", "CAM_BACK_RIGHT"),
        ("x/samples-CAM_FRONT_RIGHT/n__CAM_FRONT_RIGHT__1.jpg", "CAM_FRONT_RIGHT"),
        ("CAM_FRONT_000012.jpg", "CAM_FRONT"),
    ],
)
def test_camera_is_known_by_folder_or_file_name(name: str, camera: str) -> None:
    assert camera_of(name) == camera


@pytest.mark.parametrize(
    "name",
    [
        "samples/front/a.jpg",
        "CAM_FRONT/n__CAM_BACK__1.jpg",
        "CAM_FRONT_WIDE/a.jpg",
        "WEBCAM_FRONT/a.jpg",
        "CAM_FRONT2/a.jpg",
        "cam_front/a.jpg",
    ],
)
def test_picture_that_does_not_say_its_camera_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="order of pictures is not trusted"):
        camera_of(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": ""}, "token is empty"),
        ({"token": 7}, "token is a int"),
        ({"scene_token": None}, "scene_token is a NoneType"),
        ({"images": []}, "images is '\\[\\]', expected a list"),
        ({"images": "a,b"}, "expected a list of paths"),
        ({"images": [3]}, "picture's path is a int"),
        ({"images": ["0.jpg", "1.jpg"], "image": "0.jpg"}, "no camera"),
        ({"images": [picture("CAM_BACK")] * 2, "image": None}, "two pictures of CAM_BACK"),
        ({"images": ["CAM_FRONT/" + "x" * 5000]}, "has 5010 letters"),
        ({"image": "CAM_FRONT/other.jpg"}, "none of images"),
        ({"conversations": []}, "expected question and answer"),
        ({"conversations": said("only a question")}, "nobody answers"),
        ({"conversations": said("q", "a")[::-1]}, "'gpt' speaks, expected 'human'"),
        ({"conversations": ["q", "a"]}, "expected 'human'"),
        ({"conversations": [{"from": "human", "value": 1}, {}]}, "value is a int"),
        ({"fut_valid_flag": "maybe"}, "fut_valid_flag is 'maybe'"),
        ({"ego_fut_trajs": str(FUTURE[:-1])}, "expected 12 metres"),
        ({"ego_fut_trajs": str([math.nan] * 12)}, "expected 12 metres"),
        ({"ego_fut_trajs": "[" + "1" * 400 + ", 1" * 11 + "]"}, "expected 12 metres"),
        ({"ego_fut_trajs": [True] * 12}, "expected 12 metres"),
        pytest.param({"ego_fut_trajs": "[" * 100_000}, "expected 12 metres", id="deep"),
        ({"kind": 3}, "kind is a int"),
        ({"case_name": ""}, "case_name is empty"),
        ({"token": "\ud800"}, "surrogate"),
    ],
)
def test_wrong_field_is_named_with_file_and_record(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "qa.json"
    path.write_text(json.dumps([public_record(), public_record(**changes)]))
    with pytest.raises(DataError, match=r"qa\.json: record 2: .*" + message):
        list(read_records(path))


@pytest.mark.parametrize("name", ["token", "scene_token", "images", "conversations"])
def test_missing_field_is_named(tmp_path: Path, name: str) -> None:
    record = public_record()
    del record[name]
    (tmp_path / "qa.json").write_text(json.dumps([record]))
    with pytest.raises(DataError, match=f"record 1: field '{name}' is missing"):
        list(read_records(tmp_path / "qa.json"))


@pytest.mark.parametrize(
    "printed",
    [
        "[" + ", ".join(f"np.float32({v})" for v in FUTURE) + "]",
        "[" + ", ".join(f"np.float64({v})" for v in FUTURE) + "]",
        FUTURE,
    ],
)
def test_future_is_read_as_any_numpy_prints_it(printed: Any) -> None:
    future = record_from_json(public_record(ego_fut_trajs=printed)).lidar_future
    assert future is not None and future.reshape(-1).tolist() == FUTURE


@pytest.mark.parametrize(
    "changes",
    [
        {"fut_valid_flag": "False", "ego_fut_trajs": "nonsense"},
        {"fut_valid_flag": False},
        {"ego_fut_trajs": None},
    ],
)
def test_incomplete_future_is_none_at_all(changes: dict[str, Any]) -> None:
    assert record_from_json(public_record(**changes)).lidar_future is None


def test_several_turns_of_one_record_are_several_questions() -> None:
    record = record_from_json(public_record(conversations=said("a <image>", "b", "c", "d")))
    assert record.turns == (("a", "b"), ("c", "d"))


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Which SPEED plan?", "planning"),
        ("Any vulnerable road users?", "perception"),
        ("Please predict what they do.", "prediction"),
        ("Make a description, traffic lights included.", "description"),
        ("Is there a traffic light?", "perception"),
        ("You brake; explain why.", "planning"),
        ("What is the weather?", "general"),
    ],
)
def test_kind_follows_from_the_words_of_the_question(question: str, kind: str) -> None:
    assert kind_of(question) == kind


def record(**changes: Any) -> SennaRecord:
    fields = {
        "token": "t",
        "scene": "s",
        "images": {camera: picture(camera) for camera in CAMERAS},
        "turns": (("Who is there?", "Nobody."),),
        "kind": "perception",
        "case_name": "works",
        "before": "a",
        "after": "b",
        "lidar_future": np.array(FUTURE).reshape(6, 2),
    }
    return SennaRecord(**{**fields, **changes})


def test_written_record_reads_back_equal_with_its_future_to_the_last_bit() -> None:
    future = np.random.default_rng(0).normal(0, 30, (6, 2))
    before = record(lidar_future=future)
    after = record_from_json(json.loads(json.dumps(record_to_json(before))))
    assert after == before
    assert after.lidar_future is not None and (after.lidar_future == future).all()
    assert record_from_json(record_to_json(record(lidar_future=None))).lidar_future is None


def test_written_record_has_what_the_public_tools_read() -> None:
    fields = record_to_json(record())
    assert fields["images"] == [picture(camera) for camera in IMAGE_ORDER]
    assert fields["image"] == picture("CAM_FRONT")
    assert set(fields) >= set(public_record())
    human, gpt = fields["conversations"]
    assert (human["from"], gpt["from"], gpt["value"]) == ("human", "gpt", "Nobody.")
    assert human["value"].count("<image>") == 6


@pytest.mark.parametrize(("names_follow_images", "order"), [(True, IMAGE_ORDER), (False, CAMERAS)])
def test_views_are_named_in_the_order_of_the_pictures_or_as_the_public_converter_does(
    names_follow_images: bool, order: tuple[str, ...]
) -> None:
    fields = record_to_json(record(), names_follow_images=names_follow_images)
    value = fields["conversations"][0]["value"]
    places = [value.index(f"<{camera[4:].replace('_', ' ')} VIEW>") for camera in order]
    assert places == sorted(places)
    assert (value == VIEWS + "Who is there?") == (not names_follow_images)


def test_question_keeps_exactly_six_places_for_pictures() -> None:
    fields = record_to_json(record(turns=(("What is <image>?", "A car."),)))
    assert fields["conversations"][0]["value"].count("<image>") == 6


keys = st.sampled_from([*public_record(), "kind", "case_name"])
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["True", "human", picture("CAM_BACK"), "[1.0, 2.0]"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["from", "value", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=st.dictionaries(keys, junk, max_size=3), drop=st.sets(keys, max_size=2))
def test_record_with_anything_in_it_is_read_or_a_data_error(
    tmp_path: Path, changes: dict[str, Any], drop: set[str]
) -> None:
    fields = {k: v for k, v in public_record(**changes).items() if k not in drop}
    path = tmp_path / "qa.json"
    path.write_text(json.dumps([fields]))
    outcome = _read_or_none(lambda: list(read_records(path)))
    if outcome is not None:
        ((where, found),) = outcome
        assert where.endswith("record 1") and found.images and found.turns


def _read_or_none(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except DataError as err:
        assert "record 1" in str(err)
        return None
