"""clkd_core.runtime.sync: which images belong together, and to which label."""

import random

import pytest

from clkd_core.errors import ConfigError
from clkd_core.runtime.sync import (
    NS_PER_MS,
    FrameAssembler,
    SetMatcher,
    SyncConfig,
    match_stamps,
)
from clkd_core.types import CAMERAS, CameraImage

MS = NS_PER_MS


def run(
    pushes: list[tuple[str, int]], **config: float
) -> tuple[list[tuple[int, int]], SetMatcher[int]]:
    """((stamp in ms, number of cameras) of every set, and the matcher) for (camera, ms) pushes."""
    matcher: SetMatcher[int] = SetMatcher(SyncConfig(**config))
    sets = [one for camera, ms in pushes for one in matcher.push(camera, ms * MS, ms)]
    sets += matcher.flush()
    return [(one.stamp_ns // MS, len(one.items)) for one in sets], matcher


def stream(
    steps: int,
    cameras: tuple[str, ...] = CAMERAS,
    period_ms: int = 100,
    start_ms: int = 5000,
    apart_ms: int = 7,
) -> list[tuple[str, int]]:
    """Every camera at every step."""
    return [
        (camera, start_ms + step * period_ms + apart_ms * place)
        for step in range(steps)
        for place, camera in enumerate(cameras)
    ]


def test_complete_sets_come_out_at_once_with_the_newest_stamp() -> None:
    matcher: SetMatcher[int] = SetMatcher()
    for camera, ms in stream(1)[:-1]:
        assert matcher.push(camera, ms * MS, ms) == []
    (only,) = matcher.push("CAM_BACK", 5035 * MS, 5035)
    assert (only.first_ns, only.stamp_ns) == (5000 * MS, 5035 * MS)
    assert only.items == {camera: 5000 + 7 * place for place, camera in enumerate(CAMERAS)}


def test_order_of_arrival_between_cameras_does_not_change_the_sets() -> None:
    pushes = stream(30)
    expected, _ = run(pushes)
    assert len(expected) == 30 and {size for _, size in expected} == {6}
    for seed in range(20):
        shaken = list(pushes)
        rng = random.Random(seed)
        for at in range(0, len(shaken), 6):
            block = shaken[at : at + 6]
            rng.shuffle(block)
            shaken[at : at + 6] = block
        assert run(shaken)[0] == expected


def test_lost_image_gives_a_set_of_five_as_soon_as_its_camera_sends_the_next() -> None:
    pushes = [push for push in stream(5) if push != ("CAM_BACK", 5235)]
    sets, matcher = run(pushes)
    assert sets == [(5035, 6), (5135, 6), (5228, 5), (5335, 6), (5435, 6)]
    assert not matcher.dropped


def test_single_camera_is_waited_for_only_once() -> None:
    matcher: SetMatcher[int] = SetMatcher()
    counts = [len(matcher.push("CAM_FRONT", step * 100 * MS, step)) for step in range(10)]
    assert counts == [0, 0, 0, 4, 1, 1, 1, 1, 1, 1]
    assert set(matcher.silent_cameras) == set(CAMERAS) - {"CAM_FRONT"}


def test_single_slow_camera_still_gives_every_set() -> None:
    sets, matcher = run(stream(10, ("CAM_FRONT",), period_ms=500))
    assert [size for _, size in sets] == [1] * 10 and not matcher.dropped


def test_camera_that_dies_is_masked_and_comes_back() -> None:
    dead = [push for push in stream(40) if push[0] != "CAM_BACK" or not 6000 < push[1] < 7000]
    sets, matcher = run(dead)
    assert [size for _, size in sets].count(5) in (9, 10, 11)
    assert len(sets) == 40 and sets[-1] == (8935, 6)
    assert sum(matcher.dropped.values()) <= 1
    assert matcher.silent_cameras == ()


def test_pause_of_all_cameras_is_nobodys_silence() -> None:
    sets, matcher = run(stream(3) + stream(3, start_ms=20000) + stream(3, start_ms=23000))
    assert [size for _, size in sets] == [6] * 9 and not matcher.dropped


def test_bag_that_loops_starts_over_and_gives_the_same_sets_again() -> None:
    once, _ = run(stream(20))
    twice, matcher = run(stream(20) * 2)
    assert twice == once * 2 and not matcher.dropped


def test_pending_images_are_counted_when_time_jumps_back() -> None:
    sets, matcher = run(stream(20)[:-2] + stream(20))
    assert len(sets) == 19 + 20
    assert matcher.dropped == {"time jumped": 4}


def test_duplicates_late_and_foreign_images_are_counted_by_reason() -> None:
    _, matcher = run([*stream(2), ("CAM_FRONT", 5100), ("CAM_FRONT", 5050), ("CAM_TOP", 5200)])
    assert matcher.dropped == {"duplicate": 1, "late": 1, "unexpected camera": 1}


@pytest.mark.parametrize("period_ms", [17, 33, 42])
def test_cameras_faster_than_the_tolerance_still_give_every_set(period_ms: int) -> None:
    for cameras in (CAMERAS, CAMERAS[:1]):
        sets, matcher = run(stream(60, cameras, period_ms=period_ms, apart_ms=2))
        newest = 5000 + 2 * (len(cameras) - 1)
        assert sets == [(newest + period_ms * step, len(cameras)) for step in range(60)]
        assert not matcher.dropped


def test_lost_image_of_fast_cameras_costs_its_own_set_only() -> None:
    pushes = stream(30, period_ms=33, apart_ms=2)
    pushes.remove(("CAM_FRONT_LEFT", 5002 + 33 * 10))
    sets, _ = run(pushes)
    assert [size for _, size in sets] == [6] * 10 + [5] + [6] * 19


def test_camera_out_of_phase_never_makes_a_set_of_its_own() -> None:
    others = CAMERAS[:-1]
    pushes = [
        push
        for step in range(20)
        for push in [(c, 5000 + 100 * step) for c in others] + [("CAM_BACK", 5055 + 100 * step)]
    ]
    sets, matcher = run(pushes, tolerance_ms=40.0)
    assert {size for _, size in sets} == {5} and len(sets) == 20
    assert matcher.dropped["unmatched"] == 20


def test_sets_never_go_backwards_or_repeat_whatever_arrives() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        now = 0
        pushes = []
        for _ in range(400):
            now += rng.randint(0, 40)
            pushes.append((rng.choice(CAMERAS), now - rng.randint(0, 90)))
        stamps = [stamp for stamp, _ in run(pushes)[0]]
        assert stamps == sorted(set(stamps))


def test_config_refuses_unknown_cameras_and_times_that_are_not_positive() -> None:
    with pytest.raises(ConfigError, match="CAM_TOP"):
        SyncConfig(cameras=("CAM_TOP",))
    with pytest.raises(ConfigError, match=r"tolerance_ms is nan, expected more than 0"):
        SyncConfig(tolerance_ms=float("nan"))


def test_flush_gives_the_frames_that_waited_for_a_camera() -> None:
    assembler = FrameAssembler()
    for camera in CAMERAS[:4]:
        assert assembler.push_image(camera, CameraImage(stamp_ns=MS, encoded=b"x")) == []
    (frame,) = assembler.flush()
    assert frame.degraded_reasons[0] == "no image from CAM_BACK_RIGHT CAM_BACK"
    assert assembler.flush() == []


def test_match_stamps_pairs_nearest_once_and_only_within_tolerance() -> None:
    assert match_stamps([100, 200, 300], [205, 95, 290, 400], 20) == {205: 200, 95: 100, 290: 300}
    assert match_stamps([100], [99, 102], 5) == {99: 100}
    assert match_stamps([], [1], 5) == {}


def test_match_stamps_by_itself_reaches_no_neighbour_at_12_hz() -> None:
    label = 10_000 * MS
    frames = [label - 83 * MS, label - 40 * MS - 1, label + 83 * MS]
    assert match_stamps(frames, [label]) == {}
    assert match_stamps([label - 40 * MS], [label]) == {label: label - 40 * MS}
