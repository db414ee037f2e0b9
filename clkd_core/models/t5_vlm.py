"""The T5 family (the paper's T5 track, EM-VLM4AD): an encoder reads, a decoder answers.

The encoder reads a scene and one question, the decoder writes the answer. A conversation's turns
are separate pairs over the same scene: what the encoder makes of a scene depends on what is asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, EncoderDecoderCache, T5Config, T5ForConditionalGeneration

from clkd_core.data.prompts import PREAMBLE
from clkd_core.models.answers import AnswerTrie, score_answers
from clkd_core.models.base import VlmBase, VlmConfig, padded_rows
from clkd_core.models.fusion import GatedPooling
from clkd_core.models.greedy import write_greedily
from clkd_core.models.moe import iter_moe_ffns
from clkd_core.models.prefix import CACHE_WORD
from clkd_core.models.stacks import Stack
from clkd_core.models.tokenizer import TextTokenizer
from clkd_core.models.vlm import Conversation, TextBatch

_BIAS = "layer.0.SelfAttention.relative_attention_bias."
"""Where block 0 of a stack keeps the relative position bias that all of its blocks use."""


@dataclass(frozen=True, kw_only=True)
class T5LanguageConfig:
    """Sizes of encoder and decoder.

    Raises:
        ValueError: a number is out of its range.
    """

    hidden_size: int = 128
    """E: width of a token (``d_model``)."""
    key_size: int = 32
    """Width of a head (``d_kv``); the heads together need not be as wide as a token."""
    ffn_size: int = 352
    """Inner width of the feed-forward layers (``d_ff``)."""
    layers: int = 4
    """Blocks of the encoder; halving keeps half of them."""
    decoder_layers: int = 2
    """Blocks of the decoder; halving keeps half of them."""
    heads: int = 4
    """Attention heads."""
    vocab_size: int | None = None
    """V: rows of the embedding; null: as many as the tokenizer has pieces."""
    gated_ffn: bool = False
    """Gated GELU as in T5 1.1 and Flan-T5; else ReLU as in T5."""
    tie_embeddings: bool = True
    """The output layer is the embedding, its inputs scaled by E^-0.5: T5, not T5 1.1."""
    relative_buckets: int = 32
    """Distances that the relative position bias tells apart."""
    relative_max_distance: int = 128
    """All distances from here on are one."""
    eps: float = 1e-6
    """Added to the mean square by every normalisation."""
    dropout: float = 0.0
    """T5 was trained with 0.1. Here a teacher and its student are compared token by token and
    samples are ranked by their loss: noise would be distilled and ranked, too."""
    init_factor: float = 1.0
    """Standard deviation of fresh embeddings; each kind of layer has its own share of it."""
    attention: Literal["eager", "sdpa"] = "eager"
    """On a CPU both took the same time within 8 %: a position bias that learns keeps torch from
    its fused kernels."""

    def __post_init__(self) -> None:
        names = ("hidden_size", "key_size", "ffn_size", "layers", "decoder_layers", "heads")
        if any(getattr(self, name) < 1 for name in names):
            raise ValueError(f"{', '.join(names)} must be >= 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}, expected 0 <= dropout < 1")
        buckets, farthest = self.relative_buckets, self.relative_max_distance
        if buckets < 4 or buckets % 4 or farthest <= buckets // 2:
            raise ValueError(
                f"relative_buckets is {buckets} and relative_max_distance {farthest}, expected "
                "a multiple of 4, and more than half of it"
            )


@dataclass(frozen=True, kw_only=True)
class T5VlmConfig(VlmConfig):
    """Architecture of one model of the family; saved with its weights.

    EM-VLM4AD is ``vision: {kind: patch}``, ``tokens_per_view: null``, ``scene_norm: false`` and
    ``fusion: gated`` around T5-base or T5-large.
    """

    family: Literal["t5"] = "t5"
    language: T5LanguageConfig = field(default_factory=T5LanguageConfig)
    fusion: Literal["concat", "gated"] = "concat"
    """``concat``: the tokens of all views, each behind its camera's name; ``gated``: one view's
    tokens from the weighted sum of all views' features (EM-VLM4AD)."""
    fusion_width: int = 128
    """Inner width of the gated attention over views."""
    preamble: bool = False
    """Write the task before the scene. Words that never change teach nothing and are read anew
    for every question; a model that was tuned to follow instructions (Flan-T5) may use them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fusion_width < 1:
            raise ValueError(f"fusion_width is {self.fusion_width}, expected >= 1")

    @property
    def hidden_size(self) -> int:
        """E: width of a token."""
        return self.language.hidden_size

    @property
    def init_std(self) -> float:
        """Standard deviation of fresh embeddings."""
        return self.language.init_factor

    def language_stacks(self) -> tuple[Stack, ...]:
        """The blocks of the encoder, and those of the decoder."""
        encoder, decoder = self.language.layers, self.language.decoder_layers
        return (
            Stack("language.encoder", ("language.encoder.block.",), encoder, carried=(_BIAS,)),
            Stack("language.decoder", ("language.decoder.block.",), decoder, carried=(_BIAS,)),
        )

    def with_blocks(self, blocks: Mapping[str, int]) -> "T5VlmConfig":
        """The same architecture with other depths."""
        language = replace(
            self.language,
            layers=blocks["language.encoder"],
            decoder_layers=blocks["language.decoder"],
        )
        return replace(super().with_blocks(blocks), language=language)


@dataclass(frozen=True)
class TurnText:
    """A :class:`clkd_core.models.vlm.TextBatch`: T turns per conversation, K = T * La.

    A conversation with fewer turns is filled up with turns of nothing but padding.
    """

    question_ids: Tensor
    """(B, T, Lq) int64 token ids, filled up with padding on the right."""
    answer_ids: Tensor
    """(B, T, La) int64 token ids, each answer's end included, padding on the right."""
    keep: Tensor
    """(B, T * La) bool, True where there is an answer token."""

    @property
    def targets(self) -> Tensor:
        """(B, T * La) int64, the answer tokens of all turns."""
        return self.answer_ids.flatten(1)

    def rows(self, rows: slice) -> "TurnText":
        """Some of the conversations."""
        return TurnText(*(tensor[rows] for tensor in vars(self).values()))

    def to(self, device: torch.device) -> "TurnText":
        """The same on another device."""
        return TurnText(*(tensor.to(device) for tensor in vars(self).values()))


