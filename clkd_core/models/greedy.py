"""Many answers written at the same time, token by token, each up to its own end."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import Cache

Predict = Callable[[Tensor, Sequence[Tensor]], Tensor]
"""(B,) int64 tokens and the companions of their rows to (B, V): what comes behind."""


def write_greedily(
    logits: Tensor,
    predict: Predict,
    cache: Cache,
    companions: Sequence[Tensor] = (),
    *,
    end_id: int,
    max_new_tokens: int,
) -> list[list[int]]:
    """The most probable token each time, in every row until its end.

    A row that has ended costs nothing more: it leaves cache and companions.

    Args:
        logits: (B, V) of the first token of every row.
        predict: appends tokens to the rows' cache.
        cache: what ``predict`` keeps of B rows; changed.
        companions: whatever else ``predict`` needs, each (B, ...).
        end_id: the token that ends a row; not part of what is returned.
        max_new_tokens: longest answer.

    Returns:
        B lists of token ids.
    """
    answers: list[list[int]] = [[] for _ in range(len(logits))]
    rows = list(range(len(logits)))
    for left in reversed(range(max_new_tokens)):
        ids = logits.argmax(dim=-1)
        tokens = ids.tolist()
        going = [place for place, token in enumerate(tokens) if token != end_id]
        for place in going:
            answers[rows[place]].append(tokens[place])
        if not going or not left:
            break
        if len(going) < len(rows):
            rows = [rows[place] for place in going]
            kept = torch.tensor(going, device=ids.device)
            ids, companions = ids[kept], [each[kept] for each in companions]
            cache.batch_select_indices(kept)
        logits = predict(ids, companions)
    return answers
