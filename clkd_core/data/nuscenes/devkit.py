"""Opening the tables of a nuScenes version with the devkit, damaged ones refused by name."""

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clkd_core.data.nuscenes.tables import Row, check_references, load_table
from clkd_core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

_NEEDS_EXTRA = (
    "nuScenes is read with its devkit, which is the extra `nuscenes`: "
    "pip install 'clkd-drive[nuscenes]' (Python 3.10 to 3.12)"
)


def has_tables(root: Path, version: str) -> bool:
    """Whether ``<root>/<version>`` looks like a version folder of nuScenes."""
    return (root / version / "scene.json").is_file()


def open_nuscenes(root: Path, version: str) -> "NuScenes":
    """Load all tables of a version.

    Args:
        root: folder with ``samples/``, ``maps/`` and the version folder.
        version: name of the version folder, e.g. ``v1.0-mini``.

    Returns:
        The devkit's own object; every token in its tables is unique and answered to.

    Raises:
        ConfigError: the devkit is not installed, or is one that we do not know.
        DataError: a table is missing, truncated or of another shape, a token is there twice, or
            one is named that is not there; says which.
    """
    checked = _checked_class()
    folder = Path(root) / version
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected the tables of a nuScenes version")
    try:
        with _without_cycle_search():
            opened = checked(version=version, dataroot=str(root), verbose=False)
    except (AssertionError, LookupError, TypeError, ValueError, AttributeError, OSError) as err:
        what = f"{type(err).__name__}: {err}"
        raise DataError(f"{folder}: nuscenes-devkit cannot read these tables: {what}") from err
    if not opened.references_checked:
        raise ConfigError(
            "this nuscenes-devkit builds its indices in another way than 1.1 and 1.2 do, "
            "expected one of those"
        )
    return opened


@functools.cache
def _checked_class() -> Any:
    """The devkit's class with its two steps of loading held against what we expect."""
    try:
        from nuscenes.nuscenes import NuScenes
    except ImportError as err:
        raise ConfigError(f"{_NEEDS_EXTRA}: {err}") from err

    class CheckedNuScenes(NuScenes):  # type: ignore[misc]
        references_checked = False

        def __load_table__(self, table_name: str) -> list[Row]:
            rows = load_table(Path(self.table_root), table_name)
            if table_name == "map":  # the last one, before the devkit opens the pictures
                self.map = rows
                tables = {name: getattr(self, name) for name in self.table_names}
                check_references(tables, Path(self.table_root))
                self.references_checked = True
            return rows

    return CheckedNuScenes


@contextmanager
def _without_cycle_search() -> Iterator[None]:
    """Millions of rows hold no cycles, and looking for some takes half of the loading time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