class T5Vlm(VlmBase):
    """A :class:`clkd_core.models.vlm.DrivingVlm` of the T5 family."""

    config_class = T5VlmConfig
    attention_projections = ("q", "k", "v", "o")
    config: T5VlmConfig

    def __init__(self, config: T5VlmConfig, tokenizer: TextTokenizer) -> None:
        super().__init__(config, tokenizer)
        self.language = _build_language(config.language, tokenizer)
        self.fusion: GatedPooling | None = None
        if config.fusion == "gated":
            vision = config.vision
            self.fusion = GatedPooling(vision.patches * vision.feature_width, config.fusion_width)
            if self.slot_embedding is not None:  # one view is left, and one view's slots
                self.slot_embedding = nn.Parameter(self.slot_embedding.detach()[:1].clone())
        self._preamble = tokenizer.encode(PREAMBLE) if config.preamble else ()
        if config.moe is not None:
            self.add_experts(config.moe)

    def ffn_slots(self) -> Iterator[tuple[nn.Module, str]]:
        """(owner, attribute) of every feed-forward layer, the encoder's first."""
        for block in (*self.language.encoder.block, *self.language.decoder.block):
            yield block.layer[-1], "DenseReluDense"

    def block_lists(self) -> Iterator[nn.ModuleList]:
        """The blocks of the encoder, and those of the decoder."""
        yield self.language.encoder.block
        yield self.language.decoder.block

    def text_embedding(self) -> nn.Module:
        """The embedding that encoder and decoder share."""
        embedding: nn.Module = self.language.shared
        return embedding

    def scene_tokens(self, features: Tensor, present: Tensor) -> Tensor:
        """What the encoder reads before a question: (B, C, P, D), (B, C) bool to (B, S, E).

        A missing view's tokens say only that it is missing; it has no part in fused ones.
        """
        batch = len(features)
        parts = [self._embed(self._preamble, batch)] if self._preamble else []
        if self.fusion is not None:
            fused = self.fusion(features, present)[:, None]
            parts.append(self.visual_tokens(fused, present.any(dim=1, keepdim=True))[:, 0])
        else:
            tokens = self.visual_tokens(features, present)
            for view, name in enumerate(self._view_names):
                parts += [self._embed(name, batch), tokens[:, view]]
        return torch.cat([part.to(parts[-1].dtype) for part in parts], dim=1)

    def pack(self, conversations: Sequence[Conversation]) -> TurnText:
        """Questions and answers apart; the answers and their ends are learnt."""
        batch, longest = len(conversations), max([1, *(len(turns) for turns in conversations)])
        questions: list[Sequence[int]] = []
        answers: list[Sequence[int]] = []
        for turns in conversations:
            missing = [()] * (longest - len(turns))
            questions += [*(self.tokenizer.encode(question) for question, _ in turns), *missing]
            learnt = ((*self.tokenizer.encode(a), self.tokenizer.end_id) for _, a in turns)
            answers += [*learnt, *missing]
        keep = padded_rows([[1] * len(row) for row in answers], 0).bool()
        pad = self.tokenizer.pad_id
        return TurnText(
            padded_rows(questions, pad).view(batch, longest, -1),
            padded_rows(answers, pad).view(batch, longest, -1),
            keep.view(batch, -1),
        )

    def answer_logits(self, scene: Tensor, text: TextBatch) -> Tensor:
        """(B, T * La, V) prediction for each answer token, from the tokens before it.

        Raises:
            TypeError: the text was packed for another family.
        """
        if not isinstance(text, TurnText):
            raise TypeError(f"text is {type(text).__name__}, expected TurnText from pack()")
        turns = text.question_ids.shape[1]
        answers = text.answer_ids.flatten(0, 1)  # (B * T, La)
        learnt = text.keep.view_as(answers)
        scenes, questions = scene.repeat_interleave(turns, dim=0), text.question_ids.flatten(0, 1)
        read = self._encode(scenes, questions, asked=learnt.any(dim=1))
        # Padding stands on the right, where a causal decoder's answers cannot see it.
        before = functional.pad(answers[:, :-1], (1, 0), value=self.tokenizer.pad_id)
        logits = self._decode(before, read, counted=learnt)
        return logits.reshape(len(scene), -1, logits.shape[-1])

    def question_log_probs(self, scene: Tensor, question_ids: Tensor) -> Tensor:
        """See :meth:`VlmBase.question_log_probs`; one pass of the decoder."""
        trie = self.trie_on(scene.device)
        tokens = functional.pad(trie.node_token, (1, 0), value=self.tokenizer.pad_id)
        attention = self.language.decoder.block[0].layer[0].SelfAttention
        mask = trie_mask(trie, attention.compute_bias(len(tokens), len(tokens)))
        tokens = tokens.expand(len(scene), -1)
        logits = self._decode(tokens, self._encode(scene, question_ids), mask=mask)
        return score_answers(trie, logits[:, 0], logits[:, 1:])

    def generate(self, scene: Tensor, questions: Sequence[str], max_new_tokens: int) -> list[str]:
        """One greedy answer per question, up to ``<end>`` or ``max_new_tokens`` tokens each."""
        if not questions:
            return []
        ids, _ = self.pad([self.tokenizer.encode(text) for text in questions], scene.device)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

        def predict(tokens: Tensor, read: Sequence[Tensor]) -> Tensor:
            return self._decode(tokens[:, None], (read[0], read[1]), cache=cache)[:, -1]

        read = self._encode(scene, ids)
        first = predict(torch.full_like(ids[:, 0], self.tokenizer.pad_id), read)
        end_id = self.tokenizer.end_id
        answers = write_greedily(
            first, predict, cache, read, end_id=end_id, max_new_tokens=max_new_tokens
        )
        return [self.tokenizer.decode(answer).strip() for answer in answers]

    def _encode(
        self, scene: Tensor, question_ids: Tensor, *, asked: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the encoder makes of scenes and questions, and what to add to attend to it.

        Args:
            scene: (B, S, E).
            question_ids: (B, Lq).
            asked: (B,) bool, False where a row is there for its shape only; None: all count.

        Returns:
            (B, S + Lq, E), and (B, 1, 1, S + Lq) that shuts out padding.
        """
        written = question_ids != self.tokenizer.pad_id
        written = functional.pad(written, (scene.shape[1], 0), value=True)
        for moe in iter_moe_ffns(self.language.encoder):
            moe.valid = written if asked is None else written & asked[:, None]
        tokens = torch.cat([scene, self.text_embedding()(question_ids).to(scene.dtype)], dim=1)
        mask = torch.zeros_like(written, dtype=tokens.dtype)
        mask = mask.masked_fill_(~written, torch.finfo(tokens.dtype).min)[:, None, None]
        output = self.language.encoder(inputs_embeds=tokens, attention_mask=mask)
        return output.last_hidden_state, mask

    def _decode(
        self,
        ids: Tensor,
        read: tuple[Tensor, Tensor],
        *,
        counted: Tensor | None = None,
        mask: Tensor | None = None,
        cache: EncoderDecoderCache | None = None,
    ) -> Tensor:
        """(B, L, V) predictions behind tokens (B, L); ``mask`` replaces the causal one."""
        for moe in iter_moe_ffns(self.language.decoder):
            moe.valid = counted
        output = self.language.decoder(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=read[0],
            encoder_attention_mask=read[1],
            use_cache=cache is not None,
            **{CACHE_WORD: cache},
        )
        hidden = output.last_hidden_state
        if self.config.language.tie_embeddings:  # only T5's tied output layer scales its inputs
            hidden = hidden * self.config.hidden_size**-0.5
        logits: Tensor = self.language.lm_head(hidden)
        return logits

    def _embed(self, ids: Sequence[int], batch: int) -> Tensor:
        embedded: Tensor = self.text_embedding()(self.constant_ids(ids))
        return embedded.expand(batch, -1, -1)


def trie_mask(trie: AnswerTrie, bias: Tensor) -> Tensor:
    """What to add to the decoder's attention scores where the nodes of a trie stand in a row.

    A node sees the start and its ancestors. T5 knows a token's position only by a bias on the
    scores, which it takes from places in the row; the difference to the bias between depths
    goes into the mask, and the sum is what a separate decoding of every answer would see.

    Args:
        trie: its N nodes stand behind the start.
        bias: (1, heads, N + 1, N + 1), what T5 adds for places in a row.

    Returns:
        (1, heads, N + 1, N + 1) of the bias' dtype.
    """
    depth = functional.pad(trie.node_depth + 1, (1, 0))
    sees = functional.pad(trie.node_sees, (1, 0, 1, 0))
    sees[:, 0] = True
    by_depth = bias[:, :, depth][..., depth]
    return (by_depth - bias).masked_fill(~sees, torch.finfo(bias.dtype).min)


def _build_language(config: T5LanguageConfig, tokenizer: TextTokenizer) -> Any:
    vocab_size = config.vocab_size or tokenizer.vocab_size
    if vocab_size < tokenizer.vocab_size:
        pieces = f"the tokenizer's {tokenizer.vocab_size} pieces"
        raise ValueError(f"language.vocab_size is {vocab_size}, expected at least {pieces}")
    build_config: Any = T5Config  # its type knows only T5's own words
    t5 = build_config(
        vocab_size=vocab_size,
        d_model=config.hidden_size,
        d_kv=config.key_size,
        d_ff=config.ffn_size,
        num_layers=config.layers,
        num_decoder_layers=config.decoder_layers,
        num_heads=config.heads,
        relative_attention_num_buckets=config.relative_buckets,
        relative_attention_max_distance=config.relative_max_distance,
        dropout_rate=config.dropout,
        layer_norm_epsilon=config.eps,
        initializer_factor=config.init_factor,
        feed_forward_proj="gated-gelu" if config.gated_ffn else "relu",
        tie_word_embeddings=config.tie_embeddings,
        pad_token_id=tokenizer.pad_id,
        eos_token_id=tokenizer.end_id,
        decoder_start_token_id=tokenizer.pad_id,
    )
    t5.scale_decoder_outputs = config.tie_embeddings  # transformers 5.0 forgets it
    t5._attn_implementation = config.attention
    language = T5ForConditionalGeneration(t5)
    if not config.tie_embeddings:  # transformers ties them all the same
        language.lm_head = nn.Linear(config.hidden_size, vocab_size, bias=False)
        std = config.init_factor * config.hidden_size**-0.5  # logits as large as tied ones
        nn.init.normal_(language.lm_head.weight, std=std)
    return language
