"""clkd_core.evaluation.workers: who does the tasks, and what happens when one of them dies."""

import sys
from functools import partial
from pathlib import Path

import psutil
import pytest
import worker_calls
from fakes import children, wait_until

from clkd_core.errors import ClkdError, ConfigError, DataError
from clkd_core.evaluation.workers import local
from clkd_core.evaluation.workers.attempt import MAX_LOSSES, attempt
from clkd_core.evaluation.workers.cluster import run_on_ray
from clkd_core.evaluation.workers.local import run_local


def workers() -> list[psutil.Process]:
    """Children, less the standard library's own bookkeeper, which stays for the next pool."""
    return [p for p in children() if "resource_tracker" not in " ".join(p.cmdline())]


NAMES = [f"task {number}" for number in range(8)]


def test_every_item_is_done_once_and_more_than_one_process_works() -> None:
    done = dict(run_local(range(8), worker_calls.square_and_say_who, NAMES, workers=2))
    assert {index: value for index, (value, _) in done.items()} == {n: n * n for n in range(8)}
    assert len({pid for _, pid in done.values()}) == 2
    assert workers() == []


def test_no_more_processes_than_items_are_started() -> None:
    done = list(run_local([3], partial(worker_calls.square), NAMES, workers=5))
    assert done == [(0, 9)]
    assert list(run_local([], worker_calls.square, [], workers=2)) == []


def test_task_of_a_killed_worker_is_done_by_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marks = [tmp_path / f"mark{number}" for number in range(3)]
    marks[2].write_text("lives")
    done = dict(run_local(marks, worker_calls.die_at_first, NAMES, workers=2))
    assert done == {0: "done", 1: "done", 2: "done"}
    assert caplog.text.count("its process died") == 2


def test_task_that_kills_every_worker_is_given_up_by_name() -> None:
    done = []
    with pytest.raises(ClkdError, match=f"task 1: its worker died {MAX_LOSSES} times"):
        done.extend(run_local(range(4), worker_calls.die, NAMES, workers=2))
    assert workers() == []


def test_failure_in_a_worker_is_raised_here_and_ends_the_others() -> None:
    with pytest.raises(DataError, match="item 2 is empty"):
        list(run_local(range(8), worker_calls.refuse, NAMES, workers=2))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(run_local(range(8), worker_calls.fail, NAMES, workers=2))
    assert workers() == []


def test_nobody_is_left_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(busy: list[object]) -> None:
        wait_until(lambda: len(workers()) == 2, "two workers")
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(run_local(range(2), worker_calls.sleep_long, NAMES, workers=2))
    assert workers() == []


def test_expected_failures_come_back_as_they_are_and_others_with_their_traceback() -> None:
    assert attempt(worker_calls.square, 3).value() == 9
    with pytest.raises(DataError, match="item 2"):
        attempt(worker_calls.refuse, 2).value()
    with pytest.raises(RuntimeError, match=r"(?s)worker_calls\.py.*ZeroDivisionError"):
        attempt(worker_calls.fail, 1).value()


def test_ray_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'clkd-drive\[ray\]'"):
        list(run_on_ray([1], worker_calls.square, NAMES, workers=1))
