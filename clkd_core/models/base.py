"""What both families share: six views become visual tokens, feed-forward layers become experts.

Vision tower -> ``mm_projector`` per patch -> ``img_adapter`` along the patches of a view. The
student's projector is a mixture of experts (Eq. 1-2), and so are the feed-forward layers of its
language model; ``img_adapter`` mixes tokens and stays dense. The names are Senna's.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clkd_core.data.prompts import VIEW_NAMES, answer_text
from clkd_core.errors import CheckpointError
from clkd_core.models.answers import AnswerTrie, build_answer_trie
from clkd_core.models.moe import MoeAdapter, MoeConfig, build_moe_ffn
from clkd_core.models.stacks import Stack
from clkd_core.models.tokenizer import TextTokenizer
from clkd_core.models.vision.build import VisionConfig, build_tower
from clkd_core.models.vision.two_scale import TwoScaleConfig
from clkd_core.models.vlm import Conversation, TextBatch
from clkd_core.types import CAMERAS, META_ACTIONS

Config = TypeVar("Config", bound="VlmConfig")
Vlm = TypeVar("Vlm", bound="VlmBase")


@dataclass(frozen=True, kw_only=True)
class VlmConfig:
    """The part of an architecture that does not depend on the language model.

    Raises:
        ValueError: a number is out of its range.
    """

    vision: VisionConfig = field(default_factory=TwoScaleConfig)
    """The tower; ``kind`` says which."""
    tokens_per_view: int | None = 4
    """Visual tokens a view becomes, Senna uses 128; null: one per patch and no img_adapter."""
    scene_norm: bool = True
    """Normalise visual tokens; Senna does not."""
    slot_embedding: bool = True
    """Add a learnt vector per camera and token; Senna does not."""
    moe: MoeConfig | None = None
    """None: a dense model."""

    @classmethod
    def config_variants(cls) -> tuple[type["VlmConfig"], ...]:
        """What a file may mean by this section: the configs of all families."""
        if cls is not VlmConfig:
            return (cls,)
        from clkd_core.models.families import load_families  # it imports the families

        return tuple(family.config_class for family in load_families().values())

    def __post_init__(self) -> None:
        if self.tokens_per_view is not None and self.tokens_per_view < 1:
            raise ValueError(f"tokens_per_view is {self.tokens_per_view}, expected >= 1 or null")

    @property
    def hidden_size(self) -> int:
        """E: width of a token of the language model."""
        raise NotImplementedError

    @property
    def init_std(self) -> float:
        """Standard deviation of fresh embeddings."""
        raise NotImplementedError

    @property
    def view_tokens(self) -> int:
        """P': visual tokens of a view behind ``img_adapter``."""
        return self.tokens_per_view or self.vision.patches

    def language_stacks(self) -> tuple[Stack, ...]:
        """The blocks of the language model."""
        raise NotImplementedError

    def stacks(self) -> tuple[Stack, ...]:
        """All blocks that halving may thin out."""
        return (*self.vision.stacks(), *self.language_stacks())

    def with_blocks(self: Config, blocks: Mapping[str, int]) -> Config:
        """The same architecture with other depths of the vision tower."""
        return replace(self, vision=self.vision.with_blocks(blocks))


