"""The Hugging Face hub, asked only for names that nothing on this machine has."""

import re
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub

from clkd_core.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def download(source: str | Path, names: Sequence[str]) -> Path:
    """The hub's own cache on this machine, filled with the files that are missing in it.

    Args:
        source: a model's id; a Path is no id, since whoever gives one means a place here.
        names: patterns of the files that are wanted.

    Raises:
        CheckpointError: no id, or the hub cannot be reached or does not give the model.
    """
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise CheckpointError(f"{source} is no file and no folder")
    try:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=list(names)))
    except Exception as err:  # the errors of the hub's HTTP client change with its releases
        reason = (str(err).splitlines() or [type(err).__name__])[0][:200]
        raise CheckpointError(
            f"{source} is no file and no folder here, and the Hugging Face hub does not give "
            f"it: {reason}"
        ) from err
