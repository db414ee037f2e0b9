"""clkd_core.runtime.bench.children: a process each, and none that outlives its parent."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from bench_calls import Counter, make_nothing
from fakes import children, wait_until

from clkd_core.errors import ClkdError, DataError
from clkd_core.runtime.bench.children import Child
from clkd_core.runtime.bench.contenders.spec import NoRoomError


def processes() -> list[psutil.Process]:
    """Children, less the standard library's own bookkeeper."""
    return [p for p in children() if "resource_tracker" not in " ".join(p.cmdline())]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child("counting", partial(Counter, 5), tmp_path / "log")
    yield made
    made.end()


def test_object_lives_in_a_process_of_its_own_and_keeps_its_state(child: Child) -> None:
    count, pid = child.ask("add", 2)
    assert child.ask("add", 3) == (count + 3, pid) == (10, pid)
    assert pid == child.pid != os.getpid()


def test_expected_failure_comes_back_and_the_child_goes_on(child: Child) -> None:
    with pytest.raises(DataError, match="this is no good"):
        child.ask("refuse")
    assert child.ask("add", 0)[0] == 5


def test_death_is_an_error_with_the_name_and_the_last_words(child: Child) -> None:
    with pytest.raises(ClkdError, match=r"(?s)counting died \(exit code 1\) in fail:.*") as found:
        child.ask("fail")
    assert "some words before" in str(found.value)
    assert str(found.value).endswith("ZeroDivisionError: the very reason")


def test_kill_is_told_by_its_signal_and_while_building_means_memory(tmp_path: Path) -> None:
    for method, error in (("kill", ClkdError), ("warm_up", NoRoomError)):
        victim = Child("victim", Counter, tmp_path / method)
        with pytest.raises(error, match="killed") as found:
            victim.ask(method)
        assert type(found.value) is error
        victim.end()


def test_what_cannot_be_made_says_why_when_it_is_first_asked(tmp_path: Path) -> None:
    child = Child("nothing", make_nothing, tmp_path / "log")
    with pytest.raises(DataError, match="nothing to count"):
        child.ask("add", 1)
    child.end()


def test_words_of_a_child_go_to_its_file_and_not_to_ours(
    child: Child, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    child.ask("say")
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]
    assert capfd.readouterr() == ("", "")


def test_child_leaves_ctrl_c_to_its_parent(child: Child) -> None:
    assert child.ask("interrupt") == "still here"


def test_end_ends_a_busy_child(tmp_path: Path) -> None:
    child = Child("busy", Counter, tmp_path / "log")
    child.ask("add", 1)
    child._line.send(("sleep", ()))
    child.end()
    assert processes() == []


def test_no_busy_child_outlives_a_parent_that_was_killed(tmp_path: Path, root: Path) -> None:
    script = tmp_path / "parent.py"
    text = f"""
        import os, signal, sys
        from pathlib import Path
        from bench_calls import Counter
        from clkd_core.runtime.bench.children import Child
        if __name__ == "__main__":
            child = Child("c", Counter, Path({str(tmp_path / "log")!r}))
            print(child.ask("add", 1)[1], flush=True)
            child._line.send(("sleep", ()))  # an idle one would see the line's end anyway
            os.kill(os.getpid(), signal.SIGKILL)
    """
    script.write_text(textwrap.dedent(text))
    env = {**os.environ, "PYTHONPATH": f"{root}:{root / 'test'}"}
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    pid = int(done.stdout)
    wait_until(lambda: not psutil.pid_exists(pid), "the orphan's end")
