"""The LLaMA family (Senna): six views, two adapters, a decoder-only language model.

A conversation is one sequence: preamble, per camera its name and visual tokens, then turns of
question and answer (:mod:`clkd_core.data.prompts`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from clkd_core.data.prompts import PREAMBLE
from clkd_core.models.answers import score_answers
from clkd_core.models.base import VlmBase, VlmConfig, padded_rows
from clkd_core.models.greedy import write_greedily
from clkd_core.models.moe import iter_moe_ffns
from clkd_core.models.prefix import CACHE_WORD, KeyValue, Prefix, trie_mask
from clkd_core.models.stacks import Stack
from clkd_core.models.tokenizer import TextTokenizer
from clkd_core.models.vlm import Conversation, TextBatch


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """Sizes of the LLaMA decoder.

    Raises:
        ValueError: the heads do not divide the hidden size, or a size is not positive.
    """

    hidden_size: int = 128
    """E: width of a token."""
    layers: int = 4
    """Decoder layers; halving keeps half of them."""
    heads: int = 4
    """Attention heads."""
    kv_heads: int | None = None
    """Heads of keys and values (grouped-query attention); null: as many as ``heads``."""
    ffn_size: int = 352
    """Inner width of the feed-forward layers."""
    vocab_size: int | None = None
    """V: rows of the embedding; null: as many as the tokenizer has pieces."""
    rope_theta: float = 10000.0
    """Base of the rotary positions' wavelengths."""
    rms_eps: float = 1e-6
    """Added to the variance by every normalisation."""
    tie_embeddings: bool = True
    """The output layer is the embedding."""
    init_std: float = 0.06
    """Standard deviation of fresh weights; 0.02, usual for large models, is too small here: at
    128 wide and 240 steps a teacher reached macro-F1 0.45 with it and 0.77 with 0.06."""
    attention: Literal["eager", "sdpa"] = "eager"
    """On a CPU the plain products are 4 x faster than torch's fused kernel and its gradient."""

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.layers, self.heads, self.ffn_size, self.kv_heads or 1) < 1:
            raise ValueError("hidden_size, layers, heads, kv_heads and ffn_size must be >= 1")
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size is {self.hidden_size}, expected a multiple of 2 x {self.heads} heads"
            )
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"kv_heads is {self.kv_heads}, expected a divisor of {self.heads}")


@dataclass(frozen=True, kw_only=True)
class LlamaVlmConfig(VlmConfig):
    """Architecture of one model of the family; saved with its weights."""

    family: Literal["llama"] = "llama"
    language: LanguageConfig = field(default_factory=LanguageConfig)

    @property
    def hidden_size(self) -> int:
        """E: width of a token."""
        return self.language.hidden_size

    @property
    def init_std(self) -> float:
        """Standard deviation of fresh embeddings."""
        return self.language.init_std

    def language_stacks(self) -> tuple[Stack, ...]:
        """The decoder's layers."""
        return (Stack("language.layers", ("language.model.layers.",), self.language.layers),)

    def with_blocks(self, blocks: Mapping[str, int]) -> "LlamaVlmConfig":
        """The same architecture with other depths."""
        language = replace(self.language, layers=blocks["language.layers"])
        return replace(super().with_blocks(blocks), language=language)


@dataclass(frozen=True)
class PackedText:
    """A :class:`clkd_core.models.vlm.TextBatch`: all turns of a conversation in one row."""

    ids: Tensor
    """(B, L) int64 token ids, filled up with padding on the right."""
    answer_at: Tensor
    """(B, K) int64, where in the L tokens each answer token stands; 0 where ``keep`` is False."""
    keep: Tensor
    """(B, K) bool, True where there is an answer token."""

    @property
    def targets(self) -> Tensor:
        """(B, K) int64, the answer tokens themselves."""
        return self.ids.gather(1, self.answer_at)

    def rows(self, rows: slice) -> "PackedText":
        """Some of the conversations."""
        return PackedText(self.ids[rows], self.answer_at[rows], self.keep[rows])

    def to(self, device: torch.device) -> "PackedText":
        """The same on another device."""
        return PackedText(self.ids.to(device), self.answer_at.to(device), self.keep.to(device))


