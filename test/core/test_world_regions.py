"""Red boxes of corner cases: around what is drawn, only where it can be looked at."""

from dataclasses import replace

import numpy as np
import pytest

from clkd_core.data.keyframes import surround_frame
from clkd_core.data.sidecar import load_keyframes
from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.frames import build_questions
from clkd_core.data.world.generate import write_world
from clkd_core.data.world.overview import share_lines, whole_scenes
from clkd_core.data.world.questions.regions import WHAT, actor_outline, visible_box
from clkd_core.data.world.questions.sight import see
from clkd_core.data.world.render.cameras import build_cameras
from clkd_core.data.world.render.renderer import DriveRenderer
from clkd_core.data.world.scene.actors import standing
from clkd_core.data.world.scene.build import build_drive
from clkd_core.data.world.scene.script import DriveSpec, plan_drives

CONFIG = WorldConfig(width_px=640, height_px=360)
SET = WorldConfig(
    train_drives=4,
    val_drives=1,
    regular_per_corner=1.0,
    drive_s=4.0,
    width_px=320,
    height_px=180,
    workers=1,
)


def corner_drive(cause, case, window="stand", seed=5):
    spec = DriveSpec(
        name="train-0000",
        split="train",
        index=0,
        seed=seed,
        case_name=case,
        cause=cause,
        manoeuvre="straight",
        window=window,
    )
    return build_drive(spec, CONFIG)


def regions_of(drive, times):
    """(time, what is asked about a part) of the keyframes that have such questions."""
    renderer = DriveRenderer(drive)
    found = ((float(t), build_questions(drive, renderer, float(t))[1]) for t in times)
    return [(t, about) for t, about in found if about is not None]


def drawn_box(drive, actor, camera, t):
    """Left, top, right, bottom of the pixels that change when the actor is taken away."""
    others = tuple(a for a in drive.actors if a.name != actor.name)
    with_it = DriveRenderer(drive).render(t)[camera].astype(int)
    without = DriveRenderer(replace(drive, actors=others)).render(t)[camera].astype(int)
    rows, columns = np.nonzero(np.abs(with_it - without).max(axis=-1) > 12)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize(
    ("cause", "case"),
    [("jaywalker", "jaywalker"), ("animal", "animal"), ("blocked_lane", "blocked_lane")],
)
def test_the_outline_is_that_of_the_pixels_drawn(cause, case):
    drive = corner_drive(cause, case)
    actor = next(a for a in drive.actors if a.role == "cause" and a.name != "works-truck")
    drive = replace(drive, actors=(actor,))
    camera = build_cameras(640, 360)["CAM_FRONT"]
    outline = actor_outline(drive, 0.0, actor, camera)
    drawn = drawn_box(drive, actor, "CAM_FRONT", 0.0)
    assert outline == pytest.approx(np.clip(drawn, 0, [640, 360, 640, 360]), abs=2.5)


def test_the_box_of_a_road_worker_holds_the_paddle():
    drive = corner_drive("blocked_lane", "blocked_lane")
    flagger = next(a for a in drive.actors if a.kind == "flagger")
    camera = build_cameras(640, 360)["CAM_FRONT"]
    drive = replace(drive, actors=(flagger,))
    outline = actor_outline(drive, 0.0, flagger, camera)
    image = DriveRenderer(drive).render(0.0)["CAM_FRONT"].astype(int)
    red = (image[..., 0] > 180) & (image[..., 1] < 60) & (image[..., 2] < 60)
    rows, columns = np.nonzero(red)
    assert len(rows) > 50
    assert outline[0] - 1 <= columns.min() <= columns.max() <= outline[2] + 1
    assert outline[1] - 1 <= rows.min() <= rows.max() <= outline[3] + 1


def test_a_box_is_refused_where_it_is_small_outside_or_behind():
    camera = build_cameras(640, 360)["CAM_FRONT"]
    assert visible_box(None, camera) is None
    assert visible_box(np.array([100.0, 100.0, 104.0, 110.0]), camera) is None
    assert visible_box(np.array([-100.0, 100.0, 100.0, 200.0]), camera) is None
    assert visible_box(np.array([700.0, 100.0, 900.0, 200.0]), camera) is None
    assert visible_box(np.array([-20.0, 100.4, 180.0, 200.0]), camera) == (0, 100, 180, 100)
    drive = corner_drive("jaywalker", "jaywalker")
    behind = replace(drive.actors[0], poses=standing(*(drive.ego_pose(0.0) - [9.0, 0.0, 0.0])))
    assert actor_outline(drive, 0.0, behind, camera) is None


def test_regular_drives_have_no_red_box():
    drive = corner_drive("pedestrian", "regular")
    assert regions_of(drive, drive.key_times_s) == []


def test_no_red_box_where_none_is_wanted():
    drive = corner_drive("jaywalker", "jaywalker")
    assert regions_of(drive, [0.0])
    unwanted = replace(drive, config=replace(CONFIG, region_questions=False))
    assert regions_of(unwanted, [0.0]) == []


