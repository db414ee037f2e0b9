"""A model on a CUDA device with nothing left to decide at run time: static buffers, bfloat16,
graphs captured once and replayed, one wait for the device per decision."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clkd_core.errors import FrameError
from clkd_core.models.base import VlmBase
from clkd_core.models.moe import forget_routing
from clkd_core.runtime.backends.graphs import DecisionGraph, VisionGraph, example_inputs

_WARM_UPS = 3
"""Runs before a capture, in which libraries choose kernels and take their workspaces."""


class CudaGraphBackend:
    """A :class:`clkd_core.runtime.backends.protocol.Backend` on one CUDA device.

    Three graphs: pixels to features and features to scores for those who share an encoding,
    pixels to scores for those who do not.
    """

    def __init__(
        self, model: VlmBase, device: torch.device | str, *, compiled: bool = False
    ) -> None:
        """Copy a model into bfloat16 and capture it.

        Args:
            model: in evaluation mode, on ``device``; may be thrown away afterwards.
            device: a CUDA device.
            compiled: let torch.compile fuse operations first; takes minutes and a C++ compiler.
        """
        self.torch_device = torch.device(device)
        self.device = str(self.torch_device)
        self.model = to_bfloat16(model)
        self.name = f"CUDA graph bfloat16{' compiled' if compiled else ''}"
        vision: nn.Module = VisionGraph(self.model)
        decision: nn.Module = DecisionGraph(self.model)
        if compiled:
            vision, decision = torch.compile(vision), torch.compile(decision)  # type: ignore[assignment]
        with torch.inference_mode(), torch.cuda.device(self.torch_device):
            views, present, ids = example_inputs(self.model, self.torch_device)
            self._vision = Captured(vision, (views, present))
            features = torch.zeros_like(self._vision.output)
            self._decision = Captured(decision, (features, present.clone(), ids))
            self._whole = Captured(
                lambda seen, there, asked: decision(vision(seen, there), there, asked),
                (views.clone(), present.clone(), ids.clone()),
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of a view in pixels."""
        return self.model.image_size

    @torch.inference_mode()
    def encode(self, views: NDArray[np.uint8] | Tensor, present: NDArray[np.bool_]) -> Tensor:
        """See :meth:`Backend.encode`; views may be on the device already."""
        return self._vision.run(_batch(views), _batch(present)).clone()

    @torch.inference_mode()
    def log_probs(
        self, features: Tensor, present: NDArray[np.bool_], question: str
    ) -> NDArray[np.float32]:
        """See :meth:`Backend.log_probs`."""
        scores = self._decision.run(features, _batch(present), self._ids(question))
        return np.asarray(scores[0].cpu().numpy())  # the one wait

    @torch.inference_mode()
    def decide(
        self, views: NDArray[np.uint8] | Tensor, present: NDArray[np.bool_], question: str
    ) -> NDArray[np.float32]:
        """See :meth:`Backend.decide`; views may be on the device already."""
        scores = self._whole.run(_batch(views), _batch(present), self._ids(question))
        return np.asarray(scores[0].cpu().numpy())  # the one wait

    def _ids(self, question: str) -> Tensor:
        ids, room = self.model.tokenizer.encode(question), self._decision.inputs[2].shape[1]
        if len(ids) > room:
            raise FrameError(
                f"question {question[:60]!r} has {len(ids)} tokens, expected at most {room}"
            )
        padded = [*ids, *[self.model.tokenizer.pad_id] * (room - len(ids))]
        return torch.tensor([padded])


class Captured:
    """A function of tensors on one CUDA device as a graph with inputs and output of its own."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
        """Warm up and capture; ``inputs`` become the graph's buffers.

        Raises:
            RuntimeError: the function does something that cannot be captured, such as asking the
                device for a number.
        """
        self.inputs = inputs
        # Pinned: from other memory a copy would wait for the device, and each call would with it.
        self._staged = tuple(torch.empty_like(i, device="cpu").pin_memory() for i in inputs)
        # A stream of its own, not the one that torch captures on by default: cuBLAS has a
        # workspace per stream, and graphs with one in common must not run at the same time.
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                function(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        self._graph = torch.cuda.CUDAGraph()
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        # Of this thread only: another one, loading the planner, may use the device meanwhile.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self.output = function(*inputs)

    def run(self, *values: Tensor) -> Tensor:
        """The output for other values of the inputs; the next call overwrites it.

        Values on the host are staged: the last call's copies must have left the staging memory.
        """
        self._copied.synchronize()
        with torch.cuda.device(self.inputs[0].device):
            for buffer, staged, value in zip(self.inputs, self._staged, values, strict=True):
                if value.device.type == "cpu":
                    value = staged.copy_(value)
                buffer.copy_(value, non_blocking=True)
            self._copied.record()
            self._graph.replay()
        return self.output


def to_bfloat16(model: VlmBase) -> VlmBase:
    """A copy whose weights are bfloat16: half the bytes to read, nothing to convert on the way."""
    model.train(False)  # forgets what was computed in another dtype
    forget_routing(model)
    return copy.deepcopy(model).bfloat16()


def _batch(values: "NDArray[np.uint8] | NDArray[np.bool_] | Tensor") -> Tensor:
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    return tensor[None]
