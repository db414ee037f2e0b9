"""clkd_core.progress: items pass unchanged, and a log gets lines instead of a bar."""

import io

import pytest

from clkd_core import progress as progress_module
from clkd_core.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_items_pass_unchanged_on_a_terminal_and_in_a_log() -> None:
    for stream in (Terminal(), io.StringIO()):
        assert list(progress(range(5), desc="count", stream=stream)) == [0, 1, 2, 3, 4]


def test_a_terminal_sees_a_bar() -> None:
    stream = Terminal()
    list(progress(iter("abc"), total=3, desc="letters", stream=stream))
    assert "letters" in stream.getvalue()


def test_a_quick_loop_writes_nothing_into_a_log() -> None:
    stream = io.StringIO()
    list(progress(range(1000), desc="count", stream=stream))
    assert stream.getvalue() == ""


def test_a_slow_loop_writes_a_line_with_an_eta(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 3))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    list(progress(range(4), desc="train", unit="steps", stream=stream))
    assert (
        stream.getvalue() == "train: 1/4 steps, 6 s, eta 18 s\ntrain: 3/4 steps, 12 s, eta 4 s\n"
    )


def test_a_loop_of_unknown_length_shows_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 6.0, 7.0))
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    list(progress(iter("ab"), desc="read", unit="messages", stream=stream))
    assert stream.getvalue() == "read: 0 messages, 6 s\n"
