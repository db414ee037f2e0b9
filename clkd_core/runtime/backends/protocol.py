"""What an engine needs of whatever computes for it."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a vehicle that runs an exported engine may have no torch
    from torch import Tensor


class Backend(Protocol):
    """A driving VLM made ready to answer one frame at a time.

    :meth:`encode` and :meth:`log_probs` may run in two threads at the same time, each of them in
    one thread only.
    """

    name: str
    """For tables and logs: what computes, in which arithmetic."""
    device: str
    """Where: ``cpu``, ``cuda:0``."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of a view in pixels."""

    def encode(
        self, views: NDArray[np.uint8], present: NDArray[np.bool_]
    ) -> "Tensor | NDArray[np.float32]":
        """(C, 3, H, W) RGB and (C,) to (1, C, P, D); zero where a view is missing."""

    def log_probs(
        self, features: Any, present: NDArray[np.bool_], question: str
    ) -> NDArray[np.float32]:
        """(A,) log-probability of each meta-action on the host, from what :meth:`encode` gave.

        Raises:
            FrameError: the question is longer than this backend has room for.
        """

    def decide(
        self, views: NDArray[np.uint8], present: NDArray[np.bool_], question: str
    ) -> NDArray[np.float32]:
        """:meth:`log_probs` from pixels; for those who have no use for the features between."""
        return self.log_probs(self.encode(views, present), present, question)
