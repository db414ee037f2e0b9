"""Many questions answered at the same time: token for token what each is answered alone."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from tiny_vlm import tiny_model, tiny_t5_language, tiny_t5_model, tiny_views
from torch import Tensor, nn
from transformers import DynamicCache

from clkd_core.data.prompts import plan_question, turn_text
from clkd_core.models.base import VlmBase
from clkd_core.models.greedy import write_greedily
from clkd_core.models.llama_vlm import LanguageConfig
from clkd_core.models.moe import MoeConfig

QUESTIONS = [
    turn_text("Is the light red?"),
    plan_question(None, None),
    turn_text("Is the light red? " * 9),
    " Plan:",
    turn_text("What is behind the car on the left, and does it matter?"),
    "",
]
MOE = MoeConfig(ffn_experts=3, adapter_experts=2, lora_rank=2)


def build(family: str, attention: str, seed: int) -> VlmBase:
    """Weights so far apart that answers vary and end early or late."""
    if family == "t5":
        language = tiny_t5_language(init_factor=1.5, attention=attention)
        return tiny_t5_model(seed=seed, language=language, moe=MOE)
    llama = LanguageConfig(
        hidden_size=16, layers=4, heads=2, ffn_size=24, init_std=0.4, attention=attention
    )
    return tiny_model(seed=seed, language=llama, moe=MOE)


def look(model: VlmBase, batch: int) -> Tensor:
    return model.scene_tokens(model.encode_views(*(v := tiny_views(batch))), v[1])


def end_often(model: VlmBase) -> None:
    """Make the end likely enough for answers of many lengths."""

    class WithEnds(nn.Module):
        def __init__(self, head: nn.Module) -> None:
            super().__init__()
            self.head = head

        def forward(self, hidden: Tensor) -> Tensor:
            logits: Tensor = self.head(hidden)
            highest = logits.amax(dim=-1)
            ends = (hidden.float().sum(dim=-1) * 1e3).floor() % 5 == 0
            logits = logits.clone()
            logits[..., model.tokenizer.end_id] = torch.where(ends, highest + 1.0, -1e3)
            return logits

    model.language.lm_head = WithEnds(model.language.lm_head)  # type: ignore[assignment]


def alone(model: VlmBase, scene: Tensor, questions: Sequence[str], tokens: int) -> Iterator[str]:
    for row, question in enumerate(questions):
        yield from model.generate(scene[row : row + 1], [question], tokens)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["llama", "t5"])
@torch.no_grad()
def test_questions_of_any_length_are_answered_together_as_alone(
    family: str, attention: str
) -> None:
    for seed in range(4):
        model = build(family, attention, seed)
        scene = look(model, len(QUESTIONS))
        together = model.generate(scene, QUESTIONS, 7)
        assert together == list(alone(model, scene, QUESTIONS, 7))
        assert len(set(together)) > 1


@pytest.mark.parametrize("family", ["llama", "t5"])
@torch.no_grad()
def test_answers_that_end_at_different_tokens_do_not_disturb_the_others(family: str) -> None:
    model = build(family, "eager", 0)
    end_often(model)
    scene = look(model, len(QUESTIONS))
    together = model.generate(scene, QUESTIONS, 30)
    assert together == list(alone(model, scene, QUESTIONS, 30))
    lengths = {len(model.tokenizer.encode(text)) for text in together}
    assert len(lengths) > 2, "the answers end at the same time, which tests nothing"


@pytest.mark.parametrize("questions", [QUESTIONS, QUESTIONS[:-1], QUESTIONS[:1]])
@pytest.mark.parametrize("family", ["llama", "t5"])
@torch.no_grad()
def test_one_scene_for_all_questions_is_answered_as_copies_of_it(
    family: str, questions: list[str]
) -> None:
    model = build(family, "eager", 1)
    scene = look(model, 1)
    expanded = model.generate(scene.expand(len(questions), -1, -1), questions, 6)
    copies = scene.repeat(len(questions), 1, 1)
    assert expanded == list(alone(model, copies, questions, 6))


@torch.no_grad()
def test_expanded_scene_is_read_once_whatever_the_number_of_questions() -> None:
    model = build("llama", "eager", 1)
    read: list[tuple[int, ...]] = []
    layer = model.language.model.layers[0]  # type: ignore[union-attr, index]
    layer.register_forward_pre_hook(lambda _, args: read.append(tuple(args[0].shape[:2])))
    scene = look(model, 1)
    model.generate(scene, ["a"], 1)  # the preamble's state is kept
    read.clear()
    model.generate(scene.expand(3, -1, -1), ["a", "b", "c"], 1)
    assert [rows for rows, _ in read] == [1, 3]
    assert read[0][1] == scene.shape[1] and read[1][1] < scene.shape[1]


@pytest.mark.parametrize("family", ["llama", "t5"])
@torch.no_grad()
def test_no_question_is_no_answer_and_no_tokens_are_empty_answers(family: str) -> None:
    model = build(family, "eager", 0)
    scene = look(model, 2)
    assert model.generate(scene[:0], [], 5) == []
    assert model.generate(scene, QUESTIONS[:2], 0) == ["", ""]


def test_rows_leave_cache_and_companions_when_they_end_and_nothing_is_predicted_in_vain() -> None:
    """Row r writes its own number r times; token 0 is the end."""
    cache = DynamicCache()
    cache.update(torch.zeros(4, 1, 1, 2), torch.zeros(4, 1, 1, 2), 0)
    seen: list[list[int]] = []

    def predict(ids: Tensor, rows: Sequence[Tensor]) -> Tensor:
        number = rows[0]
        seen.append(number.tolist())
        assert cache.layers[0].keys.shape[0] == len(number) == len(ids)
        assert ids.tolist() == number.tolist()
        written = len(seen)
        return nn.functional.one_hot(torch.where(number > written, number, 0), 9).float()

    numbers = torch.tensor([3, 0, 1, 8])
    first = nn.functional.one_hot(numbers, 9).float()
    answers = write_greedily(first, predict, cache, [numbers], end_id=0, max_new_tokens=5)
    assert answers == [[3] * 3, [], [1], [8] * 5]
    assert seen == [[3, 1, 8], [3, 8], [3, 8], [8]]
