"""What a node makes of its inputs is what direct replay makes of a bag with the same order."""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fakes import jpeg_bytes

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import BagWriter, write_bag
from clkd_core.data.bags.frames import read_frames
from clkd_core.data.bags.messages import Pose, image_to_msg, odometry_to_msg
from clkd_core.data.bags.ros_types import message_class
from clkd_core.errors import FrameError
from clkd_core.metrics.frames import FrameRow
from clkd_core.runtime.health import Health
from clkd_core.runtime.ledger import KeyframeLedger
from clkd_core.types import (
    CAMERAS,
    META_ACTIONS,
    CameraImage,
    EgoState,
    RouteCommand,
    SurroundFrame,
)
from clkd_ros import messages, middleware, sightings
from clkd_ros.convert import stamp_to_msg
from clkd_ros.inputs import FrameInputs, InputConfig, TimedFrame, camera_topic
from clkd_ros.middleware import Node

MS = 1_000_000
START_NS = 1_600_000_000_000 * MS
LEFT, RIGHT = RouteCommand.LEFT.value, RouteCommand.RIGHT.value
JPEG = jpeg_bytes()


class Event(NamedTuple):
    """Something arrives: a camera's image, ``odometry`` or ``route``."""

    what: str
    stamp_ns: int = 0
    value: Any = None


def images(ms: int, cameras: Sequence[str] = CAMERAS) -> list[Event]:
    return [Event(camera, START_NS + ms * MS) for camera in cameras]


def odometry(ms: int, speed_mps: float | None = None) -> Event:
    return Event("odometry", START_NS + ms * MS, float(ms) if speed_mps is None else speed_mps)


def route(phrase: str) -> Event:
    return Event("route", value=phrase)


def direct_frames(path: Path, events: Sequence[Event]) -> list[SurroundFrame]:
    """Of a bag that was logged in this order."""
    with write_bag(path) as bag:
        for number, event in enumerate(events):
            log_event(bag, START_NS + number * MS // 10, event)
    return [seen.frame for seen in read_frames(path)]


def log_event(bag: BagWriter, log_ns: int, event: Event) -> None:
    if event.what == "route":
        phrase = message_class(topics.STRING)(data=event.value)
        bag.write(topics.ROUTE_COMMAND, topics.STRING, log_ns, phrase)
    elif event.what == "odometry":
        msg = odometry_to_msg(EgoState(stamp_ns=event.stamp_ns, speed_mps=0.0), Pose())
        msg.twist.twist.linear.x = event.value
        bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, log_ns, msg)
    else:
        image = image_to_msg(event.what, CameraImage(stamp_ns=event.stamp_ns, encoded=JPEG))
        bag.write(topics.image_topic(event.what), topics.COMPRESSED_IMAGE, log_ns, image)


def live_message(event: Event) -> Any:
    if event.what == "route":
        return messages.String(data=event.value)
    if event.what == "odometry":
        msg = messages.Odometry()
        msg.pose.pose.orientation.w = 1.0
        msg.twist.twist.linear.x = event.value
    else:
        msg = messages.CompressedImage(format="jpeg")
        msg.data = JPEG
    msg.header.stamp = stamp_to_msg(event.stamp_ns)
    return msg


@pytest.fixture
def node() -> Iterator[Node]:
    middleware.init(args=[])
    made = Node("listener")
    yield made
    made.destroy_node()
    middleware.try_shutdown()


def live_frames(node: Node, events: Sequence[Event]) -> list[SurroundFrame]:
    """Of a node whose callbacks are run in this order, as its executor would."""
    made: list[TimedFrame] = []
    inputs = FrameInputs(node, InputConfig(), made.append, Health())
    callbacks = {each.topic_name.rpartition("/")[2]: each.callback for each in node.subscriptions}
    for event in events:
        name = camera_topic(event.what).rpartition("/")[2]
        name = {"route": "route_command"}.get(event.what, name)
        callbacks[name](live_message(event))
    frames = [timed.frame for timed in made] + inputs._assembler.flush()
    inputs.close()
    return frames


