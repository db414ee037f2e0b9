"""One line of the sidecar: what comes back, and what is refused."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keyframe_makers import full_keyframe

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.data.sidecar_record import keyframe_from_json, keyframe_to_json, parse_record
from clkd_core.errors import DataError
from clkd_core.types import MetaAction, PathAction, Trajectory


@pytest.fixture
def keyframe(tmp_path: Path) -> Keyframe:
    return full_keyframe(tmp_path)


@pytest.fixture
def record(keyframe: Keyframe, tmp_path: Path) -> dict[str, Any]:
    return keyframe_to_json(keyframe, split="train", root=tmp_path)


def read(record: Any, root: Path = Path("/set")) -> Keyframe:
    line = record if isinstance(record, str) else json.dumps(record)
    return keyframe_from_json(parse_record(line.encode(), "file:7"), root, "file:7")


def test_written_keyframe_reads_back_equal(
    keyframe: Keyframe, record: dict[str, Any], tmp_path: Path
) -> None:
    back = read(record, tmp_path)
    arrays = {"future", "agents", "history", "lidar_future"}
    for name in sorted(set(keyframe.__dataclass_fields__) - arrays):
        assert getattr(back, name) == getattr(keyframe, name), name
    assert back.future is not None and keyframe.future is not None
    assert back.future.xy_m.tolist() == keyframe.future.xy_m.tolist()
    assert back.history is not None and keyframe.history is not None
    assert back.history.tolist() == keyframe.history.tolist()
    assert len(back.agents) == len(keyframe.agents) == 2
    for ours, theirs in zip(back.agents, keyframe.agents, strict=True):
        assert (ours.category, ours.size_m) == (theirs.category, theirs.size_m)
        assert ours.poses.tolist() == theirs.poses.tolist()
        assert ours.poses.dtype == np.float32


def test_label_at_a_threshold_survives_being_written(keyframe: Keyframe, tmp_path: Path) -> None:
    ahead_m = np.linspace(3.0, 18.0, 6)
    aside_m = np.linspace(0.0, -4.00003, 6)  # 0.03 mm beyond where a right turn begins
    future = Trajectory(xy_m=np.stack([ahead_m, aside_m], axis=1).astype(np.float32))
    action = meta_action_from_future(lidar_from_ego(future.xy_m))
    assert action.path is PathAction.RIGHT_TURN
    turning = replace(keyframe, future=future, action=action, lidar_future=None)
    back = read(keyframe_to_json(turning, split="train", root=tmp_path), tmp_path)
    assert back.action == action


def test_keyframe_without_future_has_no_label(record: dict[str, Any]) -> None:
    for name in ("future", "action", "ego", "command", "history", "region"):
        record[name] = None
    back = read(record)
    assert back.action is back.future is back.ego is back.command is back.history is None
    assert back.region is None


def test_records_of_before_history_and_region_are_still_read(record: dict[str, Any]) -> None:
    del record["history"], record["region"]
    assert read(record).history is read(record).region is None


def test_label_follows_from_the_lidars_way_where_it_is_known(
    keyframe: Keyframe, tmp_path: Path
) -> None:
    lidar = np.array([[4.2 / 6 * i, 2.0 * i] for i in range(1, 7)])  # the ego frame turns left
    told = replace(keyframe, lidar_future=lidar, action=meta_action_from_future(lidar))
    assert told.action != keyframe.action
    record = keyframe_to_json(told, split="train", root=tmp_path)
    back = read(record)
    assert back.action == told.action
    assert back.lidar_future is not None and back.lidar_future.tolist() == lidar.tolist()
    del record["lidar_future"]
    with pytest.raises(DataError, match=r"file:7: action is 'KEEP, RIGHT_TURN', its future says"):
        read(record)


def test_lidar_future_keeps_every_digit_that_a_label_may_hang_on(
    keyframe: Keyframe, tmp_path: Path
) -> None:
    lidar = np.array([[4.0 + 1e-12, 2.0 * i] for i in range(1, 7)])
    told = replace(keyframe, lidar_future=lidar, action=meta_action_from_future(lidar))
    assert "RIGHT" in told.action.text if told.action else False
    assert read(keyframe_to_json(told, split="train", root=tmp_path)).action == told.action


NAN, HUGE = float("nan"), 10**400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stamp_ns": None}, "stamp is None"),
        ({"stamp_ns": 1.5}, "stamp is 1.5"),
        ({"stamp_ns": 2**63}, "stamp is 9223372036854775808"),
        ({"stamp_ns": True}, "stamp is True"),
        ({"sample_token": 7}, "sample_token is a int, expected text"),
        ({"scene": None}, "scene is a NoneType"),
        ({"case_name": ["fog"]}, "case_name is a list"),
        ({"scene": "\ud800"}, "surrogates not allowed"),
        ({"command": "fly"}, "fly"),
        ({"command": {}}, "RouteCommand"),
        ({"action": "STOP, STRAIGHT"}, "its future says 'KEEP, LEFT_TURN'"),
        ({"action": "KEEP"}, "meta-action text"),
        ({"action": None}, "action is a NoneType"),
        ({"future": None}, "'KEEP, LEFT_TURN' without a future"),
        ({"future": [[0, 0]] * 5}, r"future is \(5, 2\), expected \(6, 2\)"),
        ({"future": [[0, 0]] * 5 + [[0]]}, "future is ragged"),
        ({"future": [["0", "0"]] * 6}, "expected \\(6, 2\\) numbers"),
        ({"future": [[0, NAN]] * 6}, "NaN"),
        ({"future": [[0, HUGE]] * 6}, r"expected \(6, 2\) numbers"),
        ({"future": [[0, 1e300]] * 6}, "absurd"),
        ({"lidar_future": [[0, 0]] * 5}, "lidar_future is"),
        ({"ego": [1, NAN, 0.0]}, "speed_mps"),
        ({"ego": [1, HUGE, 0.0]}, "int too large"),
        ({"ego": [1, 2.0]}, "not enough values"),
        ({"ego": 5}, "cannot unpack"),
        ({"images": []}, "images is a list"),
        ({"images": {"CAM_ROOF": "x.jpg"}}, "CAM_ROOF"),
        ({"images": {"CAM_FRONT": 5}}, "image is a int"),
        ({"images": {"CAM_BACK": "x.jpg"}}, "field 'CAM_BACK' is missing"),
        ({"image_stamps_ns": None}, "not subscriptable"),
        ({"agents": 3}, "not iterable"),
        ({"agents": [{"category": "a", "size_m": [1, 1], "poses": [[0, 0]]}]}, "agent poses"),
        ({"agents": [{"category": "a", "size_m": [1, 1], "poses": []}]}, "agent poses are empty"),
        ({"agents": [{"category": "a", "size_m": [1], "poses": [[0, 0, 0]]}]}, "not enough"),
        ({"agents": [{"category": "a", "size_m": [1, NAN], "poses": [[0, 0, 0]]}]}, "agent size"),
        ({"agents": [{"size_m": [1, 1], "poses": [[0, 0, 0]]}]}, "field 'category'"),
        ({"questions": [["a", "b"]]}, "not enough values"),
        ({"questions": [["a", "b", None]]}, "answer is a NoneType"),
        ({"history": [[0, 0]] * 3}, r"history is \(3, 2\), expected \(4, 2\)"),
        ({"region": ["CAM_FRONT", [0, 0, 0, 5]]}, "region is"),
        ({"region": ["CAM_ROOF", [0, 0, 5, 5]]}, "region is"),
    ],
)
def test_wrong_field_is_named_with_its_line(
    record: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"^file:7: .*{message}"):
        read({**record, **changes})


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.jpg", "samples/../../x.jpg", "", ".", "a\0b.jpg", "\udce4"]
)
def test_image_path_that_leaves_the_root_is_refused(record: dict[str, Any], name: str) -> None:
    record["images"] = {"CAM_FRONT": name}
    with pytest.raises(DataError, match=r"^file:7: .*(expected a path below the root|surrogates)"):
        read(record)


def test_folder_inside_the_root_may_be_a_link(record: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"there")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "samples").symlink_to(tmp_path / "elsewhere")
    record["images"] = {"CAM_FRONT": "samples/a.jpg"}
    back = read(record, tmp_path / "root")
    assert back.image_paths["CAM_FRONT"].read_bytes() == b"there"


@pytest.mark.parametrize("name", ["agents", "images", "questions", "stamp_ns", "future", "ego"])
def test_missing_field_is_named(record: dict[str, Any], name: str) -> None:
    del record[name]
    with pytest.raises(DataError, match=f"file:7: field '{name}' is missing"):
        read(record)


@pytest.mark.parametrize("line", ["", "{", "[1]", "7", "[" * 100_000, '{"a": "\\'])
def test_line_that_is_no_object_is_refused(line: str) -> None:
    with pytest.raises(DataError, match=r"^file:7: (not JSON|is a)"):
        read(line)


def test_line_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(DataError, match=r"^file:7: not JSON"):
        parse_record(b'{"scene": "\xff"}', "file:7")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["CAM_FRONT", "train", "KEEP, STRAIGHT", "..", "/x"]),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside of a JSON document."""
    found = [before] if before else []
    keys = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    for key in keys:
        found += places(value[key], (*before, key))
    return found


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_record_is_refused_or_is_a_sound_keyframe(
    record: dict[str, Any], data: st.DataObject
) -> None:
    damaged = copy.deepcopy(record)
    *way, last = data.draw(st.sampled_from(places(damaged)))
    inside = damaged
    for key in way:
        inside = inside[key]
    inside[last] = data.draw(JSON)
    try:
        back = read(damaged)
    except DataError as err:
        assert str(err).startswith("file:7: ")
        return
    assert back.image_paths.keys() == back.image_stamps_ns.keys()
    assert all(Path("/set") in path.parents for path in back.image_paths.values())
    assert all(np.isfinite(agent.poses).all() for agent in back.agents)
    assert back.future is not None and isinstance(back.action, MetaAction)
    assert back.action == meta_action_from_future(lidar_from_ego(back.future.xy_m)) or (
        back.lidar_future is not None
    )