class VlmBase(nn.Module):
    """Views to visual tokens; a family adds its language model and what it does with them."""

    config_class: ClassVar[type[VlmConfig]]
    """What a family is built from."""
    attention_projections: ClassVar[tuple[str, ...]]
    """Last names of the linear layers around the language model's attention."""
    mm_projector: nn.Module
    img_adapter: nn.Module
    scene_norm: nn.Module

    def __init__(self, config: Any, tokenizer: TextTokenizer) -> None:
        """Build all but the language model.

        Args:
            config: the architecture, a ``config_class``.
            tokenizer: of the language model.
        """
        super().__init__()
        self.config: VlmConfig = config
        self.tokenizer = tokenizer
        self.frozen_tower = False
        """The vision tower does not learn: it stays in evaluation mode."""
        hidden = config.hidden_size
        self.vision_tower = build_tower(config.vision)
        self.mm_projector = build_mm_projector(config.vision.feature_width, hidden)
        self.img_adapter = (
            nn.Identity()
            if config.tokens_per_view is None
            else _build_img_adapter(config.vision.patches, config.tokens_per_view)
        )
        self.scene_norm = nn.LayerNorm(hidden) if config.scene_norm else nn.Identity()
        slots = torch.randn(len(CAMERAS), config.view_tokens, hidden) * config.init_std
        self.slot_embedding = nn.Parameter(slots) if config.slot_embedding else None
        self.missing_view = nn.Parameter(torch.zeros(hidden))
        self._view_names = [tokenizer.encode(VIEW_NAMES[camera]) for camera in CAMERAS]
        with torch.device("cpu"):  # even where the weights have no storage yet
            answers = [tokenizer.encode(answer_text(action)) for action in META_ACTIONS]
            self._trie = build_answer_trie(answers)
        self._tries: dict[torch.device, AnswerTrie] = {}
        self._constant_ids: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}

    def train(self, mode: bool = True) -> "VlmBase":
        """Set the mode of all but a frozen vision tower."""
        super().train(mode)
        if self.frozen_tower:
            self.vision_tower.eval()
        return self

    def ffn_slots(self) -> Iterator[tuple[nn.Module, str]]:
        """(owner, attribute) of every feed-forward layer of the language model."""
        raise NotImplementedError

    def block_lists(self) -> Iterator[nn.ModuleList]:
        """The language model's stacks of blocks, the units of checkpointing and sharding."""
        raise NotImplementedError

    def checkpoint_blocks(self) -> None:
        """Compute the language model's blocks again in backward in place of keeping what they
        computed; the states' keys stay as they are."""
        for blocks in self.block_lists():
            for block in blocks:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def run_blocks_once(self) -> None:
        """Let every block run once per forward pass, as sharded weights want it; a family whose
        blocks do so anyway has nothing to do."""

    def text_embedding(self) -> nn.Module:
        """The table that turns token ids into vectors."""
        raise NotImplementedError

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of a view in pixels."""
        return self.config.vision.height_px, self.config.vision.width_px

    def add_experts(self, moe: MoeConfig) -> None:
        """Turn projector and feed-forward layers into mixtures that compute the same as before."""
        self.config = replace(self.config, moe=moe)
        if moe.adapter_experts > 1:
            self.mm_projector = MoeAdapter(
                self.mm_projector,
                width=self.config.vision.feature_width,
                experts=moe.adapter_experts,
                top_k=moe.adapter_top_k,
            )
        if moe.ffn_experts > 1:
            for owner, name in self.ffn_slots():
                ffn = build_moe_ffn(
                    getattr(owner, name), width=self.config.hidden_size, config=moe
                )
                setattr(owner, name, ffn)

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

    def visual_tokens(self, features: Tensor, present: Tensor) -> Tensor:
        """Tokens of every view, before anything is written between them.

        Args:
            features: (B, C, P, D) from :meth:`encode_views`.
            present: (B, C) bool; a missing view's tokens say only that it is missing.

        Returns:
            (B, C, P', E).
        """
        if isinstance(self.mm_projector, MoeAdapter):
            self.mm_projector.valid = present[:, :, None].expand(features.shape[:3])
        tokens = self.mm_projector(features)  # (B, C, P, E)
        tokens = self.scene_norm(self.img_adapter(tokens.transpose(-1, -2)).transpose(-1, -2))
        tokens = torch.where(present[:, :, None, None], tokens, self.missing_view)
        return tokens if self.slot_embedding is None else tokens + self.slot_embedding

    def scene_tokens(self, features: Tensor, present: Tensor) -> Tensor:
        """See :meth:`clkd_core.models.vlm.DrivingVlm.scene_tokens`."""
        raise NotImplementedError

    def pack(self, conversations: Sequence[Conversation]) -> TextBatch:
        """See :meth:`clkd_core.models.vlm.DrivingVlm.pack`."""
        raise NotImplementedError

    def answer_logits(self, scene: Tensor, text: TextBatch) -> Tensor:
        """See :meth:`clkd_core.models.vlm.DrivingVlm.answer_logits`."""
        raise NotImplementedError

    def answer_log_probs(self, scene: Tensor, questions: Sequence[str]) -> Tensor:
        """See :meth:`clkd_core.models.vlm.DrivingVlm.answer_log_probs`."""
        ids, _ = self.pad([self.tokenizer.encode(text) for text in questions], scene.device)
        return self.question_log_probs(scene, ids)

    def question_log_probs(self, scene: Tensor, question_ids: Tensor) -> Tensor:
        """Log-probability of each of the 20 answers, all from one forward pass.

        Nothing here depends on values in a way that a captured or exported graph could not repeat.

        Args:
            scene: (B, S, E) from :meth:`scene_tokens`.
            question_ids: (B, Q) int64, padding on the right.

        Returns:
            (B, A) float32, normalised over the answers.
        """
        raise NotImplementedError

    def generate(self, scene: Tensor, questions: Sequence[str], max_new_tokens: int) -> list[str]:
        """See :meth:`clkd_core.models.vlm.DrivingVlm.generate`."""
        raise NotImplementedError

    def forward(
        self, views: Tensor, present: Tensor, text: TextBatch, features: Tensor | None = None
    ) -> Tensor:
        """From pixels to the (B, K, V) training logits.

        Args:
            views: (B, C, 3, H, W); not looked at where ``features`` are given.
            present: (B, C) bool.
            text: from :meth:`pack`.
            features: (B, C, P, D) that :meth:`encode_views` gave earlier.
        """
        if features is None:
            features = self.encode_views(views, present)
        return self.answer_logits(self.scene_tokens(features, present), text)

    def save_pretrained(self, folder: Path) -> None:
        """Write a checkpoint; see :func:`clkd_core.models.checkpoint.save_checkpoint`."""
        from clkd_core.models.checkpoint import save_checkpoint  # it imports the families

        save_checkpoint(folder, self)

    @classmethod
    def from_pretrained(cls: type[Vlm], source: str | Path) -> Vlm:
        """Read a checkpoint back, from a folder or a Hugging Face id, in evaluation mode.

        Raises:
            CheckpointError: there is none, it is damaged, or of another family.
        """
        from clkd_core.models.checkpoint import find_checkpoint, load_vlm

        model = load_vlm(find_checkpoint(source))
        if not isinstance(model, cls):
            raise CheckpointError(
                f"{source} holds a {type(model).__name__}, expected a {cls.__name__}"
            )
        return model

    def trie_on(self, device: torch.device) -> AnswerTrie:
        """The answers' trie on a device, copied there once."""
        if device not in self._tries:
            with torch.inference_mode(False):
                self._tries[device] = self._trie.to(device)
        return self._tries[device]

    def constant_ids(self, ids: Sequence[int]) -> Tensor:
        """Ids that never change as (L,) int64 beside the weights, copied there once."""
        key = (tuple(ids), self.missing_view.device)
        if key not in self._constant_ids:
            with torch.inference_mode(False):  # training uses them, too
                self._constant_ids[key] = torch.tensor(key[0], dtype=torch.int64, device=key[1])
        return self._constant_ids[key]

    def pad(self, rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """(B, L) int64 filled up on the right with padding, and (B,) int64 lengths."""
        padded = padded_rows(rows, self.tokenizer.pad_id).to(device)
        return padded, torch.tensor([len(row) for row in rows], device=device)


def padded_rows(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """(B, L) int64 on the CPU, rows filled up on the right; L is at least 1."""
    longest = max([1, *(len(row) for row in rows)])
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def build_mm_projector(width: int, hidden: int) -> nn.Sequential:
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
