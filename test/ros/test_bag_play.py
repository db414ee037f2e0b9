"""Playing bags: bytes, pace, latched topics, simulated time, interruption, damage."""

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bag_listener import START_NS, Listener, listening, play
from fakes import wait_until

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import Storage, write_bag
from clkd_core.data.bags.ros_types import message_class as core_message_class
from clkd_core.data.bags.topics import BagTopics
from clkd_core.errors import ConfigError, DataError
from clkd_ros import middleware
from clkd_ros.bag_play import LATE_S, PlayConfig, PlayResult, play_bag
from clkd_ros.launcher import child_environment


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    with listening(monkeypatch) as made:
        yield made


def write_chatter(path: Path, count: int = 10, storage: Storage = "mcap") -> Path:
    """``count`` messages at 20 Hz on /chat behind one latched route command."""
    text = core_message_class("std_msgs/msg/String")
    with write_bag(path, storage=storage) as bag:
        bag.write(topics.ROUTE_COMMAND, topics.STRING, START_NS, text(data="turn left"))
        for number in range(count):
            stamp_ns = START_NS + number * 50_000_000
            bag.write("/chat", topics.STRING, stamp_ns, text(data=str(number)))
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_every_message_arrives_in_order_at_its_time(
    listener: Listener, tmp_path: Path, storage: Storage
) -> None:
    result = play(write_chatter(tmp_path / "bag", storage=storage))
    wait_until(lambda: len(listener.chat) == 10, "10 messages")
    assert listener.words == [str(number) for number in range(10)]
    first_s = listener.chat[0][1]
    lags_s = sorted(s - first_s - 0.05 * n for n, (_, s) in enumerate(listener.chat))
    assert lags_s[5] == pytest.approx(0.0, abs=0.03)
    assert (result.published, result.finished) == (11, True)
    assert result.seconds == pytest.approx(0.45, abs=0.15)


def test_rate_two_takes_half_the_time(listener: Listener, tmp_path: Path) -> None:
    assert play(write_chatter(tmp_path / "bag"), rate=2.0).seconds == pytest.approx(0.225, abs=0.1)


def test_latched_topic_of_the_bag_reaches_a_late_subscriber(
    listener: Listener, tmp_path: Path
) -> None:
    bag = write_chatter(tmp_path / "bag", count=20)
    player = threading.Thread(target=play, args=(bag,))
    player.start()
    wait_until(lambda: len(listener.chat) > 2, "the middle of the bag")
    listener.listen_to_route()
    wait_until(lambda: listener.route == ["turn left"], "the latched route command")
    player.join()


def test_clock_runs_through_the_bag_at_its_rate(listener: Listener, tmp_path: Path) -> None:
    play(write_chatter(tmp_path / "bag"), clock_hz=100.0)
    wait_until(lambda: len(listener.clock) >= 40, "the clock")
    steps = [b - a for a, b in itertools.pairwise(listener.clock)]
    assert listener.clock[0] <= 20_000_000
    assert set(steps[:30]) == {10_000_000}
    assert max(listener.clock) <= 450_000_000


def test_loop_starts_again_and_ends_with_the_middleware(
    listener: Listener, tmp_path: Path
) -> None:
    bag, results = write_chatter(tmp_path / "bag", count=3), []
    player = threading.Thread(target=lambda: results.append(play(bag, loop=True)))
    player.start()
    wait_until(lambda: listener.words[:5] == ["0", "1", "2", "0", "1"], "the second round")
    middleware.shutdown()
    player.join(timeout=5.0)
    assert [result.finished for result in results] == [False]
    assert "interrupted" in results[0].line


def test_clock_keeps_the_bags_time_at_another_rate(listener: Listener, tmp_path: Path) -> None:
    play(write_chatter(tmp_path / "bag"), clock_hz=100.0, rate=2.0)
    wait_until(lambda: len(listener.clock) >= 20, "the clock")
    steps = [b - a for a, b in itertools.pairwise(listener.clock)]
    assert set(steps[:15]) == {20_000_000}  # twice as fast: 10 ms on the wall


def test_clock_goes_back_where_the_loop_starts_again(listener: Listener, tmp_path: Path) -> None:
    bag = write_chatter(tmp_path / "bag", count=3)
    player = threading.Thread(target=lambda: play(bag, loop=True, clock_hz=50.0))
    player.start()
    wait_until(lambda: listener.words[:4] == ["0", "1", "2", "0"], "the second round")
    middleware.shutdown()
    player.join(timeout=5.0)
    backwards = [(a, b) for a, b in itertools.pairwise(listener.clock) if b < a]
    assert len(backwards) >= 1
    assert all(a == 100_000_000 and b == 0 for a, b in backwards)


