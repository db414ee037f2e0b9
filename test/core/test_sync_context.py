"""clkd_core.runtime.sync: the odometry and route command of a frame, whatever comes when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clkd_core.runtime.sync import (
    JUMP_NS,
    NS_PER_MS,
    FrameAssembler,
    FrameContext,
    LatestBefore,
)
from clkd_core.types import CAMERAS, CameraImage, EgoState, RouteCommand, SurroundFrame

MS = NS_PER_MS
LEFT, RIGHT = RouteCommand.LEFT, RouteCommand.RIGHT


def ego_at(ms: float) -> EgoState:
    """Odometry whose speed tells its stamp."""
    return EgoState(stamp_ns=round(ms * MS), speed_mps=float(ms))


def assemble(assembler: FrameAssembler, ms: int) -> list[SurroundFrame]:
    image = CameraImage(stamp_ns=ms * MS, encoded=b"x")
    return [frame for camera in CAMERAS for frame in assembler.push_image(camera, image)]


def test_latest_before_gives_the_last_value_at_or_before_also_when_it_came_late() -> None:
    values: LatestBefore[str] = LatestBefore()
    assert values.at(5) is None and values.newest() is None
    for stamp, value in ((10, "a"), (20, "b"), (15, "late")):
        values.push(stamp, value)
    assert values.at(9) is None
    assert values.at(10) == (10, "a") and values.at(14) == (10, "a")
    assert values.at(15) == (15, "late") and values.at(19) == (15, "late")
    assert values.at(20) == values.at(10**9) == values.newest() == (20, "b")


@given(
    stamps=st.lists(st.integers(0, 50), max_size=40),
    asked=st.integers(-1, 51),
    keep=st.integers(1, 50),
)
def test_latest_before_agrees_with_a_search_through_all(
    stamps: list[int], asked: int, keep: int
) -> None:
    values: LatestBefore[int] = LatestBefore(keep)
    for number, stamp in enumerate(stamps):
        values.push(stamp, number)
    remembered = sorted((stamp, number) for number, stamp in enumerate(stamps))[-keep:]
    fitting = [entry for entry in remembered if entry[0] <= asked]
    assert values.at(asked) == (fitting[-1] if fitting else None)


def test_latest_before_begins_again_when_time_does() -> None:
    values: LatestBefore[str] = LatestBefore()
    values.push(5 * JUMP_NS, "end of the first round")
    values.push(4 * JUMP_NS, "start of the second")
    assert values.at(9 * JUMP_NS) == (4 * JUMP_NS, "start of the second")


def test_frame_takes_the_odometry_at_its_very_stamp_and_none_after_it() -> None:
    assembler = FrameAssembler()
    for ms in (980, 1000, 1001):
        assembler.context.push_ego(ego_at(ms))
    (frame,) = assemble(assembler, 1000)
    assert frame.ego == ego_at(1000)


def test_odometry_that_comes_late_counts_by_its_stamp_for_frames_that_are_not_made_yet() -> None:
    assembler = FrameAssembler()
    for ms in (960, 1140):
        assembler.context.push_ego(ego_at(ms))
    (before,) = assemble(assembler, 1000)
    assembler.context.push_ego(ego_at(990))  # too late for the frame of 1000, which nobody held
    (after,) = assemble(assembler, 1100)
    assert (before.ego, after.ego) == (ego_at(960), ego_at(990))


def test_late_odometry_does_not_hide_what_is_newer() -> None:
    assembler = FrameAssembler()
    for ms in (1040, 990):
        assembler.context.push_ego(ego_at(ms))
    (frame,) = assemble(assembler, 1050)
    assert frame.ego == ego_at(1040)


@pytest.mark.parametrize("stamp_ms", [980, 1000])
def test_bad_odometry_counts_by_its_stamp_like_a_good_one(stamp_ms: int) -> None:
    assembler = FrameAssembler()
    assembler.context.push_ego(ego_at(970))
    assembler.context.push_ego_fault(stamp_ms * MS, "odometry is NaN")
    (broken,) = assemble(assembler, 1000)
    assert broken.ego is None and broken.faults == ("odometry is NaN",)
    assembler.context.push_ego_fault(1150 * MS, "odometry is NaN")
    assembler.context.push_ego(ego_at(1090))
    (good,) = assemble(assembler, 1100)
    assert good.ego == ego_at(1090) and good.faults == ()


def test_odometry_is_too_old_by_its_stamp() -> None:
    assembler = FrameAssembler()
    assembler.context.push_ego(ego_at(1000))
    (fresh,) = assemble(assembler, 1500)
    assert fresh.ego == ego_at(1000)
    (old,) = assemble(assembler, 1560)
    assert old.ego is None and old.faults == ("odometry is 0.6 s old",)


def test_command_holds_for_the_frames_whose_newest_image_comes_after_it() -> None:
    assembler = FrameAssembler()
    assembler.context.push_command(LEFT)
    frames = assemble(assembler, 1000)
    assembler.context.push_command(RIGHT)
    for ms in (1100, 1200):
        frames += assemble(assembler, ms)
    assert [frame.command for frame in frames] == [LEFT, RIGHT, RIGHT]


def test_command_that_comes_while_a_frame_waits_for_an_older_image_is_not_yet_its() -> None:
    assembler = FrameAssembler()
    assembler.context.push_command(LEFT)
    for camera in CAMERAS[:-1]:
        assembler.push_image(camera, CameraImage(stamp_ns=1010 * MS, encoded=b"x"))
    assembler.context.push_command(RIGHT)
    last = CameraImage(stamp_ns=1000 * MS, encoded=b"x")
    (frame,) = assembler.push_image(CAMERAS[-1], last)
    assert (frame.stamp_ns, frame.command) == (1010 * MS, LEFT)
    (following,) = assemble(assembler, 1100)
    assert following.command is RIGHT


def test_command_that_comes_before_the_newest_image_of_a_frame_is_its() -> None:
    assembler = FrameAssembler()
    for camera in CAMERAS[:-1]:
        assembler.push_image(camera, CameraImage(stamp_ns=1000 * MS, encoded=b"x"))
    assembler.context.push_command(RIGHT)
    (frame,) = assembler.push_image(CAMERAS[-1], CameraImage(stamp_ns=1010 * MS, encoded=b"x"))
    assert frame.command is RIGHT


def test_two_commands_between_two_frames_leave_the_second() -> None:
    assembler = FrameAssembler()
    (none,) = assemble(assembler, 1000)
    assembler.context.push_command(LEFT)
    assembler.context.push_command(RIGHT)
    (frame,) = assemble(assembler, 1100)
    assert (none.command, frame.command) == (None, RIGHT)


def test_unknown_phrase_degrades_frames_until_a_known_one_follows() -> None:
    assembler = FrameAssembler()
    assembler.context.push_command(LEFT)
    assembler.context.push_command_fault("route command is 'fly'")
    (bad,) = assemble(assembler, 1000)
    assembler.context.push_command(RIGHT)
    (good,) = assemble(assembler, 1100)
    assert bad.command is None and bad.faults == ("route command is 'fly'",)
    assert good.command is RIGHT and good.faults == ()


def test_command_survives_a_loop_of_the_bag_and_is_replaced_in_it() -> None:
    context = FrameContext(ego_max_age_ms=500.0)
    context.push_command(LEFT)
    context.push_image_stamp(9 * JUMP_NS)
    context.push_command(RIGHT)
    context.push_image_stamp(1 * JUMP_NS)
    assert context.at(1 * JUMP_NS).command is RIGHT
    context.push_command(LEFT)
    context.push_image_stamp(1 * JUMP_NS + 100 * MS)
    assert context.at(1 * JUMP_NS).command is RIGHT
    assert context.at(1 * JUMP_NS + 100 * MS).command is LEFT


def test_one_absurd_image_stamp_does_not_cost_the_command() -> None:
    context = FrameContext(ego_max_age_ms=500.0)
    context.push_command(LEFT)
    for stamp_ns in (1000 * MS, 10**18, 1100 * MS, 0, 1200 * MS):
        context.push_image_stamp(stamp_ns)
        assert context.at(stamp_ns).command is LEFT


def test_frame_says_what_was_wrong_with_its_inputs() -> None:
    assembler = FrameAssembler()
    assembler.context.push_ego(ego_at(0))
    assembler.context.push_command_fault("route command is 'fly'")
    (old,) = assemble(assembler, 2000)
    assert old.ego is None and old.command is None
    assert set(old.degraded_reasons) == {
        "odometry is 2.0 s old",
        "no odometry",
        "route command is 'fly'",
        "no route command",
    }
