"""clkd_core.runtime.bench.contest: taking turns, who may not take part, the control loop."""

import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from bench_calls import (
    build_out_of_memory,
    build_sleeper,
    build_without_room,
    build_wrongly,
    contender,
    leave_mark,
)
from fakes import children

from clkd_core.errors import ClkdError
from clkd_core.runtime.bench import contest
from clkd_core.runtime.bench.contenders.spec import Setting
from clkd_core.runtime.bench.contest import calibrate, seated, take_turn, time_interleaved
from clkd_core.runtime.bench.frames import DISTINCT_FRAMES
from clkd_core.runtime.bench.seat import Facts, Seat
from clkd_core.types import SurroundFrame

FRAME = SurroundFrame(stamp_ns=1, images={})


class Recorder:
    """A seat in this process that writes down its turns."""

    def __init__(self, name: str, log: list[tuple[str, int]], answer_ms: float = 1.0) -> None:
        self.name, self._log, self._answer_ms = name, log, answer_ms

    def ask(self, method: str, *arguments: object) -> float:
        assert method == "time_ms"
        (number,) = arguments
        assert isinstance(number, int)
        self._log.append((self.name, number))
        return self._answer_ms


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "SETTLE_S", 0.0)


def test_everybody_gets_the_same_frame_in_changing_order_and_slow_ones_few() -> None:
    log: list[tuple[str, int]] = []
    seats = {name: Recorder(name, log) for name in "abc"}
    times = time_interleaved(seats, {"a": 1, "b": 1, "c": 3}, 12)
    assert {name: len(kept) for name, kept in times.items()} == {"a": 12, "b": 12, "c": 4}
    assert log[:3] == [("a", 0), ("b", 0), ("c", 0)]  # the uncounted ones
    counted, rounds = iter(log[3:]), []
    for number in range(12):
        turns = [next(counted) for _ in range(3 if number % 3 == 0 else 2)]
        assert sorted(name for name, _ in turns) == ["a", "b", "c"][: len(turns)]
        assert len({frame for _, frame in turns}) == 1
        rounds.append(tuple(name for name, _ in turns))
    assert next(counted, None) is None
    assert len({names for names in rounds if len(names) == 2}) == 2


@pytest.mark.parametrize("slow", [7, 8, 20])
def test_slow_ones_meet_all_frames_as_often_as_the_others_beside_them(slow: int) -> None:
    log: list[tuple[str, int]] = []
    seats = {name: Recorder(name, log) for name in "abc"}
    time_interleaved(seats, {"a": 1, "b": slow, "c": 2 * slow}, 16 * 2 * slow)
    for name, turns in {"a": 16 * 2 * slow, "b": 32, "c": 16}.items():
        met = [number % DISTINCT_FRAMES for seat, number in log[3:] if seat == name]
        counts = np.bincount(met, minlength=DISTINCT_FRAMES)
        assert counts.tolist() == [turns // DISTINCT_FRAMES] * DISTINCT_FRAMES


def test_machine_rests_before_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[tuple[str, int]] = []
    rests: list[int] = []
    monkeypatch.setattr(contest, "SETTLE_S", 0.25)
    monkeypatch.setattr(time, "sleep", lambda s: rests.append(len(log)) or (s == 0.25))
    take_turn(Recorder("a", log), 0)
    take_turn(Recorder("a", log), 1)
    assert rests == [0, 1]


def test_contenders_are_built_in_their_processes_and_all_gone_afterwards() -> None:
    field = [
        contender("quick", partial(build_sleeper, 0.001)),
        contender("large", build_without_room),
        contender("larger", build_out_of_memory),
        contender("slow", partial(build_sleeper, 0.02)),
    ]
    with seated(field, Setting(), [FRAME]) as (seats, skipped):
        assert list(seats) == ["quick", "slow"]
        assert len({seat.pid for seat in seats.values()}) == 2
        assert take_turn(seats["slow"], 0) >= 20.0 and take_turn(seats["quick"], 0) >= 1.0
        facts: Facts = seats["slow"].ask("facts")
    assert [(each.name, each.what) for each in skipped] == [
        ("large", "large in words"),
        ("larger", "larger in words"),
    ]
    assert skipped[0].why == "needs 9.0 GB of memory, 1.0 GB are free"
    assert "can't allocate memory" in skipped[1].why
    assert facts.backend == "sleep float32" and facts.total_parameters == 10
    assert facts.threads == 3 and facts.decode_ms > 6.0
    assert 10 < facts.peak_memory_mib < 300  # no torch was loaded
    assert not [p for p in children() if "spawn_main" in " ".join(p.cmdline())]


def test_preparation_is_done_in_a_process_of_its_own_that_ends(tmp_path: Path) -> None:
    quick = contender("quick", partial(build_sleeper, 0.001))
    field = [replace(quick, prepare=partial(leave_mark, tmp_path / "mark"))]
    with seated(field, Setting(), [FRAME]) as (seats, _):
        pid = int((tmp_path / "mark").read_text())
        assert pid not in (os.getpid(), seats["quick"].pid) and not psutil.pid_exists(pid)


def test_defect_while_building_names_the_contender() -> None:
    with (
        pytest.raises(ClkdError, match=r"(?s)contender odd died.*mat1 and mat2 do not fit"),
        seated([contender("odd", build_wrongly)], Setting(), [FRAME]),
    ):
        pass


def test_processes_end_when_the_run_is_interrupted() -> None:
    field = [contender("quick", partial(build_sleeper, 0.001))]
    with pytest.raises(KeyboardInterrupt), seated(field, Setting(), [FRAME]):
        raise KeyboardInterrupt
    assert not [p for p in children() if "spawn_main" in " ".join(p.cmdline())]


def test_seat_times_the_answer_alone() -> None:
    seat = Seat(contender("slow", partial(build_sleeper, 0.02)), Setting(), [FRAME])
    times = [seat.warm_up(), *(seat.time_ms(number) for number in range(3))]
    assert min(times) >= 20.0 and np.median(times) < 200.0


def test_control_is_told_the_undisturbed_time_of_the_first() -> None:
    asked: list[object] = []

    class Control:
        def ask(self, method: str, *arguments: object) -> None:
            asked.append((method, *arguments))

    assert calibrate(Control(), Recorder("a", [], 7.5)) == 7.5  # type: ignore[arg-type]
    assert asked == [("calibrate", 7.5)]
