"""Every training config we ship is built for real, only without storage for its weights."""

from pathlib import Path

import pytest
import torch

from clkd_core.config import load_config
from clkd_core.data.prompts import plan_question
from clkd_core.distill.config import TrainConfig
from clkd_core.distill.dry_run import build_skeletons, describe_run
from clkd_core.distill.feed.samples import tokenizer_texts
from clkd_core.errors import ConfigError
from clkd_core.models.base import VlmBase
from clkd_core.models.families import build_from_config
from clkd_core.models.moe import iter_moe_ffns
from clkd_core.models.tokenizer import train_tokenizer
from clkd_core.models.vlm import count_parameters
from clkd_core.types import CAMERAS, EgoState, RouteCommand

ROOT = Path(__file__).resolve().parents[2] / "config"
SHIPPED = sorted(
    p for room in ("train", "ablation", "paper") for p in (ROOT / room).glob("*.yaml")
)


def read(name: str, *words: str) -> TrainConfig:
    return load_config(TrainConfig, ROOT / f"{name}.yaml", words)


def skeletons(name: str, *words: str) -> tuple[VlmBase, VlmBase]:
    teacher, student = build_skeletons(read(name, *words))
    assert student is not None
    return teacher, student


def millions(model: VlmBase) -> float:
    return count_parameters(model)[0] / 1e6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_training_config_can_be_built(path: Path) -> None:
    lines = describe_run(load_config(TrainConfig, path))
    assert lines[0].startswith("teacher: ")


def test_student_larger_than_its_teacher_is_an_error() -> None:
    experts = "student.moe={ffn_kind: full, ffn_experts: 8}"
    with pytest.raises(ConfigError, match="expected at most its teacher's"):
        build_skeletons(read("train/nano", experts))


def test_senna_presets_sizes_are_those_of_7b_and_half_of_it() -> None:
    teacher, student = skeletons("train/senna-3.5b")
    _, dense = skeletons("train/senna-3.5b", "student.moe=null")
    assert millions(teacher) == pytest.approx(7050, rel=0.01)
    assert millions(student) < 1.05 * millions(dense)
    assert len(list(iter_moe_ffns(student))) == 16


def test_nano_has_at_most_sixteen_tokens_a_view_and_four_thousand_pieces() -> None:
    teacher, _ = skeletons("train/nano")
    assert teacher.config.view_tokens <= 16
    assert teacher.tokenizer.vocab_size >= 4000


@torch.no_grad()
def test_changing_the_prompt_changes_what_nano_scores() -> None:
    config = read("train/nano").model
    tokenizer = train_tokenizer(tokenizer_texts([]), vocab_size=4096)
    torch.manual_seed(0)
    nano = build_from_config(config, tokenizer).eval()
    views = torch.zeros(1, len(CAMERAS), 3, *nano.image_size)
    present = torch.ones(1, len(CAMERAS), dtype=torch.bool)
    scene = nano.scene_tokens(nano.encode_views(views, present), present)
    ego = EgoState(stamp_ns=0, speed_mps=5.0)
    questions = [
        plan_question(ego, command) for command in (RouteCommand.LEFT, RouteCommand.RIGHT)
    ]
    left, right = (nano.answer_log_probs(scene, [question]) for question in questions)
    assert float((left - right).abs().max()) > 1e-3


def test_rows_of_table_two_differ_in_what_they_switch_on() -> None:
    rows = [read(f"ablation/row{number}") for number in range(1, 7)]
    assert [row.distill is None for row in rows] == [True] + [False] * 5
    students = rows[1:]
    assert [row.release.schedule().alpha(0) > 0 for row in students] == [False] + [True] * 4
    assert [row.student.moe is not None for row in students] == [False] * 2 + [True] * 3
    assert [row.h2g.sample_frac < 1 for row in students] == [False] * 3 + [True] * 2
    assert [row.release.schedule().gamma < 1 for row in students[1:]] == [False] * 3 + [True]
    assert len({row.teacher_folder for row in rows}) == 1


def test_paper_rows_have_the_papers_hyperparameters() -> None:
    for number in range(1, 7):
        config = read(f"paper/table2-row{number}")
        assert config.teacher is not None and config.teacher.epochs == 6
        for course in (config.teacher, config.distill):
            if course is not None:
                assert (course.peak_lr, course.weight_decay) == (1e-4, 0.05)
        assert config.distill is None or config.distill.epochs == 4
        assert not config.tune.vision and not config.tune.text_embedding
        assert config.tune.lora is not None
