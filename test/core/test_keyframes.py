"""Reading the sidecar: what comes back, and what is refused."""

import json

import numpy as np
import pytest

from clkd_core.data.keyframes import AgentFuture, Keyframe, QuestionAnswer, surround_frame
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json, load_keyframes
from clkd_core.errors import DataError
from clkd_core.types import (
    EgoState,
    MetaAction,
    PathAction,
    RouteCommand,
    SpeedAction,
    Trajectory,
)


@pytest.fixture
def keyframe(tmp_path):
    path = tmp_path / "samples" / "CAM_FRONT" / "a.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"jpeg")
    xy = np.stack([np.arange(1, 7) * 4.0, np.zeros(6)], axis=1).astype(np.float32)
    agent = AgentFuture(
        category="vehicle.car", size_m=(4.5, 1.8), poses=np.ones((7, 3), np.float32)
    )
    return Keyframe(
        sample_token="t",
        scene="s",
        case_name="regular",
        stamp_ns=50,
        image_paths={"CAM_FRONT": path},
        image_stamps_ns={"CAM_FRONT": 40},
        ego=EgoState(stamp_ns=50, speed_mps=8.0, yaw_rate_radps=0.1),
        command=RouteCommand.LEFT,
        future=Trajectory(xy_m=xy),
        action=MetaAction(SpeedAction.KEEP, PathAction.STRAIGHT),
        agents=(agent,),
        questions=(QuestionAnswer(kind="perception", question="Who?", answer="Nobody."),),
    )


def write(root, records, tail="\n"):
    folder = root / "v"
    folder.mkdir(exist_ok=True)
    text = "\n".join(r if isinstance(r, str) else json.dumps(r) for r in records)
    (folder / SIDECAR).write_text(text + tail)


def test_written_keyframe_reads_back_equal(tmp_path, keyframe):
    write(tmp_path, [keyframe_to_json(keyframe, split="train", root=tmp_path)])
    (back,) = load_keyframes(tmp_path, "v", "train")
    assert back.future.xy_m.tolist() == keyframe.future.xy_m.tolist()
    assert back.agents[0].poses.shape == (7, 3)
    for name in ("sample_token", "stamp_ns", "image_paths", "ego", "command", "action"):
        assert getattr(back, name) == getattr(keyframe, name)
    assert back.questions == keyframe.questions


def test_surround_frame_holds_bytes_and_stamps(keyframe):
    frame = surround_frame(keyframe)
    assert frame.images["CAM_FRONT"].encoded == b"jpeg"
    assert frame.images["CAM_FRONT"].stamp_ns == 40
    assert (frame.stamp_ns, frame.command) == (50, RouteCommand.LEFT)


def test_surround_frame_names_the_image_that_is_missing(keyframe):
    keyframe.image_paths["CAM_FRONT"].unlink()
    with pytest.raises(DataError, match=r"a\.jpg: image cannot be read"):
        surround_frame(keyframe)


def test_keyframe_without_future_has_no_label(tmp_path, keyframe):
    record = keyframe_to_json(keyframe, split="val", root=tmp_path)
    record["future"] = record["ego"] = record["command"] = None
    write(tmp_path, [record])
    (back,) = load_keyframes(tmp_path, "v", "val")
    assert back.action is back.future is back.ego is back.command is None


def broken(record, **changes):
    return {**record, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stamp_ns": None}, ":1: "),
        ({"command": "fly"}, "fly"),
        ({"action": "STOP, STRAIGHT"}, "its future says 'KEEP, STRAIGHT'"),
        ({"action": "KEEP"}, "meta-action text"),
        ({"ego": [1, float("nan"), 0.0]}, "speed_mps"),
        ({"future": [[0, 0]] * 5}, r"expected \(6, 2\)"),
        ({"images": {"CAM_ROOF": "x.jpg"}}, "CAM_ROOF"),
        ({"agents": [{"category": "a", "size_m": [1, 1], "poses": [[0, 0]]}]}, "agent poses"),
    ],
)
def test_wrong_field_is_named_with_its_line(tmp_path, keyframe, changes, message):
    record = keyframe_to_json(keyframe, split="train", root=tmp_path)
    write(tmp_path, [broken(record, **changes)])
    with pytest.raises(DataError, match=message):
        load_keyframes(tmp_path, "v", "train")


def test_missing_field_is_named(tmp_path, keyframe):
    record = keyframe_to_json(keyframe, split="train", root=tmp_path)
    del record["agents"]
    write(tmp_path, [record])
    with pytest.raises(DataError, match="field 'agents' is missing"):
        load_keyframes(tmp_path, "v", "train")


def test_truncated_sidecar_is_refused(tmp_path, keyframe):
    record = keyframe_to_json(keyframe, split="train", root=tmp_path)
    write(tmp_path, [record, json.dumps(record)[:80]], tail="")
    with pytest.raises(DataError, match="truncated"):
        load_keyframes(tmp_path, "v", "train")


def test_line_that_is_no_json_is_numbered(tmp_path, keyframe):
    record = keyframe_to_json(keyframe, split="train", root=tmp_path)
    write(tmp_path, [record, "{"])
    with pytest.raises(DataError, match=r"jsonl:2: not JSON"):
        load_keyframes(tmp_path, "v", "train")


def test_missing_set_and_empty_split_are_refused(tmp_path, keyframe):
    with pytest.raises(DataError, match="no such file"):
        load_keyframes(tmp_path, "v", "train")
    write(tmp_path, [keyframe_to_json(keyframe, split="train", root=tmp_path)])
    with pytest.raises(DataError, match="no keyframe of split 'val'"):
        load_keyframes(tmp_path, "v", "val")
    with pytest.raises(DataError, match="split is 'test'"):
        load_keyframes(tmp_path, "v", "test")
