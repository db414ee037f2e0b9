"""Drives of the synthetic world: reproducible, caused by what can be seen, never repeated."""

import itertools
from collections import Counter

import numpy as np
import pytest

from clkd_core.data.keyframes import HISTORY_STEPS
from clkd_core.data.labels import lidar_from_ego, meta_action_from_future
from clkd_core.data.world.config import CORNER_CASES, WorldConfig
from clkd_core.data.world.frames import drive_frames, drive_start_ns
from clkd_core.data.world.generate import refuse_repeated_layouts
from clkd_core.data.world.questions.facts import light_ahead
from clkd_core.data.world.scene.actors import Actor, standing
from clkd_core.data.world.scene.build import build_drive, build_layout
from clkd_core.data.world.scene.motion import relative_xy
from clkd_core.data.world.scene.script import SPLITS, corner_drives, plan_drives
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS, PathAction, RouteCommand, SpeedAction

CONFIG = WorldConfig(train_drives=72, val_drives=12, width_px=128, height_px=72)


@pytest.fixture(scope="module")
def drives():
    return [build_drive(spec, CONFIG) for spec in plan_drives(CONFIG, "train")]


@pytest.fixture(scope="module")
def moments(drives):
    """(drive, time, action, speed) of every keyframe."""
    return [
        (drive, float(t), drive.action(float(t)), drive.motion.at(float(t))[1])
        for drive in drives
        for t in drive.key_times_s
    ]


def test_same_seed_gives_the_same_bytes_and_another_seed_others():
    def first_frame(seed):
        config = WorldConfig(seed=seed, train_drives=4, width_px=128, height_px=72)
        return next(drive_frames(plan_drives(config, "train")[1], config))

    one, again, other = first_frame(3), first_frame(3), first_frame(4)
    assert one.images == again.images
    assert one.ego_pose == again.ego_pose
    assert one.images != other.images


def test_every_speed_action_holds_a_fair_share(moments):
    share = Counter(action.speed for _, _, action, _ in moments)
    for speed in SpeedAction:
        assert share[speed] / len(moments) >= 0.11, speed
    path = Counter(action.path for _, _, action, _ in moments)
    assert path[PathAction.LEFT_TURN] / len(moments) >= 0.04
    assert path[PathAction.RIGHT_TURN] / len(moments) >= 0.04


def test_at_least_two_of_five_standing_keyframes_are_about_to_start(moments):
    stands = [action.speed for _, _, action, speed in moments if speed < 0.5]
    starts = sum(speed != SpeedAction.STOP for speed in stands)
    assert len(stands) > 100
    assert starts / len(stands) >= 0.4


def test_turn_commands_do_not_tell_when_to_turn(moments):
    turning = [
        action.path
        for drive, t, action, _ in moments
        if drive.command(t) in (RouteCommand.LEFT, RouteCommand.RIGHT)
    ]
    assert len(turning) > 50
    assert 0.3 < sum(p == PathAction.STRAIGHT for p in turning) / len(turning) < 0.9


def test_light_shows_what_the_label_says(moments):
    """Braking or standing for a light: it is red or amber; about to start: it is not just red."""
    checked = 0
    for drive, t, action, speed in moments:
        if drive.spec.cause != "red_light" or light_ahead(drive, t) is None:
            continue
        state = drive.signal.state_at(t)
        if action.speed == SpeedAction.STOP:
            assert state in ("red", "amber"), (drive.spec.name, t)
        elif speed < 0.5:
            assert state in ("red_amber", "green"), (drive.spec.name, t)
        checked += 1
    assert checked > 100


def test_brake_lights_of_the_lead_tell_stop_from_start(moments):
    stands = [
        (drive, t, action)
        for drive, t, action, speed in moments
        if drive.spec.cause == "lead_stop" and speed < 0.1
    ]
    assert len(stands) > 20
    for drive, t, action in stands:
        lead = next(a for a in drive.actors if a.role == "lead")
        assert lead.is_on(t) == (action.speed == SpeedAction.STOP), (drive.spec.name, t)


def test_pedestrian_is_in_the_lane_exactly_while_the_ego_must_stand(moments):
    checked = 0
    for drive, t, action, speed in moments:
        if drive.spec.cause != "pedestrian" or speed > 0.1:
            continue
        offset = drive.layout.lane_offset_m("straight")
        people = [a.pose_at(t)[1] + offset for a in drive.actors if a.role == "cause"]
        inside = any(abs(y) < drive.layout.lane_m / 2 for y in people)
        assert inside == (action.speed == SpeedAction.STOP), (drive.spec.name, t, people)
        checked += 1
    assert checked > 20


def test_ego_never_drives_into_anybody(drives):
    for drive in drives:
        for t in np.arange(0.0, CONFIG.drive_s + 3.0, 0.25):
            ego = drive.ego_pose(t)
            for actor in drive.near_actors(t):
                x, y = relative_xy(ego[None], actor.pose_at(t)[None, None, :2])[0, 0]
                reach = 0.3 if actor.kind in ("pedestrian", "flagger") else 0.75
                assert not (-0.9 < x < 3.7 and abs(y) < 0.9 + reach), (drive.spec, t, actor.name)


def test_future_is_the_ego_pose_seen_from_now(drives):
    for drive in drives[::9]:
        for t in drive.key_times_s[::5]:
            later = np.stack([drive.ego_world_pose(t + 0.5 * i) for i in range(1, 7)])
            xy = relative_xy(drive.ego_world_pose(t)[None], later[None, :, :2])[0]
            assert np.abs(drive.future(t).xy_m - xy).max() < 1e-3
            assert drive.action(t) == meta_action_from_future(lidar_from_ego(xy))


