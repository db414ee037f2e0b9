"""An exported decision by ONNX Runtime: TensorRT or CUDA where it has them, else the CPU.

For vehicle computers; on a CPU :mod:`clkd_core.runtime.backends.on_openvino` is faster. Imports
no torch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.errors import CheckpointError, ConfigError
from clkd_core.runtime.backends.artefact import DECISION, INPUTS, VISION, Artefact
from clkd_core.runtime.backends.protocol import Backend

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""ONNX Runtime's names by ours, fastest first."""


class OnnxRuntimeBackend(Backend):
    """A :class:`clkd_core.runtime.backends.protocol.Backend` wherever ONNX Runtime computes."""

    device = "cpu"
    """Where features lie between the graphs, whatever provider computes."""

    def __init__(
        self, artefact: Artefact, *, provider: str = "auto", threads: int | None = None
    ) -> None:
        """Load both graphs.

        Args:
            artefact: what to run.
            provider: ``tensorrt``, ``cuda``, ``cpu``, or ``auto`` for the first that is there.
            threads: that one operation may spread over on the CPU; None takes all cores.

        Raises:
            ConfigError: ONNX Runtime is not installed, or has no such provider here.
            CheckpointError: it cannot read a graph.
        """
        self._artefact = artefact
        self._providers = choose_providers(provider)
        self._vision = self._load(VISION, threads)
        self._decision = self._load(DECISION, threads)
        used = [_provider_of(session) for session in (self._vision, self._decision)]
        if provider != "auto" and used != [provider] * 2:
            fell = " and ".join(used)
            raise ConfigError(f"provider is {provider!r}, but ONNX Runtime fell back to {fell}")
        self.name = "ONNX Runtime " + " and ".join(dict.fromkeys(used))

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of a view in pixels."""
        return self._artefact.image_size

    def encode(self, views: NDArray[np.uint8], present: NDArray[np.bool_]) -> NDArray[np.float32]:
        """See :meth:`Backend.encode`."""
        return self._run(self._vision, VISION, views[None], present[None])

    def log_probs(
        self, features: NDArray[np.float32], present: NDArray[np.bool_], question: str
    ) -> NDArray[np.float32]:
        """See :meth:`Backend.log_probs`."""
        ids = self._artefact.question_ids(question)
        return np.asarray(self._run(self._decision, DECISION, features, present[None], ids)[0])

    def _run(self, session: Any, name: str, *inputs: NDArray[Any]) -> NDArray[np.float32]:
        fed = dict(zip(INPUTS[name], inputs, strict=True))
        return np.asarray(session.run(None, fed)[0], np.float32)

    def _load(self, name: str, threads: int | None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        path = self._artefact.folder / name
        try:
            return onnxruntime.InferenceSession(path, options, providers=self._providers)
        except Exception as err:  # its exceptions have no common type of their own
            first = str(err).strip().splitlines()[0][:120]
            raise CheckpointError(f"{path} cannot be loaded: {first}") from err


def _provider_of(session: Any) -> str:
    ours = {name: key for key, name in PROVIDERS.items()}
    first = str(session.get_providers()[0])
    return ours.get(first, first)


def choose_providers(provider: str) -> Sequence[str]:
    """ONNX Runtime's names, the wanted one first; each falls back to the next for what it lacks.

    Raises:
        ConfigError: see :class:`OnnxRuntimeBackend`.
    """
    try:
        import onnxruntime
    except ImportError as err:
        raise ConfigError(
            "ONNX Runtime is not installed: pip install 'clkd-drive[export]', or the build of it "
            "that the vehicle's maker provides"
        ) from err
    there = onnxruntime.get_available_providers()
    if provider == "auto":
        return [name for name in PROVIDERS.values() if name in there]
    if PROVIDERS.get(provider) not in there:
        known = [ours for ours, name in PROVIDERS.items() if name in there]
        raise ConfigError(f"provider is {provider!r}, expected auto or one of {', '.join(known)}")
    names = list(PROVIDERS.values())
    return [name for name in names[names.index(PROVIDERS[provider]) :] if name in there]
