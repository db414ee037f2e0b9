"""Where the images of an annotation lie, whether they can be used, and links to their folders."""

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clkd_core.errors import DataError, FrameError
from clkd_core.runtime.decode import ImageHeader, read_image_header

READERS = 8
"""Threads that look at image files; on a network disk each waits most of its time."""


def find_nuscenes_image(roots: Sequence[Path], camera: str, name: str) -> Path:
    """``nuscenes/samples/CAMERA/NAME`` or ``samples/CAMERA/NAME`` below the first root with it.

    The first place is the answer where none has it.
    """
    tail = Path("samples", camera, name)
    return _first([place for root in roots for place in (root / "nuscenes" / tail, root / tail)])


def find_coda_image(roots: Sequence[Path], split: str | None, name: str) -> Path:
    """``SPLIT/images/NAME.jpg`` below the first root with it, as CODA 2022 is unpacked.

    Without a split ``NAME.jpg`` or ``images/NAME.jpg``. The first place is the answer where none
    has it.
    """
    file = f"{name}.jpg"
    if split is not None:
        return _first([root / split / "images" / file for root in roots])
    return _first([place for root in roots for place in (root / file, root / "images" / file)])


def image_fault(path: Path) -> str | None:
    """Why a file is no image to train on, without opening it; None where it may be one."""
    try:
        if not path.is_file():
            return "is missing"
        return None if path.stat().st_size else "is empty"
    except OSError as err:
        return f"cannot be read ({err.strerror})"


def image_faults(paths: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with which of the files."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(READERS) as pool:
        faults = pool.map(image_fault, distinct)
    return {path: fault for path, fault in zip(distinct, faults, strict=True) if fault}


def read_image_size(path: Path) -> ImageHeader | str:
    """What a whole image file says about its size, or why it cannot be used."""
    fault = image_fault(path)
    if fault:
        return fault
    try:
        return read_image_header(path.read_bytes())
    except OSError as err:
        return f"cannot be read ({err.strerror})"
    except FrameError as err:
        return f"is damaged ({err})"


class ImageLinks:
    """Links below a set, one to each folder with images, so that the set copies none."""

    def __init__(self) -> None:
        self._names: dict[Path, str] = {}

    def place(self, path: Path, folder: Path) -> Path:
        """Where the image is found through its link, once ``folder`` holds the links."""
        home = path.parent.resolve()
        if home not in self._names:
            words = "-".join(part for part in home.parts[-2:] if part != home.anchor)
            base = re.sub(r"[^\w.-]", "_", words).lstrip(".") or "images"
            taken = set(self._names.values())
            names = (base, *(f"{base}-{number}" for number in range(2, len(taken) + 3)))
            self._names[home] = next(name for name in names if name not in taken)
        return folder / self._names[home] / path.name

    def folders(self) -> list[Path]:
        """The real folders behind the links."""
        return list(self._names)

    def make(self, folder: Path) -> None:
        """Make the links.

        Raises:
            DataError: the file system has no links, or the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for home, name in self._names.items():
                os.symlink(home, folder / name, target_is_directory=True)
        except OSError as err:
            raise DataError(f"cannot link image folders in {folder}: {err.strerror}") from err


def _first(places: Sequence[Path]) -> Path:
    if not places:
        raise ValueError("no root came, expected at least one folder that may hold images")
    return next((place for place in places if place.is_file()), places[0])