@pytest.mark.parametrize(
    ("cause", "case", "told"),
    [
        ("jaywalker", "jaywalker", "A pedestrian on the road."),
        ("animal", "animal", "An animal on the road."),
        ("red_light", "hidden_sign", "A red traffic light behind leaves."),
        ("red_light", "night", "A red traffic light."),
        ("lead_stop", "fog", "A braking "),
    ],
)
def test_the_box_tells_what_makes_the_drive_a_corner_case(cause, case, told):
    drive = corner_drive(cause, case)
    _, about = regions_of(drive, [0.0])[0]
    assert about.questions[0].question == WHAT
    assert about.questions[0].answer.startswith(told)
    assert {qa.kind for qa in about.questions} == {"region"}


def test_roadworks_are_shown_part_by_part():
    drive = corner_drive("blocked_lane", "blocked_lane")
    found = regions_of(drive, drive.key_times_s)
    told = {about.questions[0].answer for _, about in found}
    assert "A road barrier." in told
    assert "A road worker with a red sign." in told
    for t, about in found:
        flagger = next(a for a in drive.actors if a.kind == "flagger")
        if about.questions[0].answer.startswith("A road worker"):
            assert ("red" in about.questions[0].answer) == flagger.is_on(t)
            assert (about.questions[2].answer == "Wait.") == flagger.is_on(t)


def test_a_box_around_a_light_holds_its_lit_lamp():
    drive = corner_drive("red_light", "night")
    _, about = regions_of(drive, [0.0])[0]
    left, top, width, height = (int(v) for v in about.region.box_xywh_px)
    image = DriveRenderer(drive).render(0.0)[about.region.camera].astype(int)
    inside = image[top : top + height, left : left + width]
    assert ((inside[..., 0] > 200) & (inside[..., 1] < 90)).mean() > 0.1
    board = image[top + height - 2, left + width // 2]
    assert np.ptp(board) < 30  # the grey of the backboard, below the housing


def test_what_was_passed_does_not_matter_any_more():
    drive = corner_drive("animal", "animal")
    ego = drive.ego_pose(0.0)
    animal = next(a for a in drive.actors if a.kind == "animal")
    behind = ego[:2] - 10.0 * np.array([np.cos(ego[2]), np.sin(ego[2])])
    drive = replace(drive, actors=(replace(animal, poses=standing(*behind, ego[2])),))
    _, about = regions_of(drive, [0.0])[0]
    assert about.region.camera == "CAM_BACK"
    assert [qa.answer for qa in about.questions] == [
        "An animal.",
        "We have passed it.",
        "Drive on.",
    ]


def test_boxes_are_inside_their_image_and_around_somebody_seen():
    config = WorldConfig(val_drives=7, val_corner_frac=1.0, width_px=320, height_px=180)
    cameras, found = build_cameras(320, 180), 0
    for spec in plan_drives(config, "val"):
        drive = build_drive(spec, config)
        renderer = DriveRenderer(drive)
        for t in drive.key_times_s[::4]:
            about = build_questions(drive, renderer, float(t))[1]
            if about is None:
                continue
            left, top, width, height = about.region.box_xywh_px
            assert 0 <= left < left + width <= 320
            assert 0 <= top < top + height <= 180
            assert height >= 9
            seen = {
                s.camera
                for s in see(drive, float(t), cameras, renderer.walls, renderer.weather.fog_m)
            }
            assert about.region.camera in seen | {"CAM_FRONT"}
            found += 1
    assert found >= 15


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same world with red boxes and without."""
    folder = tmp_path_factory.mktemp("regions")
    write_world(SET, folder / "with")
    write_world(replace(SET, region_questions=False), folder / "without")
    return [load_keyframes(folder / name, SET.version, "train") for name in ("with", "without")]


def test_twins_carry_no_plan_and_leave_the_labelled_keyframes_as_they_are(sets):
    with_boxes, without = (list(keyframes) for keyframes in sets)
    twins = [k for k in with_boxes if k.region is not None]
    labelled = [k for k in with_boxes if k.region is None]
    assert len(twins) >= 3
    assert [k.sample_token for k in labelled] == [k.sample_token for k in without]
    assert [k.action for k in labelled] == [k.action for k in without]
    assert len({k.sample_token for k in with_boxes}) == len(with_boxes)
    for twin in twins:
        assert twin.is_corner
        assert twin.action is None and twin.future is None
        assert {qa.kind for qa in twin.questions} == {"region"}
        (whole,) = (k for k in labelled if k.stamp_ns == twin.stamp_ns)
        assert twin.image_paths == whole.image_paths


def test_a_twin_is_read_with_its_box_drawn(sets):
    twin = next(k for k in sets[0] if k.region is not None)
    whole = next(k for k in sets[0] if k.stamp_ns == twin.stamp_ns)
    boxed = surround_frame(twin).images[twin.region.camera]
    plain = surround_frame(whole).images[twin.region.camera]
    assert boxed != plain


def test_shares_count_each_instant_once(sets):
    with_boxes, without = sets
    assert share_lines(with_boxes)[:-1] == share_lines(without)[:-1]
    assert "region" in share_lines(with_boxes)[-1]
    assert len(whole_scenes(with_boxes)) == len(without)