class LlamaVlm(VlmBase):
    """A :class:`clkd_core.models.vlm.DrivingVlm` of the LLaMA family."""

    config_class = LlamaVlmConfig
    attention_projections = ("q_proj", "k_proj", "v_proj", "o_proj")
    config: LlamaVlmConfig

    def __init__(self, config: LlamaVlmConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, tokenizer)
        self.language = LlamaForCausalLM(_llama_config(config.language, tokenizer))
        self._preamble = tokenizer.encode(PREAMBLE)
        self._prefix: list[KeyValue] | None = None
        self._shares_prefix = True
        if config.moe is not None:
            self.add_experts(config.moe)

    def train(self, mode: bool = True) -> "LlamaVlm":
        """Also forgets the preamble's state, which no longer holds once weights change."""
        self._prefix = None
        super().train(mode)
        return self

    def ffn_slots(self) -> Iterator[tuple[nn.Module, str]]:
        """(owner, attribute) of every feed-forward layer of the decoder."""
        for layer in self.language.model.layers:
            yield layer, "mlp"

    def block_lists(self) -> Iterator[nn.ModuleList]:
        """The decoder's layers."""
        yield self.language.model.layers

    def run_blocks_once(self) -> None:
        """Write the preamble before every sequence instead of computing it once for all."""
        self._shares_prefix = False

    def text_embedding(self) -> nn.Module:
        """The decoder's embedding."""
        embedding: nn.Module = self.language.model.embed_tokens
        return embedding

    def scene_tokens(self, features: Tensor, present: Tensor) -> Tensor:
        """What the language model reads between the preamble and the first question.

        Args:
            features: (B, C, P, D) from :meth:`encode_views`.
            present: (B, C) bool; a missing view's tokens say only that it is missing.

        Returns:
            (B, S, E): each camera's name and its visual tokens.
        """
        tokens = self.visual_tokens(features, present)
        parts: list[Tensor] = []
        for view, name in enumerate(self._view_names):
            parts += [self._embed(name, len(tokens)), tokens[:, view]]
        return torch.cat([part.to(tokens.dtype) for part in parts], dim=1)

    def pack(self, conversations: Sequence[Conversation]) -> PackedText:
        """All turns of a conversation in a row; the answers and their ends are learnt."""
        rows: list[list[int]] = []
        answer_rows: list[list[int]] = []
        for turns in conversations:
            ids: list[int] = []
            answer_at: list[int] = []
            for question, answer in turns:
                ids += self.tokenizer.encode(question)
                learnt = (*self.tokenizer.encode(answer), self.tokenizer.end_id)
                answer_at += range(len(ids), len(ids) + len(learnt))
                ids += learnt
            rows.append(ids)
            answer_rows.append(answer_at)
        keep = padded_rows([[1] * len(row) for row in answer_rows], 0).bool()
        return PackedText(
            padded_rows(rows, self.tokenizer.pad_id), padded_rows(answer_rows, 0), keep
        )

    def answer_logits(self, scene: Tensor, text: TextBatch) -> Tensor:
        """(B, K, V) prediction for each answer token, from the token before it.

        Raises:
            TypeError: the text was packed for another family.
        """
        if not isinstance(text, PackedText):
            raise TypeError(f"text is {type(text).__name__}, expected PackedText from pack()")
        tokens = torch.cat([scene, self._embed_ids(text.ids).to(scene.dtype)], dim=1)
        written = functional.pad(text.ids != self.tokenizer.pad_id, (scene.shape[1], 0), value=1)
        if not self._shares_prefix:  # its tokens are not counted either way
            written = functional.pad(written, (len(self._preamble), 0), value=0)
        for moe in iter_moe_ffns(self.language):
            moe.valid = written
        # Padding stands on the right, where a causal model's answers cannot see it.
        causal = torch.ones(*tokens.shape[1:2] * 2, dtype=torch.bool, device=tokens.device).tril()
        hidden = self._read(tokens, causal[None, None])
        before = (text.answer_at + scene.shape[1] - 1)[..., None].expand(-1, -1, hidden.shape[-1])
        logits: Tensor = self.language.lm_head(hidden.gather(1, before))
        return logits

    def question_log_probs(self, scene: Tensor, question_ids: Tensor) -> Tensor:
        """See :meth:`VlmBase.question_log_probs`."""
        trie, ids = self.trie_on(scene.device), question_ids
        lengths = (ids != self.tokenizer.pad_id).sum(dim=1)
        nodes = trie.node_token.expand(len(ids), -1)
        text = self._embed_ids(torch.cat([ids, nodes], dim=1)).to(scene.dtype)
        mask, positions = trie_mask(trie, scene.shape[1], ids.shape[1], lengths)
        hidden = self._read(torch.cat([scene, text], dim=1), mask, positions)
        last = (scene.shape[1] + lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[-1])
        logits = self.language.lm_head(
            torch.cat([hidden.gather(1, last), hidden[:, scene.shape[1] + ids.shape[1] :]], dim=1)
        )
        return score_answers(trie, logits[:, 0], logits[:, 1:])

    def generate(self, scene: Tensor, questions: Sequence[str], max_new_tokens: int) -> list[str]:
        """One greedy answer per question, up to ``<end>`` or ``max_new_tokens`` tokens each.

        One scene expanded to all questions (rows in the same memory) is read once.
        """
        if not questions:
            return []
        ids, lengths = self.pad([self.tokenizer.encode(q) for q in questions], scene.device)
        cache, last = self._read_questions(scene, ids, lengths)
        # Padding stands between a question and its answer: nothing sees it, no position counts it.
        written = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        padding = functional.pad(~written, (cache.get_seq_length() - ids.shape[1], 0))
        mask = torch.zeros_like(padding, dtype=scene.dtype)
        mask = mask.masked_fill_(padding, torch.finfo(scene.dtype).min)[:, None, None]
        places = (~padding).sum(dim=1, keepdim=True)

        def predict(tokens: Tensor, rows: Sequence[Tensor]) -> Tensor:
            answered = cache.get_seq_length() - rows[0].shape[-1]
            output = self.language.model(
                inputs_embeds=self._embed_ids(tokens[:, None]).to(scene.dtype),
                attention_mask=functional.pad(rows[0], (0, answered + 1)),
                position_ids=rows[1] + answered,
                use_cache=True,
                **{CACHE_WORD: cache},
            )
            logits: Tensor = self.language.lm_head(output.last_hidden_state[:, -1])
            return logits

        answers = write_greedily(
            self.language.lm_head(last),
            predict,
            cache,
            (mask, places),
            end_id=self.tokenizer.end_id,
            max_new_tokens=max_new_tokens,
        )
        return [self.tokenizer.decode(answer).strip() for answer in answers]

    def _read_questions(
        self, scene: Tensor, ids: Tensor, lengths: Tensor
    ) -> tuple[DynamicCache, Tensor]:
        """The state behind preamble, scenes and padded questions, and (B, E) at their ends."""
        expanded = len(ids) > 1 and scene.stride(0) == 0 and bool(lengths.all())
        cache, scenes = DynamicCache(), scene[:1] if expanded else scene
        for layer, state in enumerate(self._prefix_state()):
            keys, values = (kept.expand(len(scenes), -1, -1, -1) for kept in state)
            cache.update(keys, values, layer)
        tokens, before = self._embed_ids(ids).to(scene.dtype), scene.shape[1]
        if expanded:
            self.language.model(inputs_embeds=scenes, use_cache=True, **{CACHE_WORD: cache})
            cache.batch_repeat_interleave(len(ids))
            before = 0
        else:
            tokens = torch.cat([scene, tokens], dim=1)
        output = self.language.model(inputs_embeds=tokens, use_cache=True, **{CACHE_WORD: cache})
        ends = (before + lengths - 1)[:, None, None].expand(-1, 1, tokens.shape[-1])
        last: Tensor = output.last_hidden_state.gather(1, ends)[:, 0]
        return cache, last

    def _read(self, tokens: Tensor, mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """Last hidden states (B, L, E) of tokens that follow the preamble.

        Args:
            tokens: (B, L, E).
            mask: (B or 1, 1, L, L) bool, True where row attends to column.
            positions: (B, L) counted from the preamble's end; None: one after the other.
        """
        start = len(self._preamble)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        visible = functional.pad(mask, (start, 0), value=True)
        positions = positions + start
        prefix: Prefix | None = None
        if self._shares_prefix:
            prefix = Prefix(self._prefix_state())
        else:
            preamble = self._embed(self._preamble, len(tokens)).to(tokens.dtype)
            tokens = torch.cat([preamble, tokens], dim=1)
            own = torch.ones(start, start, dtype=torch.bool, device=mask.device).tril()
            own = functional.pad(own, (0, visible.shape[-1] - start))
            visible = torch.cat([own.expand(*visible.shape[:2], -1, -1), visible], dim=2)
            places = torch.arange(start, device=mask.device).expand(len(positions), -1)
            positions = torch.cat([places, positions], dim=1)
        output = self.language.model(
            inputs_embeds=tokens,
            attention_mask=torch.zeros_like(visible, dtype=tokens.dtype).masked_fill_(
                ~visible, torch.finfo(tokens.dtype).min
            ),
            position_ids=positions,
            use_cache=prefix is not None,
            **{CACHE_WORD: prefix},
        )
        hidden: Tensor = output.last_hidden_state
        return hidden if prefix is not None else hidden[:, start:]

    def _prefix_state(self) -> list["KeyValue"]:
        """Keys and values of the preamble, computed once per batch, or once for good in eval."""
        lasting = not self.training and not torch.is_grad_enabled()
        if lasting and self._prefix is not None:
            return self._prefix
        recorder = Prefix([])
        embedded = self._embed(self._preamble, 1)
        self.language.model(inputs_embeds=embedded, use_cache=True, **{CACHE_WORD: recorder})
        if lasting:
            self._prefix = recorder.states
        return recorder.states

    def _embed_ids(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.language.model.embed_tokens(ids)
        return embedded

    def _embed(self, ids: Sequence[int], batch: int) -> Tensor:
        return self._embed_ids(self.constant_ids(ids)).expand(batch, -1, -1)


def _llama_config(config: LanguageConfig, tokenizer: TextTokenizer) -> LlamaConfig:
    vocab_size = config.vocab_size or tokenizer.vocab_size
    if vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"language.vocab_size is {vocab_size}, expected at least the tokenizer's "
            f"{tokenizer.vocab_size} pieces"
        )
    llama = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads or config.heads,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        rms_norm_eps=config.rms_eps,
        initializer_range=config.init_std,
        tie_word_embeddings=config.tie_embeddings,
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.end_id,
        bos_token_id=None,
    )
    llama._attn_implementation = config.attention
    return llama
