"""Latencies in a file, and workers that are busy for so long."""

from pathlib import Path

import pytest

from clkd_core.driving.timing.latencies import (
    Latencies,
    LatencyStream,
    load_latencies,
    save_latencies,
)
from clkd_core.driving.timing.worker import BusyWorker
from clkd_core.errors import DataError


def some(count: int = 5) -> Latencies:
    return Latencies(
        decision_ms=tuple(40.0 + i for i in range(count)),
        plan_ms=tuple(20.0 + i for i in range(count)),
        device="a test",
    )


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    save_latencies(some(), tmp_path / "a" / "latencies.json")
    again = load_latencies(tmp_path / "a" / "latencies.json")
    assert again == some()
    assert again.digest() == some().digest() != some(6).digest()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "format_version is None"),
        ('{"format_version": 2}', "format_version is 2, expected 1"),
        ('{"format_version": 1, "plan_ms": [1]}', "no 'decision_ms'"),
        ('{"format_version": 1, "decision_ms": [1], "plan_ms": []}', "expected one of each"),
        ('{"format_version": 1, "decision_ms": [-1], "plan_ms": [1]}', "numbers >= 0"),
        ('{"format_version": 1, "decision_ms": [NaN], "plan_ms": [1]}', "numbers >= 0"),
        ('{"format_version": 1, "decision_ms": ["x"], "plan_ms": [1]}', "expected numbers"),
        ('{"format_version": 1, "decision_ms": 3, "plan_ms": [1]}', "not iterable"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "latencies.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"latencies\.json") as caught:
        load_latencies(path)
    assert said in str(caught.value)


def test_a_missing_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--measure-latencies"):
        load_latencies(tmp_path / "none.json")


def test_a_stream_goes_through_the_file_in_its_order_and_round() -> None:
    stream = LatencyStream(some(), 3)
    assert [stream.decision_ms(i) for i in range(6)] == [43.0, 44.0, 40.0, 41.0, 42.0, 43.0]
    assert [stream.plan_ms(i) for i in range(3)] == [23.0, 24.0, 20.0]


def test_the_seed_says_where_a_stream_begins() -> None:
    firsts = [LatencyStream.drawn(some(1000), seed).first for seed in (1, 1, 2)]
    assert firsts[0] == firsts[1] != firsts[2]


def test_a_busy_worker_takes_the_newest_and_skips_the_others() -> None:
    worker = BusyWorker[int](lambda item: 250)
    finished = []
    for item, now in enumerate(range(0, 1000, 100)):
        finished += worker.due(now)
        worker.offer(item, now)
    assert [(d.item, d.start_ns, d.ready_ns) for d in finished] == [
        (0, 0, 250),
        (2, 250, 500),
        (4, 500, 750),
    ]
    assert worker.skipped == 5  # 1, 3, 5, 6 and 8: something newer took their place
    assert [d.item for d in worker.due(10_000)] == [7, 9]


def test_work_that_takes_no_time_is_done_at_once() -> None:
    worker = BusyWorker[str](lambda item: 0)
    worker.offer("a", 5)
    assert [d.ready_ns for d in worker.due(5)] == [5]
