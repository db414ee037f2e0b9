"""clkd_core.data.language.coda_lm: both layouts, regions as keyframes, and what is left out."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from annotation_files import (
    ANYTHING,
    changed,
    coda_content,
    flat_content,
    region,
    walk,
    write_coda,
    write_image,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clkd_core.data.keyframes import Keyframe, Region
from clkd_core.data.language.coda_lm import (
    OBJECT_LISTS,
    QUESTIONS,
    CodaScene,
    coda_keyframes,
    find_coda_files,
    read_coda_lm,
)
from clkd_core.data.language.files.annotations import Skips
from clkd_core.data.sidecar import keyframe_to_json
from clkd_core.errors import DataError


def read(path: Path, content: Any) -> tuple[CodaScene, Skips]:
    path.write_text(json.dumps(content))
    skips = Skips()
    (scene,) = read_coda_lm([(path, None)], skips)
    return scene, skips


def keyframes_of(root: Path, content: Any) -> tuple[list[Keyframe], Skips]:
    folder = write_coda(root, ["Train/val_0001"], content)
    skips = Skips()
    scenes = read_coda_lm(find_coda_files(folder), skips)
    keyframes, faults = coda_keyframes(scenes, [root], skips)
    assert not faults
    return keyframes, skips


def test_present_layout_asks_three_kinds_of_questions(tmp_path: Path) -> None:
    scene, skips = read(tmp_path / "val_0001.json", coda_content())
    assert [(q.kind, q.question, q.answer) for q in scene.questions] == [
        ("general", QUESTIONS["general"], "A lorry ahead is slow."),
        ("suggestion", QUESTIONS["suggestion"], "Slow down."),
    ]
    (found,) = scene.regions
    assert (found.index, found.box_xywh_px, found.category) == ("1", (4, 5, 8, 6), "cone")
    assert (found.question.kind, found.question.answer) == ("region", "A cone.")
    assert (scene.token, scene.image_split, scene.image_name) == (
        "coda_lm-val_0001",
        "val",
        "0001",
    )
    assert not skips.counts


def test_flat_layout_answers_with_all_objects_and_all_suggestions(tmp_path: Path) -> None:
    scene, skips = read(tmp_path / "0001.json", flat_content())
    assert [(q.kind, q.answer) for q in scene.questions] == [
        ("general", "A lorry. It is slow. A cone."),
        ("suggestion", "Slow down. Look out."),
    ]
    assert (scene.image_split, scene.image_name, scene.regions) == (None, "0001", ())
    assert not skips.counts


def test_a_region_is_a_keyframe_of_its_own_and_names_the_object_as_its_case(
    tmp_path: Path,
) -> None:
    keyframes, _ = keyframes_of(tmp_path, coda_content())
    assert [(k.sample_token, k.case_name, len(k.questions)) for k in keyframes] == [
        ("coda_lm-val_0001", "coda_lm", 2),
        ("coda_lm-val_0001-region-1", "cone", 1),
    ]
    assert all(k.is_corner and k.scene == "coda_lm-val_0001" for k in keyframes)
    assert all(set(k.image_paths) == {"CAM_FRONT"} for k in keyframes)
    assert keyframes[0].region is None
    assert keyframes[1].region == Region(camera="CAM_FRONT", box_xywh_px=(4, 5, 8, 6))
    assert keyframes[1].image_paths["CAM_FRONT"] == tmp_path / "val" / "images" / "0001.jpg"


@pytest.mark.parametrize("name", ["regular", " Regular ", None, 3, "", "x" * 49, "a/b"])
def test_no_name_of_an_object_makes_a_region_a_regular_case(tmp_path: Path, name: Any) -> None:
    keyframes, _ = keyframes_of(tmp_path, coda_content({"1": region(name=name)}))
    assert keyframes[1].case_name == "coda_lm"


def test_box_partly_outside_is_clipped_and_one_wholly_outside_left_out(tmp_path: Path) -> None:
    regions = {
        "1": region((-4, 10, 10, 20)),
        "2": region((32, 0, 9, 9)),
        "3": region((0, -9, 9, 9)),
    }
    keyframes, skips = keyframes_of(tmp_path, coda_content(regions))
    boxes = [k.region.box_xywh_px for k in keyframes if k.region is not None]
    assert boxes == [(0, 10, 6, 8)]
    assert skips.counts == {"region has no pixel in its image": 2}
    assert skips.lines()[0].endswith("val_0001.json: region 2")


@pytest.mark.parametrize(
    "box",
    [None, [], [1, 2, 3], "1234", [1, 2, 0, 4], [1, 2, -3, 4], [1, 2, "3", 4], [1, 2, True, 4]],
)
def test_region_without_a_usable_box_is_left_out_and_counted(tmp_path: Path, box: Any) -> None:
    scene, skips = read(tmp_path / "val_0001.json", coda_content({"1": region(box)}))
    assert scene.regions == ()
    assert skips.counts == {"region has no box x, y, width, height": 1}


@pytest.mark.parametrize("number", ["1e999", "1" + "0" * 400])
def test_box_beyond_all_numbers_is_left_out(tmp_path: Path, number: str) -> None:
    text = json.dumps(coda_content({"1": region((7777, 1, 2, 2))})).replace("7777", number)
    (tmp_path / "val_0001.json").write_text(text)
    skips = Skips()
    read_coda_lm([(tmp_path / "val_0001.json", None)], skips)
    assert skips.counts == {"region has no box x, y, width, height": 1}


def test_missing_and_empty_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    content = coda_content({"1": region(answer="")})
    content["general_perception"]["description and explanation"] = " "
    del content["driving_suggestion"]
    scene, skips = read(tmp_path / "val_0001.json", content)
    assert scene.questions == () and scene.regions == ()
    assert skips.counts == {"answer is missing": 3}


def test_flat_file_without_objects_or_suggestions_has_no_answers(tmp_path: Path) -> None:
    scene, skips = read(tmp_path / "0001.json", {"vehicles": [], "suggestions": []})
    assert scene.questions == () and skips.counts == {"answer is missing": 2}


def test_suggestions_of_another_form_are_left_out(tmp_path: Path) -> None:
    scene, skips = read(tmp_path / "0001.json", flat_content([{"text": "Stop."}]))
    assert [q.kind for q in scene.questions] == ["general"]
    assert skips.counts == {"answer is no text": 1}


def test_mini_is_a_part_of_val_and_counts_once(tmp_path: Path) -> None:
    folder = write_coda(tmp_path, ["Train/val_0001", "Val/test_0001", "Mini/test_0001"])
    skips = Skips()
    scenes = read_coda_lm(find_coda_files(folder), skips)
    assert [(scene.name, scene.split) for scene in scenes] == [
        ("val_0001", "train"),
        ("test_0001", "val"),
    ]
    assert skips.counts == {"scene comes a second time": 1}


def test_one_of_the_folders_alone_keeps_its_split(tmp_path: Path) -> None:
    folder = write_coda(tmp_path, ["Mini/test_0001"])
    assert find_coda_files(folder / "Mini") == [(folder / "Mini" / "test_0001.json", "val")]


def test_folder_without_annotations_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected CODA-LM's files"):
        find_coda_files(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "expected an object"),
        ({}, "none of CODA-LM's fields"),
        ({"vehicles": 3}, "vehicles is 3, expected a list"),
        ({"vehicles": ["car"]}, "vehicles 1 is 'car', expected an object with texts"),
        ({"vehicles": [{"description": 3}]}, "expected an object with texts"),
        ({"region_perception": [1]}, "region_perception is \\[1\\]"),
        ({"region_perception": {"1": 3}}, "region '1', expected a number and an object"),
        ({"region_perception": {"../1": {}}}, "region '../1', expected a number"),
    ],
)
def test_structure_of_another_form_is_named(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(DataError, match=rf"0001\.json: .*{words}"):
        read(tmp_path / "0001.json", content)


def test_file_with_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a name like val_0001"):
        read(tmp_path / "a b.json", coda_content())


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"no image"), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged"),
    ],
)
def test_image_that_cannot_be_used_is_named_and_its_scene_left_out(
    tmp_path: Path, spoil: Any, fault: str
) -> None:
    folder = write_coda(tmp_path)
    image = tmp_path / "val" / "images" / "0001.jpg"
    spoil(image)
    scenes = read_coda_lm(find_coda_files(folder), Skips())
    keyframes, faults = coda_keyframes(scenes, [tmp_path], Skips())
    assert list(faults) == [image] and faults[image].startswith(fault)
    assert {k.scene for k in keyframes} == {"coda_lm-test_0002"}


PLACES = [(d, p) for d in (coda_content(), flat_content()) for p in walk(d)]


@given(st.sampled_from(PLACES), ANYTHING)
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_one_place_replaced_by_anything_becomes_keyframes_or_a_data_error(
    tmp_path: Path, place: tuple[Any, tuple[Any, ...]], value: Any
) -> None:
    image = tmp_path / "val" / "images" / "0001.jpg"
    if not image.is_file():
        write_image(image)
    try:
        scene, skips = read(
            tmp_path / "val_0001.json", changed(copy.deepcopy(place[0]), place[1], value)
        )
    except DataError as err:
        assert "val_0001.json" in str(err)
        str(err).encode()
        return
    keyframes, faults = coda_keyframes([scene], [tmp_path], skips)
    assert not faults
    for keyframe in keyframes:
        assert keyframe.is_corner and keyframe.questions
        json.dumps(keyframe_to_json(keyframe, split="train", root=tmp_path)).encode()
        if keyframe.region is not None:
            left, top, width, height = keyframe.region.box_xywh_px
            assert 0 <= left and 0 <= top and left + width <= 32 and top + height <= 18


@given(st.integers(0, len(json.dumps(coda_content()).encode()) - 1))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_truncated_file_is_a_data_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "val_0001.json"
    path.write_bytes(json.dumps(coda_content()).encode()[:length])
    with pytest.raises(DataError, match=r"val_0001\.json: cannot be read as JSON"):
        read_coda_lm([(path, None)], Skips())


def test_real_flat_files_ask_80_questions(shared_data: Path) -> None:
    skips = Skips()
    scenes = read_coda_lm(find_coda_files(shared_data / "codalm" / "flat"), skips)
    assert len(scenes) == 40 and not skips.counts
    assert all([q.kind for q in s.questions] == ["general", "suggestion"] for s in scenes)
    assert all(scene.split is None and scene.regions == () for scene in scenes)
    content = json.loads(scenes[0].path.read_text())
    objects = [entry for name in OBJECT_LISTS for entry in content[name]]
    parts = [entry[key].strip() for entry in objects for key in ("description", "explanation")]
    answer = scenes[0].questions[0].answer
    places = [answer.index(part) for part in parts]
    assert places == sorted(places)
    assert len(answer) <= sum(map(len, parts)) + 2 * len(parts)


def test_real_present_file_asks_two_questions_and_one_about_a_region(shared_data: Path) -> None:
    skips = Skips()
    (scene,) = read_coda_lm(find_coda_files(shared_data / "codalm" / "official"), skips)
    assert (scene.token, scene.split, scene.image_split) == ("coda_lm-test_0353", "val", "test")
    assert [q.kind for q in scene.questions] == ["general", "suggestion"]
    (found,) = scene.regions
    assert (found.box_xywh_px, found.category) == ((826, 552, 87, 139), "traffic_cone")
    assert not skips.counts
