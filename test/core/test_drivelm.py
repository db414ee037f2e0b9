"""clkd_core.data.language.drivelm: what its JSON says, and what is refused or left out."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from annotation_files import (
    ANYTHING,
    FIRST_US,
    changed,
    drivelm_content,
    drivelm_frame,
    image_name,
    pair,
    qa_by_kind,
    walk,
    write_drivelm,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clkd_core.data.bags.sources.drivelm import load_drivelm_scenes
from clkd_core.data.language.drivelm import (
    UNSORTED,
    DriveLmFrame,
    TagCount,
    mirrored_tags,
    read_drivelm,
)
from clkd_core.data.language.files.annotations import Skips
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS


def read(path: Path, content: Any) -> tuple[list[DriveLmFrame], Skips]:
    path.write_text(json.dumps(content))
    skips = Skips()
    return read_drivelm(path, skips), skips


def one_frame(**changes: Any) -> dict[str, Any]:
    return {"scene0": {"key_frames": {"frame0": {**drivelm_frame(0), **changes}}}}


def test_frames_have_tokens_images_stamps_and_questions_by_kind(tmp_path: Path) -> None:
    frames, skips = read(tmp_path / "a.json", drivelm_content())
    assert [(f.scene, f.token) for f in frames] == [
        ("scene0", "frame0"),
        ("scene0", "frame1"),
        ("scene1", "frame2"),
        ("scene1", "frame3"),
    ]
    assert [image.camera for image in frames[0].images] == list(CAMERAS)
    assert frames[1].images[0].stamp_ns == (FIRST_US + 500_000) * 1000
    assert frames[1].stamp_ns == (FIRST_US + 505_000) * 1000
    assert Counter(q.kind for q in frames[0].questions) == {
        "perception": 2,
        "prediction": 1,
        "planning": 1,
        "behavior": 1,
    }
    assert frames[0].questions[2].question == "Will <c1,CAM_BACK,1088.3,497.5> stop?"
    assert not skips.counts


def test_frames_of_a_scene_come_in_the_order_of_time(tmp_path: Path) -> None:
    content = {
        "s": {"key_frames": {f"f{n}": drivelm_frame(n) for n in (2, 0, 1)}},
        "r": {"key_frames": {"g": drivelm_frame(0)}},
    }
    frames, _ = read(tmp_path / "a.json", content)
    assert [frame.token for frame in frames] == ["f0", "f1", "f2", "g"]


def test_questions_of_one_list_have_no_kind(tmp_path: Path) -> None:
    frames, _ = read(tmp_path / "a.json", one_frame(QA=[pair("A?", "B."), pair("C?", "D.")]))
    assert [(q.kind, q.answer) for q in frames[0].questions] == [
        (UNSORTED, "B."),
        (UNSORTED, "D."),
    ]


def test_questions_without_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    qa = {**qa_by_kind(), "planning": [pair("What now?", ""), {"Q": "Why?"}]}
    frames, skips = read(tmp_path / "a.json", one_frame(QA=qa))
    assert len(frames[0].questions) == 4
    assert skips.counts == {"answer is missing": 2}
    assert skips.lines()[0].endswith("a.json: scene scene0, keyframe frame0, planning 1")


def test_frame_without_qa_has_no_questions(tmp_path: Path) -> None:
    content = one_frame()
    del content["scene0"]["key_frames"]["frame0"]["QA"]
    frames, _ = read(tmp_path / "a.json", content)
    assert frames[0].questions == ()


def test_token_that_comes_in_two_scenes_counts_once(tmp_path: Path) -> None:
    content = {s: {"key_frames": {"f": drivelm_frame(0)}} for s in ("a", "b")}
    frames, skips = read(tmp_path / "a.json", content)
    assert [frame.scene for frame in frames] == ["a"]
    assert skips.counts == {"keyframe comes a second time": 1}


def test_images_of_different_instants_are_no_keyframe(tmp_path: Path) -> None:
    content = one_frame()
    frame = content["scene0"]["key_frames"]["frame0"]
    frame["image_paths"]["CAM_BACK"] = image_name("CAM_BACK", 7)
    frames, skips = read(tmp_path / "a.json", content)
    assert frames == [] and skips.counts == {"keyframe has images of different instants": 1}


def conversation(number: int, question: str = "What?", *, frame: int = 0) -> dict[str, Any]:
    return {
        "id": f"scene0_frame{frame}_{number}",
        "image": [f"data/nuscenes/samples/{c}/{image_name(c, frame)}" for c in CAMERAS],
        "conversations": [
            {"from": "human", "value": f"<image>\n{question}"},
            {"from": "gpt", "value": f"Answer {number}."},
        ],
    }


def test_list_of_conversations_is_grouped_into_keyframes(tmp_path: Path) -> None:
    entries = [conversation(0), conversation(0, frame=1), conversation(1, "Who?")]
    frames, skips = read(tmp_path / "a.json", entries)
    assert [(f.scene, f.token) for f in frames] == [("scene0", "frame0"), ("scene0", "frame1")]
    assert [(q.kind, q.question, q.answer) for q in frames[0].questions] == [
        (UNSORTED, "What?", "Answer 0."),
        (UNSORTED, "Who?", "Answer 1."),
    ]
    assert [image.name for image in frames[1].images] == [image_name(c, 1) for c in CAMERAS]
    assert not skips.counts


def test_conversation_that_comes_twice_counts_once(tmp_path: Path) -> None:
    frames, skips = read(tmp_path / "a.json", [conversation(0), conversation(0)])
    assert len(frames[0].questions) == 1
    assert skips.counts == {"entry comes a second time": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "scene0"}, "entry 2: id is 'scene0', expected like"),
        ({"id": None}, "entry 2: id is None"),
        ({"image": []}, "entry 2: image is \\[\\]"),
        ({"image": ["a.jpg"]}, "camera ''"),
        ({"image": [3]}, "camera ''"),
        ({"image": [image_name("CAM_BACK", 0)]}, "other images than .*entry 1"),
        ({"image": [image_name("CAM_BACK", 0)] * 2}, "two images of CAM_BACK"),
        ({"conversations": []}, "pairs of human and gpt"),
        ({"conversations": [{"from": "gpt"}, {"from": "human"}]}, "pairs of human and gpt"),
        ({"conversations": [3, 4]}, "pairs of human and gpt"),
    ],
)
def test_conversation_of_another_form_is_named(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        read(tmp_path / "a.json", [conversation(0), {**conversation(1), **changes}])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "is no DriveLM file"),
        ({}, "is no DriveLM file"),
        (3, "is no DriveLM file"),
        ({"../up": {}}, "scene '../up', expected a token"),
        ({"s" * 65: {}}, "expected a token"),
        ({"s": []}, "scene s has no key_frames"),
        ({"s": {"key_frames": {"a/b": {}}}}, "keyframe 'a/b', expected a token"),
        (one_frame(image_paths={}), "no image_paths"),
        (one_frame(image_paths={"CAM_ROOF": "x"}), "camera 'CAM_ROOF'"),
        (one_frame(image_paths={"CAM_BACK": 3}), "3 has no stamp"),
        (one_frame(image_paths={"CAM_BACK": image_name("CAM_FRONT", 0)}), "__CAM_BACK__<16"),
        (one_frame(image_paths={"CAM_BACK": "n__CAM_BACK__" + "1" * 16}), "has no stamp"),
        (one_frame(QA="none"), "QA is 'none', expected lists by kind"),
        (one_frame(QA={"planning": {"Q": "?"}}), "QA 'planning' is no list"),
        (one_frame(QA={"a b": []}), "QA 'a b' is no list of a kind"),
        (one_frame(QA={"planning": ["?"]}), "planning 1: is '\\?', expected an object"),
    ],
)
def test_structure_of_another_form_is_named(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(tmp_path / "a.json", content)


def test_folders_of_an_image_path_do_not_count(tmp_path: Path) -> None:
    paths = {"CAM_BACK": f"../../../etc/{image_name('CAM_BACK', 0)}"}
    frames, _ = read(tmp_path / "a.json", one_frame(image_paths=paths))
    assert frames[0].images[0].name == image_name("CAM_BACK", 0)


def test_bags_are_made_of_what_this_parser_reads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = drivelm_content()
    content["scene1"]["key_frames"]["frame0"] = drivelm_frame(0)
    write_drivelm(tmp_path, content)
    scenes = load_drivelm_scenes(tmp_path)
    assert {scene: len(images) for scene, images in scenes.items()} == {"scene0": 12, "scene1": 12}
    assert "left out 1: keyframe comes a second time" in caplog.text


def test_bag_of_no_usable_keyframe_is_refused(tmp_path: Path) -> None:
    content = one_frame()
    paths = content["scene0"]["key_frames"]["frame0"]["image_paths"]
    paths["CAM_BACK"] = image_name("CAM_BACK", 7)
    write_drivelm(tmp_path, content)
    with pytest.raises(
        DataError, match="no keyframe can be used, left out 1: keyframe has images"
    ):
        load_drivelm_scenes(tmp_path)


def test_tags_are_counted_where_they_are_outside_or_malformed() -> None:
    tags = TagCount()
    tags.add("<c1,CAM_BACK,0.0,900.0> and <c12,CAM_FRONT_LEFT,1600,0> are inside.")
    assert vars(tags) == {"mentioned": 2, "outside": 0, "malformed": 0}
    tags.add("<c1,CAM_BACK,1600.1,5.0> <c1,CAM_BACK,5.0,-0.1> <c2,CAM_ROOF,5.0,5.0>")
    assert vars(tags) == {"mentioned": 5, "outside": 3, "malformed": 0}
    tags.add("<c1,CAM_BACK> <c1,CAM_BACK,x,y> <b> 3 < c1, CAM_BACK")
    assert vars(tags) == {"mentioned": 7, "outside": 3, "malformed": 2}


def test_tags_of_the_mirror_image_are_on_the_other_side() -> None:
    text = "Is <c1,CAM_BACK,1088.3,497.5> near <c2,CAM_FRONT,0,10.25>?"
    mirrored = "Is <c1,CAM_BACK,511.7,497.5> near <c2,CAM_FRONT,1600,10.25>?"
    assert mirrored_tags(text) == mirrored
    assert mirrored_tags(mirrored) == text
    assert mirrored_tags("No tag, 1088.3.") == "No tag, 1088.3."


SCENES, CONVERSATIONS = drivelm_content(1, 1), [conversation(0), conversation(1, frame=1)]
PLACES = [(d, p) for d in (SCENES, CONVERSATIONS) for p in walk(d)]


@given(st.sampled_from(PLACES), ANYTHING)
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_place_replaced_by_anything_is_read_or_a_data_error(
    tmp_path: Path, place: tuple[Any, tuple[Any, ...]], value: Any
) -> None:
    path = tmp_path / "a.json"
    try:
        frames, _ = read(path, changed(*place, value))
    except DataError as err:
        assert "a.json" in str(err)
        str(err).encode()
        return
    for frame in frames:
        assert frame.images and re.fullmatch(r"[\w-]+", frame.scene + frame.token)
        for question in frame.questions:
            assert question.question.encode().strip() and question.answer.encode().strip()


@given(st.integers(0, len(json.dumps(drivelm_content()).encode()) - 1))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_truncated_file_is_a_data_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(drivelm_content()).encode()[:length])
    with pytest.raises(DataError, match=r"a\.json: cannot be read as JSON"):
        read_drivelm(path, Skips())


def test_real_pieces_hold_9_keyframes_and_790_questions(shared_data: Path) -> None:
    path = shared_data / "drivelm" / "train_sample.json"
    skips, tags = Skips(), TagCount()
    frames = read_drivelm(path, skips)
    questions = [q for frame in frames for q in frame.questions]
    assert Counter(frame.scene[:4] for frame in frames) == {"f0f1": 4, "54cd": 5}
    assert all(len(frame.images) == 6 for frame in frames)
    assert Counter(q.kind for q in questions) == {
        "perception": 337,
        "prediction": 271,
        "planning": 173,
        "behavior": 9,
    }
    assert not skips.counts
    for question in questions:
        tags.add(question.question)
        tags.add(question.answer)
    naive = sum((q.question + q.answer).count("<c") for q in questions)
    assert vars(tags) == {"mentioned": naive, "outside": 0, "malformed": 0} and naive == 719
