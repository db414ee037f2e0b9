"""A decision as two ONNX graphs in a folder: what ``clkd export`` writes and a vehicle runs.

``vision.onnx`` maps six views to features, ``decision.onnx`` features and a question to the
log-probabilities of the 20 meta-actions; ``tokenizer.json`` turns the question into ids and
``artefact.json`` says what fits together. Nothing here needs torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clkd_core.errors import CheckpointError, DataError, FrameError
from clkd_core.files import sha256_of
from clkd_core.models.tokenizer import TextTokenizer
from clkd_core.types import META_ACTIONS

FORMAT_VERSION = 1
VISION, DECISION, TOKENIZER, MANIFEST = (
    "vision.onnx",
    "decision.onnx",
    "tokenizer.json",
    "artefact.json",
)
INPUTS = {VISION: ("views", "present"), DECISION: ("features", "present", "question_ids")}
"""Names of the graphs' inputs, in order."""


@dataclass(frozen=True)
class Artefact:
    """A folder that was looked through."""

    folder: Path
    image_size: tuple[int, int]
    """(H, W) of a view in pixels."""
    question_tokens: int
    """Q: ids of a question, filled up with padding."""
    tokenizer: TextTokenizer

    def question_ids(self, question: str) -> NDArray[np.int64]:
        """(1, Q) ids of a question, padding on the right.

        Raises:
            FrameError: it has more than Q.
        """
        ids = self.tokenizer.encode(question)
        if len(ids) > self.question_tokens:
            raise FrameError(
                f"question {question[:60]!r} has {len(ids)} tokens, "
                f"expected at most {self.question_tokens}"
            )
        row = np.full((1, self.question_tokens), self.tokenizer.pad_id, np.int64)
        row[0, : len(ids)] = ids
        return row


def is_artefact(folder: Path) -> bool:
    """Whether the folder holds an exported decision rather than a checkpoint."""
    return (folder / MANIFEST).is_file()


def load_artefact(folder: Path) -> Artefact:
    """Check a folder against its manifest.

    Raises:
        CheckpointError: a file is missing, damaged or of another version.
    """
    manifest = _read_manifest(folder)
    try:
        _check_files(folder, manifest["sha256"])
        image = manifest["image"]
        size = int(image["height_px"]), int(image["width_px"])
        question_tokens, actions = int(manifest["question_tokens"]), list(manifest["actions"])
        text = (folder / TOKENIZER).read_text(encoding="utf-8")
    except (OSError, KeyError, TypeError, ValueError, AttributeError, DataError) as err:
        raise CheckpointError(f"{folder / MANIFEST}: {type(err).__name__}: {err}") from err
    if actions != [action.text for action in META_ACTIONS]:
        raise CheckpointError(f"{folder / MANIFEST}: actions are {actions}, expected our 20")
    tokenizer = TextTokenizer.from_json(text, source=folder / TOKENIZER)
    return Artefact(folder, size, question_tokens, tokenizer)


def write_manifest(
    folder: Path,
    *,
    image_size: tuple[int, int],
    question_tokens: int,
    note: Mapping[str, Any],
) -> None:
    """Describe the files of a folder; the last thing written into it."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    manifest = {
        "format_version": FORMAT_VERSION,
        "image": {"height_px": image_size[0], "width_px": image_size[1]},
        "question_tokens": question_tokens,
        "actions": [action.text for action in META_ACTIONS],
        "note": dict(note),
        "sha256": {path.name: sha256_of(path) for path in files},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise CheckpointError(f"{path} cannot be read: {err}") from err
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: format_version is {version!r}, expected {FORMAT_VERSION}")
    return dict(manifest)


def _check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    missing = {VISION, DECISION, TOKENIZER} - set(hashes)
    if missing:
        raise CheckpointError(f"{folder / MANIFEST} lists no {', '.join(sorted(missing))}")
    for name, wanted in hashes.items():
        came = sha256_of(folder / Path(name).name)
        if came != wanted:
            raise CheckpointError(
                f"{folder / name} is damaged: its sha256 is {came[:12]}..., "
                f"expected {str(wanted)[:12]}..."
            )
