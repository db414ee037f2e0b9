"""All keyframes of a split, seen once through the student's frozen vision tower."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clkd_core.data.keyframes import Keyframe, surround_frame
from clkd_core.errors import ClkdError, DataError
from clkd_core.models.planner import PlannerInputs, build_inputs
from clkd_core.models.vlm import DrivingVlm
from clkd_core.progress import progress
from clkd_core.runtime.decode import decode_views

_BATCH = 16  # frames: 96 views keep two cores busy without much memory


@dataclass(frozen=True, kw_only=True)
class PlannerSet:
    """N keyframes with a future, ready for the planner."""

    inputs: PlannerInputs
    """N rows on the CPU, each with its true meta-action."""
    truth_m: Tensor
    """(N, T, 2) float32 metres, ego frame."""
    scenes: tuple[str, ...]
    """(N,) name of the drive."""
    is_corner: tuple[bool, ...]
    """(N,) True where the case is not ``regular``."""

    def __len__(self) -> int:
        return len(self.truth_m)


def encode_keyframes(
    keyframes: Sequence[Keyframe], vlm: DrivingVlm, *, device: torch.device, desc: str
) -> PlannerSet:
    """Decode and encode every keyframe that has a future; the rest is left out.

    Raises:
        DataError: no keyframe has a future, or an image cannot be read; names the keyframe.
    """
    labelled = [k for k in keyframes if k.future is not None and k.action is not None]
    if not labelled:
        raise DataError(f"{desc}: none of {len(keyframes)} keyframes has 3 s of future")
    with ThreadPoolExecutor(max_workers=2) as pool:
        batches = _decoded_batches(labelled, vlm.image_size, pool)
        total = -(-len(labelled) // _BATCH)
        encoded = [
            _encode(vlm, views, present, device)
            for views, present in progress(batches, total=total, desc=desc, unit="batches")
        ]
    inputs = build_inputs(
        torch.cat([features for features, _ in encoded]),
        torch.cat([present for _, present in encoded]),
        [k.ego for k in labelled],
        [k.command for k in labelled],
        [k.action for k in labelled],
    )
    return PlannerSet(
        inputs=inputs,
        truth_m=torch.from_numpy(np.stack([k.future.xy_m for k in labelled if k.future])),
        scenes=tuple(k.scene for k in labelled),
        is_corner=tuple(k.case_name != "regular" for k in labelled),
    )


def _decoded_batches(
    keyframes: Sequence[Keyframe], size_hw: tuple[int, int], pool: Executor
) -> Iterable[tuple[Tensor, Tensor]]:
    """Batches of views (B, C, 3, H, W) uint8 and present (B, C) bool."""
    for start in range(0, len(keyframes), _BATCH):
        chunk = keyframes[start : start + _BATCH]
        decoded = list(pool.map(lambda k: _decode(k, size_hw), chunk))
        yield (
            torch.from_numpy(np.stack([views for views, _ in decoded])),
            torch.from_numpy(np.stack([present for _, present in decoded])),
        )


def _decode(
    keyframe: Keyframe, size_hw: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    try:
        return decode_views(surround_frame(keyframe), size_hw)
    except ClkdError as err:
        raise DataError(f"keyframe {keyframe.sample_token} of {keyframe.scene}: {err}") from err


@torch.inference_mode()
def _encode(
    vlm: DrivingVlm, views: Tensor, present: Tensor, device: torch.device
) -> tuple[Tensor, Tensor]:
    features = vlm.encode_views(views.to(device), present.to(device))
    return features.float().cpu(), present
