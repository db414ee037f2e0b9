"""All keyframes of a split, seen once through the student's frozen vision tower."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clkd_core.data.keyframes import AgentFuture, Keyframe, surround_frame
from clkd_core.errors import DataError, FrameError
from clkd_core.models.planner import PlannerInputs, build_inputs
from clkd_core.progress import progress
from clkd_core.runtime.engine import EncodedFrame, Engine
from clkd_core.types import SurroundFrame

_READ_AHEAD = 8  # frames whose files are read while others are encoded


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
    tokens: tuple[str, ...] = ()
    """(N,) sample token of each keyframe; empty where nobody will look anything up."""
    agents: tuple[tuple[AgentFuture, ...], ...] | None = None
    """(N,) who else is on the road; None where the set does not say."""
    student_action: Tensor | None = None
    """(N,) int64, the meta-action that the student decides on; None where it was not asked."""
    blank_features: Tensor | None = None
    """(C, P, D) what black images look like to the student; None where it was not asked."""

    def __len__(self) -> int:
        return len(self.truth_m)


def encode_keyframes(
    keyframes: Sequence[Keyframe], engine: Engine, *, desc: str, judge: bool = False
) -> PlannerSet:
    """Encode every keyframe that has a future, as the engine does on the road; omit the rest.

    Args:
        keyframes: any; the ones without a future are left out.
        engine: of the student.
        desc: what the progress line calls this.
        judge: also ask the student for its decisions and for its view of black images.

    Raises:
        DataError: no keyframe has a future, or an image cannot be used; names the keyframe.
    """
    labelled = [k for k in keyframes if k.future is not None and k.action is not None]
    if not labelled:
        raise DataError(f"{desc}: none of {len(keyframes)} keyframes has 3 s of future")
    frames = progress(_read_frames(labelled), total=len(labelled), desc=desc, unit="frames")
    encoded, decided = [], []
    for keyframe, frame in zip(labelled, frames, strict=True):
        encoded.append(_encode(keyframe, frame, engine))
        if judge:
            decision = engine.decide_from_features(frame, encoded[-1])
            decided.append(decision.action.index)
    tensors = [e.tensors() for e in encoded]
    inputs = build_inputs(
        torch.cat([features.float().cpu() for features, _ in tensors]),
        torch.cat([present.cpu() for _, present in tensors]),
        [k.ego for k in labelled],
        [k.command for k in labelled],
        [k.action for k in labelled],
    )
    return PlannerSet(
        inputs=inputs,
        truth_m=torch.from_numpy(np.stack([k.future.xy_m for k in labelled if k.future])),
        scenes=tuple(k.scene for k in labelled),
        is_corner=tuple(k.is_corner for k in labelled),
        tokens=tuple(k.sample_token for k in labelled),
        agents=tuple(k.agents for k in labelled) if any(k.agents for k in labelled) else None,
        student_action=torch.tensor(decided) if judge else None,
        blank_features=_blank_features(labelled, engine) if judge else None,
    )


def _blank_features(keyframes: Sequence[Keyframe], engine: Engine) -> Tensor:
    """(C, P, D) of black images, asked with the keyframe that has most views."""
    fullest = max(keyframes, key=lambda k: len(k.image_paths))
    features, _ = engine.encode(surround_frame(fullest), blank=True).tensors()
    return features[0].float().cpu()


def _read_frames(keyframes: Sequence[Keyframe]) -> Iterator[SurroundFrame]:
    """The frames in order, their files read a little ahead."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read") as pool:
        waiting = [pool.submit(surround_frame, k) for k in keyframes[:_READ_AHEAD]]
        for k in keyframes[_READ_AHEAD:]:
            yield waiting.pop(0).result()
            waiting.append(pool.submit(surround_frame, k))
        for read in waiting:
            yield read.result()


def _encode(keyframe: Keyframe, frame: SurroundFrame, engine: Engine) -> EncodedFrame:
    """Encode one frame; damage that the road would mask is refused here."""
    where = f"keyframe {keyframe.sample_token} of {keyframe.scene}"
    try:
        encoded = engine.encode(frame)
    except FrameError as err:
        raise DataError(f"{where}: {err}") from err
    if int(encoded.present.sum()) < len(frame.images):
        raise DataError(f"{where}: {'; '.join(encoded.failures)}")
    return encoded
