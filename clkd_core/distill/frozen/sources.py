"""What frozen networks said about a look, asked once and kept on disk: features, soft labels."""

import hashlib
import json
import logging
from typing import Any

import torch
from torch import Tensor

from clkd_core.config import config_to_dict
from clkd_core.distill.config import TrainConfig
from clkd_core.distill.feed.batches import Batch
from clkd_core.distill.feed.samples import SampleSet
from clkd_core.distill.frozen.cache import ArrayCache
from clkd_core.distill.frozen.soft_labels import (
    CompressionError,
    SoftLabels,
    compress_logits,
    compression_error,
)
from clkd_core.distill.processes.parts import PartedModel
from clkd_core.models.base import VlmBase
from clkd_core.models.checkpoint import unique_state

log = logging.getLogger(__name__)


class FrozenFeatures:
    """Gives batches the features of a frozen vision tower, computed once per look."""

    def __init__(self, model: VlmBase, config: TrainConfig, samples: SampleSet) -> None:
        """Open the store where the config asks for one.

        Args:
            model: whose tower it is.
            config: of the run.
            samples: whose looks are kept.
        """
        self._model, self._bf16 = model, config.bf16
        self._cache: ArrayCache | None = None
        if config.cache.features:
            tower = _digest_of_weights(model.vision_tower)
            self._cache = _open(config, samples, "features", {"tower": tower})

    def attach(self, batch: Batch) -> Batch:
        """The batch with its features, or as it is where none are kept."""
        if self._cache is None:
            return batch
        keys = _keys(batch, "features")
        found = self._cache.get_many(keys)
        if any(entry is None for entry in found):
            features = self._encode(batch)
            self._cache.put_many(
                {key: {"features": row.cpu()} for key, row in zip(keys, features, strict=True)}
            )
            return batch.with_features(features)
        rows = [entry["features"] for entry in found if entry is not None]
        return batch.with_features(torch.stack(rows).to(batch.present.device))

    def close(self) -> None:
        """Close the store."""
        if self._cache is not None:
            self._cache.close()

    @torch.no_grad()
    def _encode(self, batch: Batch) -> Tensor:
        with torch.autocast(batch.present.device.type, torch.bfloat16, enabled=self._bf16):
            return self._model.encode_views(batch.views, batch.present)


class SoftLabelSource:
    """The teacher's distributions: asked every time, or kept as its k most probable tokens."""

    def __init__(
        self,
        teacher: VlmBase,
        config: TrainConfig,
        samples: SampleSet,
        *,
        parts: int,
        bf16: bool,
    ) -> None:
        """Open the store where the config asks for one.

        Args:
            teacher: in evaluation mode.
            config: of the run.
            samples: whose looks are kept.
            parts: that it computes a batch in.
            bf16: compute in bfloat16 under autocast.
        """
        self._parted = PartedModel(teacher, parts, bf16=bf16)
        self._temperature = config.release.temperature
        self._top_k = config.cache.teacher_top_k
        self._cache: ArrayCache | None = None
        self.error: CompressionError | None = None
        """What shortening cost the last time the teacher was asked."""
        if self._top_k is not None:
            parts_of_print = {
                "teacher": _digest_of_weights(teacher),
                "top_k": self._top_k,
                "temperature": self._temperature,
            }
            self._cache = _open(config, samples, "labels", parts_of_print)

    def soft_labels(self, batch: Batch, student_logits: Tensor) -> Tensor | SoftLabels:
        """What the teacher says of a batch.

        Args:
            batch: of this process.
            student_logits: (B, K, V), on which the loss of shortening is measured.

        Returns:
            (B, K, V) logits, or the compressed labels where they are kept.
        """
        if self._cache is None or self._top_k is None:
            return self._parted.infer(batch)
        keys, keep = _keys(batch, "labels"), batch.text.keep
        found = self._cache.get_many(keys)
        if any(entry is None for entry in found):
            logits = self._parted.infer(batch)
            k, temperature = self._top_k, self._temperature
            labels = compress_logits(logits, k=k, temperature=temperature)
            self.error = compression_error(
                student_logits, logits, keep, k=k, temperature=temperature
            )
            self._cache.put_many({key: _row(labels, i, keep[i]) for i, key in enumerate(keys)})
            return labels
        return _from_rows([e for e in found if e is not None], keep, self._temperature)

    def close(self) -> None:
        """Close the store, and say what shortening has cost."""
        if self.error is not None:
            log.info(
                "soft labels of %d tokens lose %.2g of the KL divergence %.3g (last measured)",
                self._top_k,
                self.error.relative,
                self.error.full,
            )
        if self._cache is not None:
            self._cache.close()


def _row(labels: SoftLabels, row: int, keep: Tensor) -> dict[str, Tensor]:
    """What is kept of one sample: its answer tokens only, however far the batch was padded."""
    return {
        "log_probs": labels.log_probs[row, keep].cpu(),
        "indices": labels.indices[row, keep].cpu(),
        "tail_log_prob": labels.tail_log_prob[row, keep].cpu(),
    }


def _from_rows(rows: list[dict[str, Tensor]], keep: Tensor, temperature: float) -> SoftLabels:
    """Labels of a batch; 0 where there is no answer token."""

    def padded(name: str) -> Tensor:
        stored = torch.cat([row[name] for row in rows]).to(keep.device)
        filled = stored.new_zeros((*keep.shape, *stored.shape[1:]))
        filled[keep] = stored
        return filled

    return SoftLabels(
        log_probs=padded("log_probs"),
        indices=padded("indices"),
        tail_log_prob=padded("tail_log_prob"),
        temperature=temperature,
    )


def _keys(batch: Batch, kind: str) -> list[tuple[str, str]]:
    return [(kind, key) for key in batch.look_keys if key is not None]


def _digest_of_weights(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(unique_state(model).items()):
        digest.update(key.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]


def _open(config: TrainConfig, samples: SampleSet, kind: str, parts: dict[str, Any]) -> ArrayCache:
    """The store for all that its arrays depend on; another dependence makes another file."""
    plain = config_to_dict(config)
    kept = {key: plain[key] for key in ("seed", "bf16", "augment", "questions_per_sample")}
    kept |= {"looks": config.data.looks, "images": samples.fingerprint}
    text = json.dumps({**kept, **parts}, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:24]
    return ArrayCache(config.cache_folder / f"{kind}-{fingerprint[:12]}.sqlite", fingerprint)
