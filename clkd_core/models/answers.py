"""Scoring all legal answers at once: their token trie, and what each node costs and earns.

The 20 answers share their beginnings, so one forward pass over the inner nodes of the trie,
each attending to the prompt and to its own ancestors, holds every conditional probability that
an exhaustive scoring of 20 separate sequences would compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROOT = -1
"""The node whose prediction stands at the prompt's last token."""


@dataclass(frozen=True)
class AnswerTrie:
    """Token trie of several answers. N inner nodes are fed to the model, E edges are scored.

    An inner node is a token that some answer continues after; an edge is a token together with
    the node that predicts it.
    """

    node_token: Tensor
    """(N,) int64, the token id that stands at each inner node; parents come before children."""
    node_depth: Tensor
    """(N,) int64, 0 for the first token after the prompt."""
    node_sees: Tensor
    """(N, N) bool, True where column is the row's ancestor or the row itself."""
    edge_source: Tensor
    """(E,) int64, the inner node predicting each edge's token; ``ROOT`` is the prompt's end."""
    edge_token: Tensor
    """(E,) int64."""
    on_path: Tensor
    """(A, E) float32, 1 where the edge belongs to the answer."""

    def to(self, device: torch.device) -> "AnswerTrie":
        """The same trie with its tensors on ``device``."""
        return AnswerTrie(**{name: value.to(device) for name, value in vars(self).items()})


def build_answer_trie(answers: Sequence[Sequence[int]]) -> AnswerTrie:
    """Trie over token id sequences, rows of ``on_path`` in the order given.

    Raises:
        ValueError: there is no answer, one is empty, or one is the beginning of another.
    """
    prefixes = _prefixes(answers)
    inner = sorted({p[:-1] for p in prefixes if len(p) > 1}, key=lambda p: (len(p), p))
    for answer in answers:
        if tuple(answer) in inner or not answer or list(answers).count(answer) > 1:
            raise ValueError(f"answer {tuple(answer)} is empty, twice or another's beginning")
    node_of = {prefix: i for i, prefix in enumerate(inner)}
    edges = sorted(prefixes, key=lambda p: (len(p), p))
    return AnswerTrie(
        node_token=torch.tensor([prefix[-1] for prefix in inner], dtype=torch.int64),
        node_depth=torch.tensor([len(prefix) - 1 for prefix in inner], dtype=torch.int64),
        node_sees=torch.tensor(
            [[row[: len(col)] == col for col in inner] for row in inner], dtype=torch.bool
        ).reshape(len(inner), len(inner)),
        edge_source=torch.tensor([node_of.get(edge[:-1], ROOT) for edge in edges]),
        edge_token=torch.tensor([edge[-1] for edge in edges]),
        on_path=torch.tensor(
            [[float(tuple(answer[: len(edge)]) == edge) for edge in edges] for answer in answers]
        ),
    )


def score_answers(trie: AnswerTrie, root_logits: Tensor, node_logits: Tensor) -> Tensor:
    """Log-probability of each answer, normalised over the answers.

    Args:
        trie: of the answers.
        root_logits: (B, V) at the prompt's last token, any float dtype; computed in float32.
        node_logits: (B, N, V) at the inner nodes.

    Returns:
        (B, A) float32.
    """
    logits = torch.cat([node_logits, root_logits[:, None]], dim=1).float()  # ROOT = -1 is last
    log_probs = torch.log_softmax(logits, dim=-1)
    edge_scores = log_probs[:, trie.edge_source, trie.edge_token]  # (B, E)
    # A sum, not a product of matrices: autocast would compute that in bfloat16 and tie decisions.
    answers = (edge_scores[:, None] * trie.on_path).sum(dim=-1)
    return torch.log_softmax(answers, dim=-1)


def _prefixes(answers: Sequence[Sequence[int]]) -> set[tuple[int, ...]]:
    if not answers:
        raise ValueError("no answers came, expected at least one")
    return {tuple(answer[:end]) for answer in answers for end in range(1, len(answer) + 1)}