def test_odometry_agrees_with_the_poses(drives):
    step = 0.02
    for drive in drives[::7]:
        for t in np.arange(0.5, 8.0, 0.9):
            before, after = drive.ego_world_pose(t - step), drive.ego_world_pose(t + step)
            ego = drive.ego_state(t, 0)
            moved = np.linalg.norm(after[:2] - before[:2]) / (2 * step)
            assert moved == pytest.approx(ego.speed_mps, abs=0.08)
            turned = (after[2] - before[2]) / (2 * step)
            assert turned == pytest.approx(ego.yaw_rate_radps, abs=0.12)


def test_corner_cases_come_seventeen_to_one_in_training():
    config = WorldConfig(train_drives=108, val_drives=14)
    names = Counter(spec.case_name for spec in plan_drives(config, "train"))
    assert names["regular"] == 102
    assert corner_drives(config, "train") == 6
    val = [spec.case_name for spec in plan_drives(config, "val")]
    assert set(val) == {"regular", *CORNER_CASES}
    assert val.count("regular") <= 0.7 * len(val)


def test_a_dozen_validation_drives_hold_every_action_we_make():
    seen = Counter()
    for spec in plan_drives(CONFIG, "val"):
        drive = build_drive(spec, CONFIG)
        for t in drive.key_times_s:
            action = drive.action(t)
            seen.update([action.speed.name, action.path.name])
    for name in ("KEEP", "ACCELERATE", "DECELERATE", "STOP", "LEFT_TURN", "RIGHT_TURN"):
        assert seen[name] >= 8, seen


def test_validation_never_repeats_a_training_layout(monkeypatch):
    digests = [build_layout(s).digest() for s in plan_drives(CONFIG, "train")]
    assert len(set(digests)) == len(digests)
    refuse_repeated_layouts(CONFIG)
    monkeypatch.setattr(
        "clkd_core.data.world.generate.plan_drives",
        lambda config, split: plan_drives(config, "val"),
    )
    with pytest.raises(DataError, match="layouts are in both splits"):
        refuse_repeated_layouts(CONFIG)


def test_frames_of_a_bag_are_staggered_and_hold_the_keyframes():
    config = WorldConfig(drive_s=2.0, width_px=128, height_px=72)
    spec = plan_drives(config, "val")[0]
    frames = list(drive_frames(spec, config, hz=10.0))
    assert [f.is_keyframe for f in frames] == [i % 5 == 0 for i in range(20)]
    assert frames[0].stamp_ns == drive_start_ns(spec)
    assert {b.stamp_ns - a.stamp_ns for a, b in itertools.pairwise(frames)} == {10**8}
    for frame in frames:
        assert list(frame.images) == list(CAMERAS)
        assert max(frame.image_stamps_ns.values()) == frame.stamp_ns
        assert min(frame.image_stamps_ns.values()) > frame.stamp_ns - 50_000_000


def test_layouts_never_repeat_within_or_between_splits_of_many_seeds():
    digests = [
        build_layout(spec).digest()
        for seed in range(20)
        for split in SPLITS
        for spec in plan_drives(WorldConfig(seed=seed, train_drives=126, val_drives=26), split)
    ]
    assert len(digests) == 20 * 152
    assert len(set(digests)) == len(digests)


def test_every_corner_type_is_named_at_every_keyframe():
    config = WorldConfig(val_drives=7, val_corner_frac=1.0, drive_s=2.0, width_px=64, height_px=36)
    named = Counter()
    for spec in plan_drives(config, "val"):
        frames = list(drive_frames(spec, config))
        assert {f.case_name for f in frames} == {spec.case_name}
        named[spec.case_name] += len(frames)
    assert named == dict.fromkeys(CORNER_CASES, 4)


def test_history_is_where_the_ego_was_seen_from_now(drives):
    for drive in drives[::9]:
        for t in drive.key_times_s[4::5]:
            poses = np.stack([drive.ego_world_pose(t - s) for s in (2.0, 1.5, 1.0, 0.5)])
            xy = relative_xy(drive.ego_world_pose(t)[None], poses[None, :, :2])[0]
            assert np.abs(drive.history(t) - xy).max() < 1e-3
            assert (drive.history(t)[:, 0] < 0.01).all()


def test_history_begins_when_two_seconds_lie_behind():
    config = WorldConfig(drive_s=4.0, width_px=64, height_px=36)
    frames = list(drive_frames(plan_drives(config, "val")[0], config, hz=10.0))
    assert [f.history is not None for f in frames] == [i >= 20 for i in range(40)]
    assert all(f.history.shape == (HISTORY_STEPS, 2) for f in frames[20:])


def test_questions_are_asked_at_keyframes_only():
    config = WorldConfig(drive_s=2.0, width_px=64, height_px=36)
    frames = drive_frames(plan_drives(config, "val")[0], config, hz=10.0)
    assert [bool(f.questions) for f in frames] == [i % 5 == 0 for i in range(20)]


def test_whoever_stands_at_the_first_keyframe_is_told_from_who_moves():
    """Tracks begin with the drive; the half second before the first keyframe is not there."""
    moves = np.stack([0.3 * np.arange(100), np.zeros(100), np.zeros(100)], axis=-1)
    car = Actor(name="car", kind="car", color=(0, 0, 0), poses=moves)
    assert [car.moves_at(t) for t in (0.0, 0.1, 5.0, 9.9, 12.0)] == [True] * 5
    parked = Actor(name="car", kind="car", color=(0, 0, 0), poses=standing(1.0, 2.0, 0.0))
    assert not parked.moves_at(0.0)
    assert not parked.moves_at(5.0)
