import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import config_for
from tiny_vlm import SQUARES_VERSION, write_squares

from clkd_core.distill import objective
from clkd_core.distill import train as train_module
from clkd_core.distill.config import (
    CourseConfig,
    DataConfig,
    H2gConfig,
    TrainConfig,
)
from clkd_core.distill.record.metrics_log import read_metrics
from clkd_core.distill.setup import ensure_data
from clkd_core.distill.train import train
from clkd_core.errors import ConfigError, DataError
from clkd_core.metrics.baselines.ego_status import EgoStatusBaseline
from clkd_core.models.checkpoint import load_vlm
from clkd_core.models.vlm import count_parameters


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "set"
    write_squares(root)
    return root


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def finished(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    torch.set_num_threads(1)
    config = config_for(squares, tmp_path_factory.mktemp("whole") / "run")
    assert train(config) == config.out / "student"
    return config


def test_run_leaves_student_teacher_baseline_metrics_curves_and_report(
    finished: TrainConfig,
) -> None:
    student = load_vlm(finished.out / "student")
    teacher = load_vlm(finished.out / "teacher")
    assert student.config.moe is not None
    assert count_parameters(student)[0] < count_parameters(teacher)[0]
    assert EgoStatusBaseline.load(finished.out / "student" / "ego_status")
    assert (finished.out / "curves.png").read_bytes().startswith(b"\x89PNG")
    report = (finished.out / "report.md").read_text()
    for wanted in ("| student, blank images | all | 6 |", "| ego status only |", "torch "):
        assert wanted in report
    assert f"{count_parameters(student)[0]:,}" in report


def test_metrics_hold_each_loss_term_apart(finished: TrainConfig) -> None:
    lines = read_metrics(finished.out / "metrics.jsonl")
    assert [line["stage"] for line in lines] == ["teacher"] * 6 + ["distill"] * 6
    moe = finished.student.moe
    for line in lines[6:]:
        total = line["h2g"] + line["alpha"] * line["kd"]
        total += moe.balance_weight * line["balance"] + moe.router_z_weight * line["router_z"]
        assert line["loss"] == pytest.approx(total, rel=1e-4)
        assert sum(line["expert_usage"]) == pytest.approx(1.0, abs=1e-3)
        assert 0 < line["hard_token_frac"] <= 1
    assert [line["alpha"] for line in lines[6:]] == pytest.approx(
        [0.5 ** (step / 2) for step in range(6)]
    )


def test_teacher_is_not_asked_below_the_least_alpha(finished: TrainConfig) -> None:
    lines = read_metrics(finished.out / "metrics.jsonl")[6:]
    assert all((line["kd"] > 0) == (line["alpha"] >= 0.2) for line in lines)


def test_teacher_learns_from_regular_samples_only(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, list[bool]] = {0: [], 1: []}
    draw = train_module._draw_batches

    def spy(*args, **kwargs):
        batches = draw(*args, **kwargs)
        for batch in batches:
            seen[kwargs["stage"]] += batch.is_corner.tolist()
        return batches

    monkeypatch.setattr(train_module, "_draw_batches", spy)
    train(config_for(squares, tmp_path / "run"))
    assert not any(seen[0])
    assert any(seen[1])


def losses_of(out: Path) -> list[tuple[str, int, float]]:
    return [(x["stage"], x["step"], x["loss"]) for x in read_metrics(out / "metrics.jsonl")]


@pytest.mark.parametrize(("stage", "step"), [("teacher", 1), ("teacher", 5), ("distill", 3)])
def test_interrupted_run_resumes_bit_for_bit(
    finished: TrainConfig,
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    step: int,
) -> None:
    config = config_for(squares, tmp_path / "run")
    check = train_module._check_finite

    def interrupt(value, what, at_stage, at_step, batches, world):
        check(value, what, at_stage, at_step, batches, world)
        if (at_stage, at_step) == (stage, step):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_module, "_check_finite", interrupt)
        train(config)
    assert not (config.out / "student").exists()
    train(config, resume=True)
    assert losses_of(config.out) == losses_of(finished.out)
    whole, resumed = (
        load_file(out / "student" / "model.safetensors") for out in (finished.out, config.out)
    )
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_resuming_a_finished_run_does_nothing(finished: TrainConfig) -> None:
    before = (finished.out / "metrics.jsonl").stat().st_mtime_ns
    train(finished, resume=True)
    assert (finished.out / "metrics.jsonl").stat().st_mtime_ns == before


def test_resuming_with_other_values_names_them(finished: TrainConfig) -> None:
    changed = replace(finished, h2g=H2gConfig(sample_frac=0.25))
    with pytest.raises(ConfigError, match=r"other values of h2g\.sample_frac; resume with"):
        train(changed, resume=True)


def test_resume_without_a_state_starts_anew(squares: Path, tmp_path: Path) -> None:
    config = config_for(squares, tmp_path / "run")
    train(config, resume=True)
    assert len(losses_of(config.out)) == 12


def test_loss_that_is_not_finite_stops_with_the_sample_names(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(logits, targets):
        return torch.full(targets.shape, float("nan")) * logits.sum()

    monkeypatch.setattr(objective, "answer_token_loss", broken)
    with pytest.raises(DataError, match=r"teacher step 0: loss is nan.*samples token-\d{3}, "):
        train(config_for(squares, tmp_path / "run"))
    assert not (tmp_path / "run" / "teacher").exists()


def test_gradient_that_is_not_finite_stops_before_it_reaches_a_weight(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, calls = train_module.World.add_gradients, []

    def poison(self, parameters):
        add(self, parameters)
        calls.append(1)
        if len(calls) == 4:
            parameters[0].grad.fill_(float("inf"))

    monkeypatch.setattr(train_module.World, "add_gradients", poison)
    config = config_for(squares, tmp_path / "run")
    with pytest.raises(DataError, match=r"teacher step 3: gradient norm is .*samples token-"):
        train(config)
    monkeypatch.undo()
    train(config, resume=True)
    assert [step for _, step, _ in losses_of(config.out)][:6] == list(range(6))


def test_metrics_survive_a_line_cut_off_by_a_kill(finished: TrainConfig, tmp_path: Path) -> None:
    text = (finished.out / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text[:-20])
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 11
    assert all(json.loads(line) for line in text.splitlines())


def test_missing_set_without_a_world_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file, expected a set of keyframes"):
        train(config_for(tmp_path / "nothing", tmp_path / "run"))


def test_missing_set_is_generated_where_a_world_config_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "world.yaml").write_text("train_drives: 3\n")
    made: list[int] = []

    def write(config, out):
        made.append(config.train_drives)
        write_squares(out)

    monkeypatch.setattr("clkd_core.data.world.generate.write_world", write)
    data = DataConfig(
        root=tmp_path / "set", version=SQUARES_VERSION, world=tmp_path / "world.yaml"
    )
    for _ in range(2):
        ensure_data(data)
    assert made == [3]


@pytest.mark.slow
def test_training_on_coloured_squares_learns_to_look(squares: Path, tmp_path: Path) -> None:
    course = CourseConfig(steps=150, batch_size=12, peak_lr=5e-3)
    config = replace(
        config_for(squares, tmp_path / "run"), teacher=course, distill=course, log_every_steps=50
    )
    train(config)
    rows = {
        line.split(" | ")[0]: float(line.split(" | ")[4].split(" ")[0])
        for line in (config.out / "report.md").read_text().splitlines()
        if " | all | " in line
    }
    assert rows["| student"] > 0.9
    assert rows["| student, blank images"] < 0.6
