import pytest
import torch
from tiny_vlm import tiny_model, tiny_views

from clkd_core.data.prompts import answer_text, plan_question
from clkd_core.models.answers import build_answer_trie, score_answers
from clkd_core.models.halving import halve
from clkd_core.models.llama_vlm import LlamaVlm, PackedText
from clkd_core.models.moe import MoeConfig
from clkd_core.types import META_ACTIONS, EgoState, RouteCommand

QUESTIONS = [
    plan_question(EgoState(stamp_ns=0, speed_mps=3.0), RouteCommand.STRAIGHT_LEFT),
    plan_question(None, None),
]


def exhaustive_log_probs(model: LlamaVlm, scene: torch.Tensor, question: str) -> torch.Tensor:
    """Score every answer as a sequence of its own, the slow obvious way; scene (1, S, E)."""
    asked = model.tokenizer.encode(question)
    scores = []
    for action in META_ACTIONS:
        answer = model.tokenizer.encode(answer_text(action))
        ids = torch.tensor([[*asked, *answer]])
        at = torch.arange(len(asked), ids.shape[1])[None]
        text = PackedText(ids, at, torch.ones_like(at, dtype=torch.bool))
        logits = model.answer_logits(scene, text).float().log_softmax(dim=-1)
        scores.append(logits.gather(-1, text.targets[..., None]).sum())
    return torch.stack(scores).log_softmax(dim=0)


@pytest.mark.parametrize("kind", ["teacher", "student"])
@torch.no_grad()
def test_one_pass_equals_exhaustive_scoring_also_where_questions_differ_in_length(
    kind: str,
) -> None:
    model = tiny_model()
    if kind == "student":
        model = halve(model, moe=MoeConfig(lora_rank=1, adapter_experts=2)).eval()
    views, present = tiny_views(2)
    scene = model.scene_tokens(model.encode_views(views, present), present)
    one_pass = model.answer_log_probs(scene, QUESTIONS)
    assert len(set(map(len, map(model.tokenizer.encode, QUESTIONS)))) == 2
    for row, question in enumerate(QUESTIONS):
        slow = exhaustive_log_probs(model, scene[row : row + 1], question)
        torch.testing.assert_close(one_pass[row], slow, atol=1e-4, rtol=0)
    torch.testing.assert_close(one_pass.exp().sum(dim=1), torch.ones(2))


def test_trie_scores_answers_of_different_length_like_products_of_probabilities() -> None:
    answers = [(1, 2), (1, 3, 4), (5,)]
    trie = build_answer_trie(answers)
    torch.manual_seed(0)
    root, nodes = torch.randn(1, 6), torch.randn(1, len(trie.node_token), 6)
    after = {(): root[0].log_softmax(0)}
    for index, prefix in enumerate([(1,), (1, 3)]):
        after[prefix] = nodes[0, index].log_softmax(0)
    slow = [sum(after[a[:i]][a[i]] for i in range(len(a))) for a in answers]
    expected = torch.stack([torch.as_tensor(score) for score in slow]).log_softmax(0)
    torch.testing.assert_close(score_answers(trie, root, nodes)[0], expected)


def test_trie_nodes_see_their_ancestors_only() -> None:
    trie = build_answer_trie([(1, 2, 3), (1, 4, 3), (6, 2)])
    prefixes = [(1,), (6,), (1, 2), (1, 4)]
    assert trie.node_token.tolist() == [p[-1] for p in prefixes]
    for row, prefix in enumerate(prefixes):
        seen = [p for p, sees in zip(prefixes, trie.node_sees[row].tolist(), strict=True) if sees]
        assert seen == [p for p in prefixes if prefix[: len(p)] == p]


def test_trie_of_single_token_answers_needs_no_inner_node() -> None:
    trie = build_answer_trie([(3,), (1,)])
    assert trie.node_token.shape == (0,)
    scores = score_answers(trie, torch.tensor([[0.0, 2.0, 0.0, 1.0]]), torch.zeros(1, 0, 4))
    torch.testing.assert_close(scores[0], torch.tensor([1.0, 2.0]).log_softmax(0))


@pytest.mark.parametrize("answers", [[], [()], [(1, 2), (1,)], [(1, 2), (1, 2)]])
def test_trie_refuses_answers_that_cannot_be_told_apart(answers: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="answer"):
        build_answer_trie(answers)
