"""metrics.jsonl and its event files: the same numbers, once each, whatever ends the run."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clkd_core.distill.record.metrics_log import MetricsLog, read_metrics
from clkd_core.errors import DataError

Scalars = dict[str, list[tuple[int, float]]]


def teacher_line(step: int) -> dict[str, Any]:
    """Its numbers are ones that float32, which events hold, has too."""
    return {"stage": "teacher", "step": step, "loss": 4.0 - step / 8, "lr": 0.5}


def student_line(step: int) -> dict[str, Any]:
    usage = [0.25 + step / 64, 0.75 - step / 64]
    return {"stage": "distill", "step": step, "h2g": 2.0 - step / 8, "expert_usage": usage}


def scalars_of(accumulator: EventAccumulator) -> Scalars:
    tags = accumulator.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in tags}


def scalars_in(run: Path) -> Scalars:
    return scalars_of(EventAccumulator(str(run / "tensorboard")).Reload())


def scalars_told(lines: list[dict[str, Any]]) -> Scalars:
    """What the event files should hold, from metrics.jsonl, the slow obvious way."""
    told: Scalars = {}
    for line in lines:
        numbers: Mapping[str, Any] = {
            **{k: v for k, v in line.items() if not isinstance(v, list)},
            **{
                f"{k}/{i}": x
                for k, v in line.items()
                if isinstance(v, list)
                for i, x in enumerate(v)
            },
        }
        for name, value in numbers.items():
            if name not in ("stage", "step") and value is not None:
                told.setdefault(f"{line['stage']}/{name}", []).append((line["step"], value))
    return told


def write_whole_run(run: Path, *, teacher_steps: int, student_steps: int) -> None:
    with MetricsLog(run / "metrics.jsonl", resume_at=None) as metrics:
        for step in range(teacher_steps):
            metrics.write(teacher_line(step))
        for step in range(student_steps):
            metrics.write(student_line(step))


def test_every_line_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl", resume_at=None) as metrics:
        for step in range(3):
            metrics.write(student_line(step))
            assert read_metrics(tmp_path / "metrics.jsonl")[-1] == student_line(step)
            assert scalars_in(tmp_path)["distill/h2g"][-1] == (step, 2.0 - step / 8)


def test_event_files_say_what_metrics_jsonl_says(tmp_path: Path) -> None:
    write_whole_run(tmp_path, teacher_steps=4, student_steps=3)
    found = scalars_in(tmp_path)
    assert found == scalars_told(read_metrics(tmp_path / "metrics.jsonl"))
    assert found["distill/expert_usage/1"] == [(0, 0.75), (1, 0.734375), (2, 0.71875)]


def test_what_is_no_finite_number_is_null_in_the_lines_and_no_event(tmp_path: Path) -> None:
    values = {"a": math.nan, "b": None, "c": [math.inf, 1.0], "d": 10**400, "e": "text", "f": 2}
    with MetricsLog(tmp_path / "metrics.jsonl", resume_at=None) as metrics:
        metrics.write({"stage": "distill", "step": 0, **values})
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["a"], line["b"], line["c"]) == (None, None, [None, 1.0])
    assert scalars_in(tmp_path) == {"distill/c/1": [(0, 1.0)], "distill/f": [(0, 2.0)]}


def test_resumed_run_shows_no_step_twice_and_keeps_the_other_stages_later_steps(
    tmp_path: Path,
) -> None:
    write_whole_run(tmp_path, teacher_steps=8, student_steps=6)
    resume_at = {"teacher": 8, "distill": 2}
    with MetricsLog(tmp_path / "metrics.jsonl", resume_at=resume_at) as metrics:
        for step in range(2, 5):
            metrics.write(student_line(step))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert lines == [*map(teacher_line, range(8)), *map(student_line, range(5))]
    assert scalars_in(tmp_path) == scalars_told(lines)


def test_who_looks_on_while_a_run_resumes_sees_no_step_twice(tmp_path: Path) -> None:
    write_whole_run(tmp_path, teacher_steps=3, student_steps=4)
    watching = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert len(scalars_of(watching)["distill/h2g"]) == 4
    wait_for_another_second()  # TensorBoard goes through files by name, and it holds the second
    with MetricsLog(tmp_path / "metrics.jsonl", resume_at={"teacher": 3, "distill": 1}) as metrics:
        metrics.write(student_line(1))
        seen = scalars_of(watching.Reload())
    assert [step for step, _ in seen["distill/h2g"]] == [0, 1]
    assert [step for step, _ in seen["teacher/loss"]] == [0, 1, 2]


def wait_for_another_second() -> None:
    start, deadline = int(time.time()), time.monotonic() + 5
    while int(time.time()) == start:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_stage_that_is_not_resumed_keeps_nothing(tmp_path: Path) -> None:
    write_whole_run(tmp_path, teacher_steps=4, student_steps=2)
    MetricsLog(tmp_path / "metrics.jsonl", resume_at={"teacher": 3}).close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [*map(teacher_line, range(3))]
    assert scalars_in(tmp_path).keys() == {"teacher/loss", "teacher/lr"}


def test_a_new_run_in_an_old_folder_starts_both_files_anew(tmp_path: Path) -> None:
    write_whole_run(tmp_path, teacher_steps=4, student_steps=2)
    (tmp_path / "tensorboard" / "notes.txt").write_text("not ours")
    write_whole_run(tmp_path, teacher_steps=1, student_steps=0)
    assert read_metrics(tmp_path / "metrics.jsonl") == [teacher_line(0)]
    assert scalars_in(tmp_path) == scalars_told([teacher_line(0)])
    assert (tmp_path / "tensorboard" / "notes.txt").is_file()


def test_resuming_where_nothing_was_logged_starts_a_file(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "run" / "metrics.jsonl", resume_at={"teacher": 5}) as metrics:
        metrics.write(teacher_line(5))
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [teacher_line(5)]


def test_without_tensorboard_there_is_no_folder_of_it(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl", resume_at=None, tensorboard=False) as metrics:
        metrics.write(teacher_line(0))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_silent_log_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with MetricsLog.silent() as metrics:
        metrics.write(teacher_line(0))
    metrics.close()
    assert isinstance(metrics, MetricsLog)
    assert list(tmp_path.iterdir()) == []
    assert read_metrics(metrics.path) == []


def test_closing_ends_the_thread_once_and_for_all(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with (
        pytest.raises(KeyboardInterrupt),
        MetricsLog(tmp_path / "metrics.jsonl", resume_at=None) as metrics,
    ):
        assert set(threading.enumerate()) > before
        raise KeyboardInterrupt
    assert set(threading.enumerate()) == before
    metrics.close()
    with pytest.raises(ValueError, match="is closed, expected an open log"):
        metrics.write(teacher_line(0))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(DataError, match=r"cannot write .*tensorboard: "):
        MetricsLog(tmp_path / "metrics.jsonl", resume_at=None)
    metrics = MetricsLog(tmp_path / "run" / "metrics.jsonl", resume_at=None, tensorboard=False)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run").rmdir()
    with pytest.raises(DataError, match=r"cannot write .*metrics.jsonl: No such file"):
        metrics.write(teacher_line(0))


@pytest.mark.parametrize(
    "damaged", ['{"stage": "distill", "st', "12", '{"loss": 1.0}', '{"stage": [], "step": 1}', "["]
)
def test_a_line_that_is_not_whole_is_left_out(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(teacher_line(0)) + "\n" + damaged)
    assert read_metrics(path) == [teacher_line(0)]


def test_metrics_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*metrics.jsonl"):
        read_metrics(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"cannot read .*metrics.jsonl"):
        read_metrics(tmp_path / "metrics.jsonl")


WRITES_UNTIL_STOPPED = """
    import itertools, sys, time
    from pathlib import Path
    from clkd_core.cli import end_process, run_guarded
    from clkd_core.distill.record.metrics_log import MetricsLog

    def call():
        with MetricsLog(Path(sys.argv[1]), resume_at=None) as metrics:
            for step in itertools.count():
                metrics.write({"stage": "teacher", "step": step, "loss": 1.0, "use": [0.5] * 20})
                print(step, flush=True)
                time.sleep(0.01)

    end_process(run_guarded(call))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_process_is_gone_in_3_s_and_its_lines_are_all_in_the_event_file(
    root: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-c", textwrap.dedent(WRITES_UNTIL_STOPPED)]
    process = subprocess.Popen(
        [*command, str(tmp_path / "metrics.jsonl")],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(5)]
        process.send_signal(number)
        start_s = time.monotonic()
        rest, _ = process.communicate(timeout=30)
        assert time.monotonic() - start_s < 3
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    said += [int(text) for text in rest.split()]
    found = [step for step, _ in scalars_in(tmp_path)["teacher/use/19"]]
    assert found[: len(said)] == said
