"""A model in memory to an :mod:`clkd_core.runtime.backends.artefact`."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clkd_core.errors import ConfigError
from clkd_core.files import replace_folder
from clkd_core.models.base import VlmBase
from clkd_core.runtime.backends.artefact import (
    DECISION,
    INPUTS,
    TOKENIZER,
    VISION,
    write_manifest,
)
from clkd_core.runtime.backends.graphs import DecisionGraph, VisionGraph, example_inputs

_INLINE_BYTES = 1 << 30
"""Weights beyond this lie in a file beside their graph: a protobuf ends at 2 GB."""


def export_model(model: VlmBase, folder: Path, *, note: Mapping[str, Any] | None = None) -> None:
    """Write a model on the CPU as a folder; one that stood there is replaced as a whole.

    Args:
        model: in evaluation mode, float32.
        folder: of the artefact.
        note: JSON values about where the weights come from.

    Raises:
        ConfigError: the exporter's packages are not installed.
        DataError: the folder cannot be written.
    """
    _require("onnx", "onnxscript")
    model.train(False)  # forgets what was computed under inference mode, which cannot be traced
    with torch.no_grad(), replace_folder(folder) as temporary:
        views, present, ids = example_inputs(model, "cpu")
        features = VisionGraph(model)(views, present)
        DecisionGraph(model)(features, present, ids)  # what lasts is computed before tracing
        _write(VisionGraph(model), (views, present), temporary / VISION)
        _write(DecisionGraph(model), (features, present, ids), temporary / DECISION)
        (temporary / TOKENIZER).write_text(model.tokenizer.to_json(), encoding="utf-8")
        write_manifest(
            temporary,
            image_size=model.image_size,
            question_tokens=ids.shape[1],
            note={"torch": torch.__version__, **(note or {})},
        )


def _write(graph: nn.Module, example: tuple[torch.Tensor, ...], path: Path) -> None:
    weights = sum(p.numel() * p.element_size() for p in graph.parameters())
    with _quiet():
        torch.onnx.export(
            graph.eval(),
            example,
            path,
            input_names=list(INPUTS[path.name]),
            output_names=["features" if path.name == VISION else "log_probs"],
            dynamo=True,
            external_data=weights > _INLINE_BYTES,
            verbose=False,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of itself at length; what fails raises all the same."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _require(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"exporting needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        )
