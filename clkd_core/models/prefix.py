"""A beginning that all sequences share, computed once, and a trie of answers behind their ends."""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaModel

from clkd_core.models.answers import AnswerTrie

CACHE_WORD = (
    "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
)
"""What transformers calls the cache: the second until 5.24, where it warns of it."""

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (1, heads, tokens, E / heads)."""


class Prefix(DynamicCache):
    """Puts a fixed beginning before every sequence, or, when empty, records one."""

    def __init__(self, states: list[KeyValue]) -> None:
        super().__init__()
        self.states = states
        self._recording = not states

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> KeyValue:
        """Keys and values that the layer attends to; nothing accumulates."""
        if self._recording:
            if layer_idx == len(self.states):  # not when a layer is computed again in backward
                self.states.append((key_states, value_states))
            return key_states, value_states
        batch = key_states.shape[0]
        keys, values = (kept.expand(batch, -1, -1, -1) for kept in self.states[layer_idx])
        return (
            torch.cat([keys.to(key_states.dtype), key_states], dim=-2),
            torch.cat([values.to(value_states.dtype), value_states], dim=-2),
        )


def trie_mask(
    trie: AnswerTrie, scene_tokens: int, question_tokens: int, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Who sees whom, and where each token stands, when trie nodes follow padded questions.

    Args:
        trie: its N inner nodes come last.
        scene_tokens: S tokens before the question.
        question_tokens: Q, padding included.
        lengths: (B,) int64, tokens of each question without padding.

    Returns:
        (B, 1, S+Q+N, S+Q+N) bool, True where row attends to column, and (B, S+Q+N) int64
        position ids: a node stands its depth behind the end of its own question.
    """
    prompt = scene_tokens + question_tokens
    total = prompt + len(trie.node_token)
    place = torch.arange(prompt, device=lengths.device)
    is_real = place < scene_tokens + lengths[:, None]  # (B, S+Q)
    mask = torch.ones(len(lengths), total, total, dtype=torch.bool, device=lengths.device).tril()
    mask[:, prompt:, :prompt] = is_real[:, None]
    mask[:, prompt:, prompt:] = trie.node_sees
    nodes_at = scene_tokens + lengths[:, None] + trie.node_depth
    positions = torch.cat([place.expand(len(lengths), -1), nodes_at], dim=1)
    return mask[:, None], positions
