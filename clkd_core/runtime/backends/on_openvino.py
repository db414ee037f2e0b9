"""An exported decision on a CPU by OpenVINO: the backend that measurements chose.

`clkd bench backends` compares; docs/experiments.md has what it showed. Imports no torch.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.errors import CheckpointError
from clkd_core.runtime.backends.artefact import DECISION, VISION, Artefact
from clkd_core.runtime.backends.protocol import Backend


class OpenVinoBackend(Backend):
    """A :class:`clkd_core.runtime.backends.protocol.Backend` on this machine's CPU."""

    device = "cpu"

    def __init__(
        self,
        artefact: Artefact,
        *,
        threads: int | None = None,
        bf16: bool | None = None,
        change: Callable[[str, Any], Any] = lambda name, graph: graph,
    ) -> None:
        """Compile both graphs in memory; no compiler is needed for it.

        Args:
            artefact: what to run.
            threads: that one operation may spread over; None takes all cores.
            bf16: compute in bfloat16; None does so where the CPU has instructions for it.
            change: made of each graph of OpenVINO before it is compiled, by its file's name.

        Raises:
            CheckpointError: OpenVINO cannot read a graph.
        """
        self._artefact = artefact
        bf16 = _has_bf16() if bf16 is None else bf16
        self.name = f"OpenVINO {'bfloat16' if bf16 else 'float32'}"
        self._vision, self._decision = (
            _compile(change(name, read_graph(artefact, name)), threads, bf16)
            for name in (VISION, DECISION)
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of a view in pixels."""
        return self._artefact.image_size

    def encode(self, views: NDArray[np.uint8], present: NDArray[np.bool_]) -> NDArray[np.float32]:
        """See :meth:`Backend.encode`."""
        return _infer(self._vision, views[None], present[None])

    def log_probs(
        self, features: NDArray[np.float32], present: NDArray[np.bool_], question: str
    ) -> NDArray[np.float32]:
        """See :meth:`Backend.log_probs`."""
        ids = self._artefact.question_ids(question)
        return np.asarray(_infer(self._decision, features, present[None], ids)[0])


def _infer(request: Any, *inputs: NDArray[Any]) -> NDArray[np.float32]:
    """The one output, in memory of its own: features outlive the next call."""
    contiguous = {place: np.ascontiguousarray(value) for place, value in enumerate(inputs)}
    results = request.infer(contiguous, share_inputs=True)
    return np.array(next(iter(results.values())), np.float32)


def read_graph(artefact: Artefact, name: str) -> Any:
    """A graph as OpenVINO has it, not compiled yet.

    Raises:
        CheckpointError: OpenVINO cannot read it.
    """
    try:
        return _core().read_model(artefact.folder / name)
    except RuntimeError as err:
        first = str(err).strip().splitlines()[0][:120]
        raise CheckpointError(f"{artefact.folder / name} cannot be read: {first}") from err


def _compile(graph: Any, threads: int | None, bf16: bool) -> Any:
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "ENABLE_CPU_PINNING": False,  # other nodes work on these cores, too
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    return _core().compile_model(graph, "CPU", options).create_infer_request()


def _has_bf16() -> bool:
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@lru_cache(maxsize=1)
def _core() -> Any:
    import openvino

    return openvino.Core()