CASES: dict[str, list[Event]] = {
    "odometry at the frame's very stamp": [odometry(0), odometry(100), *images(100)],
    "odometry of just after it": [odometry(0), odometry(101), *images(100)],
    "odometry that comes late, and before the last image": [
        odometry(50),
        odometry(110),
        *images(100, CAMERAS[:5]),
        odometry(90),
        *images(100, CAMERAS[5:]),
    ],
    "odometry that comes after the frame is complete": [
        odometry(50),
        *images(100),
        odometry(100),
        *images(200),
    ],
    "odometry that is too old": [odometry(0), *images(501)],
    "bad odometry": [odometry(50), odometry(90, math.nan), *images(100), odometry(150)],
    "bad odometry that comes late": [odometry(95), odometry(90, math.nan), *images(100)],
    "route between two frames": [route(LEFT), *images(100), route(RIGHT), *images(200)],
    "route within a frame": [
        route(LEFT),
        *images(100, CAMERAS[:3]),
        route(RIGHT),
        *images(101, CAMERAS[3:]),
    ],
    "route after the newest image of a frame": [
        route(LEFT),
        *images(101, CAMERAS[3:]),
        route(RIGHT),
        *images(100, CAMERAS[:3]),
        *images(200),
    ],
    "no known phrase": [route(LEFT), *images(100), route("fly"), *images(200)],
    "a bag that loops": [
        route(LEFT),
        odometry(8000),
        *images(8000),
        route(RIGHT),
        odometry(90),
        *images(100),
        route(LEFT),
        *images(200),
    ],
    "nothing but images": [*images(100), *images(200)],
}


@pytest.mark.parametrize("case", CASES)
def test_node_and_direct_replay_know_the_same(case: str, node: Node, tmp_path: Path) -> None:
    frames = live_frames(node, CASES[case])
    assert frames and frames == direct_frames(tmp_path / "bag", CASES[case])


def arrivals(seed: int) -> list[Event]:
    """Three seconds of a vehicle whose topics overtake each other, in the order of arrival."""
    rng = random.Random(seed)
    late: list[tuple[float, Event]] = []
    for ms in range(100, 3100, 100):
        for camera in CAMERAS:
            stamp = ms + rng.randint(0, 40)
            if rng.random() > 0.03:
                late.append((stamp + rng.uniform(5, 60), images(stamp, [camera])[0]))
    for ms in range(0, 3100, 20):
        speed = math.nan if rng.random() < 0.05 else None
        late.append((ms + rng.uniform(0, 120), odometry(ms, speed)))
    for _ in range(12):
        late.append((rng.uniform(0, 3000), route(rng.choice([LEFT, RIGHT, "fly"]))))
    return [event for _, event in sorted(late, key=lambda entry: entry[0])]


@pytest.mark.parametrize("seed", range(4))
def test_node_and_direct_replay_agree_however_topics_overtake_each_other(
    seed: int, node: Node, tmp_path: Path
) -> None:
    frames = live_frames(node, arrivals(seed))
    assert frames == direct_frames(tmp_path / "bag", arrivals(seed))
    assert len(frames) > 20
    assert {frame.command for frame in frames} == {None, RouteCommand.LEFT, RouteCommand.RIGHT}
    assert any(frame.ego is None for frame in frames) and any(frame.ego for frame in frames)


def evaluator_row(events: Sequence[Event], stamp_ns: int) -> FrameRow:
    """Of a keyframe whose label comes when all these have come."""
    ledger = KeyframeLedger(tolerance_ns=50 * MS)
    for event in events:
        if event.what in CAMERAS:
            ledger.saw_image(event.what, event.stamp_ns, sent_ns=None, seen_ns=1)
            continue
        note = sightings.note_command if event.what == "route" else sightings.note_odometry
        try:
            note(ledger, live_message(event), 1)
        except FrameError:
            pass
    action = META_ACTIONS[0]
    ledger.saw_label(stamp_ns, action, scene="s", case_name="regular", seen_ns=1)
    return ledger.rows()[0]


@pytest.mark.parametrize("case", [case for case in CASES if "after the frame" not in case])
def test_evaluator_writes_down_what_the_node_knew(case: str, node: Node) -> None:
    events = CASES[case]
    frame = live_frames(node, events)[-1]
    row = evaluator_row(events, frame.stamp_ns)
    assert row.command == frame.command
    speed_mps = frame.ego.speed_mps if frame.ego else math.nan
    assert row.speed_mps == pytest.approx(speed_mps, nan_ok=True)


def test_messages_without_a_stamp_have_that_of_their_arrival(node: Node) -> None:
    before_ns = node.get_clock().now().nanoseconds
    unstamped = [Event("odometry", 0, 3.0), *(Event(camera) for camera in CAMERAS)]
    (frame,) = live_frames(node, unstamped)
    assert before_ns <= frame.stamp_ns <= node.get_clock().now().nanoseconds
    assert frame.ego is not None and frame.ego.speed_mps == 3.0


def test_cameras_are_served_after_what_waits_beside_them(node: Node) -> None:
    inputs = FrameInputs(node, InputConfig(), lambda timed: None, Health())
    names = [each.topic_name for each in node.subscriptions]
    first = min(i for i, name in enumerate(names) if "/input/cam_" in name)
    assert [name.rpartition("/")[2] for name in names[first - 2 : first]] == [
        "route_command",
        "odometry",
    ]
    inputs.close()
