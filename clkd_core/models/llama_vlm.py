"""The LLaMA family (Senna): six views, two adapters, a decoder-only language model.

Vision tower -> ``mm_projector`` per patch -> ``img_adapter`` along the patches of a view ->
tokens between the words of a prompt -> LLaMA. The student's projector is a mixture (Eq. 1-2)
and its feed-forward layers are routed experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from clkd_core.data.prompts import PREAMBLE, VIEW_NAMES, answer_text
from clkd_core.models.answers import AnswerTrie, build_answer_trie, score_answers
from clkd_core.models.moe import MoeAdapter, MoeConfig, build_moe_ffn
from clkd_core.models.tokenizer import TextTokenizer
from clkd_core.models.vision import VisionConfig, VisionTower
from clkd_core.models.vlm import TextBatch
from clkd_core.types import CAMERAS, META_ACTIONS


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
    ffn_size: int = 352
    """Inner width of the feed-forward layers."""
    init_std: float = 0.06
    """Standard deviation of fresh weights; 0.02, usual for large models, is too small here: at
    128 wide and 240 steps a teacher reached macro-F1 0.45 with it and 0.77 with 0.06."""
    attention: Literal["eager", "sdpa"] = "eager"
    """On a CPU the plain products are 4 x faster than torch's fused kernel and its gradient."""

    def __post_init__(self) -> None:
        if min(self.hidden_size, self.layers, self.heads, self.ffn_size) < 1:
            raise ValueError("hidden_size, layers, heads and ffn_size must be at least 1")
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size is {self.hidden_size}, expected a multiple of 2 x {self.heads} heads"
            )


@dataclass(frozen=True, kw_only=True)
class LlamaVlmConfig:
    """Architecture of one model of the family; saved with its weights."""

    family: Literal["llama"] = "llama"
    vision: VisionConfig = field(default_factory=VisionConfig)
    tokens_per_view: int = 4
    """Visual tokens a view becomes; Senna uses 128."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    moe: MoeConfig | None = None
    """None: a dense model."""


KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (1, heads, tokens, E / heads)."""


class _Prefix(DynamicCache):
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
            self.states.append((key_states, value_states))
            return key_states, value_states
        batch = key_states.shape[0]
        keys, values = (kept.expand(batch, -1, -1, -1) for kept in self.states[layer_idx])
        return (
            torch.cat([keys.to(key_states.dtype), key_states], dim=-2),
            torch.cat([values.to(value_states.dtype), value_states], dim=-2),
        )