def test_route_command_is_not_lost_where_the_subscriber_connects_after_the_first_message(
    listener: Listener, tmp_path: Path
) -> None:
    """Nobody waits for anybody: the command is the very first message of the bag."""
    listener.listen_to_route()
    play_bag(write_chatter(tmp_path / "bag", count=20), PlayConfig())
    wait_until(lambda: listener.route == ["turn left"], "the route command")
    assert listener.words[-1:] == ["19"]


@pytest.mark.skipif(middleware.which() == "rclpy", reason="slows the embedded publisher down")
def test_late_messages_are_counted(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clkd_ros.embedded.endpoints import Publisher

    sent = Publisher.publish

    def slow(self: Any, msg: Any) -> None:
        time.sleep(0.12 if self.topic == topics.ROUTE_COMMAND else 0.0)
        sent(self, msg)

    monkeypatch.setattr(Publisher, "publish", slow)
    result = play(write_chatter(tmp_path / "bag"))
    assert result.late >= 2  # those due 0 and 0.05 s after the route command
    assert result.worst_late_ms == pytest.approx(120.0, abs=40.0)
    assert LATE_S == 0.010


def write_foreign(path: Path, storage: Storage = "mcap") -> Path:
    """A phrase, not latched, and words on /chat, under names that are not ours."""
    text = core_message_class("std_msgs/msg/String")
    with write_bag(path, storage=storage) as bag:
        bag.write("/navigation/phrase", topics.STRING, START_NS, text(data="turn right"))
        bag.write(topics.ROUTE_COMMAND, topics.STRING, START_NS, text(data="of another kind"))
        for number in range(20):
            bag.write("/chat", topics.STRING, START_NS + number * 50_000_000, text(data="hm"))
    return path


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_mapped_topic_is_played_under_our_name_and_latched_where_ours_is(
    listener: Listener, tmp_path: Path, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    bag = write_foreign(tmp_path / "bag", storage)
    names = BagTopics(route_command="/navigation/phrase")
    results: list[PlayResult] = []
    config = PlayConfig(wait_for_subscribers_s=5.0)
    player = threading.Thread(target=lambda: results.append(play_bag(bag, config, names)))
    player.start()
    wait_until(lambda: len(listener.chat) > 2, "the middle of the bag")
    listener.listen_to_route()
    wait_until(lambda: listener.route == ["turn right"], "the mapped command, latched")
    player.join()
    assert results[0].published == 21
    assert f"{topics.ROUTE_COMMAND} is not played" in caplog.text


def test_mapping_of_topics_that_the_bag_lacks_is_refused_before_anything_is_played(
    listener: Listener, tmp_path: Path
) -> None:
    bag = write_foreign(tmp_path / "bag")
    names = BagTopics(route_command="/navigation/phrases", odometry="/odom")
    with pytest.raises(DataError, match=r"no /navigation/phrases, /odom, which .* it has /chat"):
        play_bag(bag, PlayConfig(), names)
    assert listener.chat == []


def test_missing_and_truncated_bags_are_named(listener: Listener, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere"):
        play(tmp_path / "nowhere")
    bag = write_chatter(tmp_path / "bag")
    (data,) = bag.glob("*.mcap")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(DataError, match="bag"):
        play(bag)


@pytest.mark.parametrize(
    "words", [{"rate": 0.0}, {"rate": float("nan")}, {"clock_hz": -1.0}, {"start_delay_s": -0.1}]
)
def test_impossible_play_words_are_refused(words: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(words))):
        PlayConfig(**words)  # type: ignore[arg-type]


def command(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "clkd_core.cli", "bag", "play", *words],
        env=child_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_command_plays_says_what_it_played_and_ends_on_ctrl_c(
    listener: Listener, tmp_path: Path
) -> None:
    bag = write_chatter(tmp_path / "bag", count=4)
    looping = command(str(bag), "--loop", "--wait-for-subscribers", "5")
    wait_until(lambda: len(listener.chat) > 5, "the second round")
    looping.send_signal(signal.SIGINT)
    said, complained = looping.communicate(timeout=3.0)
    assert (looping.returncode, complained.count("Traceback")) == (130, 0)
    assert "interrupted" in said
    (tmp_path / "topics.yaml").write_text("route_command: /chat")
    once = command(str(bag), "--topics", str(tmp_path / "topics.yaml"))
    said, _ = once.communicate(timeout=20.0)
    assert once.returncode == 0
    assert "played 4 messages" in said  # the recorded /route_command is not what is mapped to it
    missing = command(str(tmp_path / "none"))
    _, complained = missing.communicate(timeout=20.0)
    assert missing.returncode == 2
    assert complained.startswith("clkd: error:") and "none" in complained