class LlamaVlm(nn.Module):
    """A :class:`clkd_core.models.vlm.DrivingVlm` of the LLaMA family."""

    def __init__(self, config: LlamaVlmConfig, tokenizer: TextTokenizer) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        width, hidden = config.vision.channels[-1], config.language.hidden_size
        self.vision_tower = VisionTower(config.vision)
        self.mm_projector: nn.Module = _build_mm_projector(width, hidden)
        self.img_adapter = _build_img_adapter(config.vision.patches, config.tokens_per_view)
        self.scene_norm = nn.LayerNorm(hidden)
        self.slot_embedding = nn.Parameter(
            torch.randn(len(CAMERAS), config.tokens_per_view, hidden) * config.language.init_std
        )
        self.missing_view = nn.Parameter(torch.zeros(hidden))
        self.language = LlamaForCausalLM(_llama_config(config.language, tokenizer))
        if config.moe is not None:
            self.add_experts(config.moe)
        self._view_names = [tokenizer.encode(VIEW_NAMES[camera]) for camera in CAMERAS]
        self._preamble = tokenizer.encode(PREAMBLE)
        self._prefix: list[KeyValue] | None = None
        self._trie = build_answer_trie([tokenizer.encode(answer_text(a)) for a in META_ACTIONS])

    def train(self, mode: bool = True) -> "LlamaVlm":
        """Also forgets the preamble's state, which no longer holds once weights change."""
        self._prefix = None
        return super().train(mode)

    def add_experts(self, moe: MoeConfig) -> None:
        """Turn projector and feed-forward layers into mixtures that compute the same as before."""
        width, hidden = self.config.vision.channels[-1], self.config.language.hidden_size
        if moe.adapter_experts > 1:
            self.mm_projector = MoeAdapter(
                self.mm_projector,
                width=width,
                experts=moe.adapter_experts,
                top_k=moe.adapter_top_k,
            )
        if moe.ffn_experts > 1:
            for layer in self.language.model.layers:
                layer.mlp = build_moe_ffn(layer.mlp, width=hidden, config=moe)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of a view in pixels."""
        return self.config.vision.height_px, self.config.vision.width_px

    def encode_views(self, views: Tensor, present: Tensor) -> Tensor:
        """Patch features of all views.

        Args:
            views: (B, C, 3, H, W) RGB 0..255, uint8 or float; missing views hold anything.
            present: (B, C) bool.

        Returns:
            (B, C, P, D); zero where a view is missing.
        """
        features: Tensor = self.vision_tower(views)
        return features * present[:, :, None, None]

    def scene_tokens(self, features: Tensor, present: Tensor) -> Tensor:
        """What the language model reads between the preamble and the first question.

        Args:
            features: (B, C, P, D) from :meth:`encode_views`.
            present: (B, C) bool; a missing view's tokens say only that it is missing.

        Returns:
            (B, S, E): each camera's name and its visual tokens.
        """
        tokens = self.mm_projector(features).transpose(-1, -2)  # (B, C, E, P)
        tokens = self.scene_norm(self.img_adapter(tokens).transpose(-1, -2))  # (B, C, P', E)
        tokens = torch.where(present[:, :, None, None], tokens, self.missing_view)
        tokens = tokens + self.slot_embedding
        parts: list[Tensor] = []
        for view, name in enumerate(self._view_names):
            parts += [self._embed(name, len(tokens)), tokens[:, view]]
        return torch.cat([part.to(tokens.dtype) for part in parts], dim=1)

    def answer_logits(self, scene: Tensor, text: TextBatch) -> Tensor:
        """(B, K, V) prediction for each answer token, from the token before it."""
        tokens = torch.cat([scene, self._embed_ids(text.ids).to(scene.dtype)], dim=1)
        # Padding stands on the right, where a causal model's answers cannot see it.
        causal = torch.ones(*tokens.shape[1:2] * 2, dtype=torch.bool, device=tokens.device).tril()
        hidden = self._read(tokens, causal[None, None])
        before = (text.answer_at + scene.shape[1] - 1)[..., None].expand(-1, -1, hidden.shape[-1])
        logits: Tensor = self.language.lm_head(hidden.gather(1, before))
        return logits

    def answer_log_probs(self, scene: Tensor, questions: Sequence[str]) -> Tensor:
        """Log-probability of each of the 20 answers, all from one forward pass.

        Args:
            scene: (B, S, E) from :meth:`scene_tokens`.
            questions: B questions.

        Returns:
            (B, A) float32, normalised over the answers.
        """
        trie = self._trie.to(scene.device)
        ids, lengths = self._padded([self.tokenizer.encode(q) for q in questions], scene.device)
        nodes = trie.node_token.expand(len(questions), -1)
        text = self._embed_ids(torch.cat([ids, nodes], dim=1)).to(scene.dtype)
        mask, positions = trie_mask(trie, scene.shape[1], ids.shape[1], lengths)
        hidden = self._read(torch.cat([scene, text], dim=1), mask, positions)
        last = (scene.shape[1] + lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[-1])
        logits = self.language.lm_head(
            torch.cat([hidden.gather(1, last), hidden[:, scene.shape[1] + ids.shape[1] :]], dim=1)
        )
        return score_answers(trie, logits[:, 0], logits[:, 1:])

    def generate(self, scene: Tensor, questions: Sequence[str], max_new_tokens: int) -> list[str]:
        """One greedy answer per question, up to ``<end>`` or ``max_new_tokens`` tokens."""
        return [
            self._generate_one(scene[i : i + 1], question, max_new_tokens)
            for i, question in enumerate(questions)
        ]

    def _generate_one(self, scene: Tensor, question: str, max_new_tokens: int) -> str:
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._prefix_state()):
            cache.update(keys, values, layer)
        tokens = torch.cat(
            [scene, self._embed(self.tokenizer.encode(question), 1).to(scene.dtype)], dim=1
        )
        answer: list[int] = []
        while len(answer) < max_new_tokens:
            output = self.language.model(
                inputs_embeds=tokens, past_key_values=cache, use_cache=True
            )
            next_id = int(self.language.lm_head(output.last_hidden_state[:, -1]).argmax())
            if next_id == self.tokenizer.end_id:
                break
            answer.append(next_id)
            tokens = self._embed((next_id,), 1).to(scene.dtype)
        return self.tokenizer.decode(answer).strip()

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
        output = self.language.model(
            inputs_embeds=tokens,
            attention_mask=torch.zeros_like(visible, dtype=tokens.dtype).masked_fill_(
                ~visible, torch.finfo(tokens.dtype).min
            ),
            position_ids=positions + start,
            past_key_values=_Prefix(self._prefix_state()),
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _prefix_state(self) -> list["KeyValue"]:
        """Keys and values of the preamble, computed once per batch, or once for good in eval."""
        lasting = not self.training and not torch.is_grad_enabled()
        if lasting and self._prefix is not None:
            return self._prefix
        recorder = _Prefix([])
        embedded = self._embed(self._preamble, 1)
        self.language.model(inputs_embeds=embedded, past_key_values=recorder, use_cache=True)
        if lasting:
            self._prefix = recorder.states
        return recorder.states

    def _embed_ids(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.language.model.embed_tokens(ids)
        return embedded

    def _embed(self, ids: Sequence[int], batch: int) -> Tensor:
        device = self.slot_embedding.device
        return self._embed_ids(torch.tensor(ids, device=device)).expand(batch, -1, -1)

    def _padded(
        self, rows: Sequence[Sequence[int]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        longest = max(len(row) for row in rows)
        padded = [[*row, *[self.tokenizer.pad_id] * (longest - len(row))] for row in rows]
        lengths = [len(row) for row in rows]
        return torch.tensor(padded, device=device), torch.tensor(lengths, device=device)


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


def _llama_config(config: LanguageConfig, tokenizer: TextTokenizer) -> LlamaConfig:
    llama = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_size,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        initializer_range=config.init_std,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.end_id,
        bos_token_id=None,
    )
    llama._attn_implementation = config.attention
    return llama


def _build_mm_projector(width: int, hidden: int) -> nn.Sequential:
    """Senna's ``mm_projector``: two linear layers per visual token."""
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))


def _build_img_adapter(patches: int, tokens: int) -> nn.Sequential:
    """Senna's ``img_adapter``: three linear layers along the token axis, always dense."""
    return nn.Sequential(
        nn.Linear(patches, tokens),
        nn.GELU(),
        nn.Linear(tokens, tokens),
        nn.GELU(),
        nn.Linear(tokens, tokens),
    )
