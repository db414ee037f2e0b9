"""A keyframe's images, read when a decision is to look at them."""

from dataclasses import replace
from pathlib import Path

import pytest
from keyframe_makers import full_keyframe

from clkd_core.data.keyframes import Keyframe, surround_frame
from clkd_core.errors import DataError
from clkd_core.types import RouteCommand


@pytest.fixture
def keyframe(tmp_path: Path) -> Keyframe:
    return replace(full_keyframe(tmp_path), region=None)


def test_surround_frame_holds_bytes_and_stamps(keyframe: Keyframe) -> None:
    frame = surround_frame(keyframe)
    assert frame.images["CAM_FRONT"].encoded == b"CAM_FRONT"
    assert frame.images["CAM_FRONT_LEFT"].stamp_ns == 40
    assert (frame.stamp_ns, frame.command) == (50, RouteCommand.LEFT)


def test_surround_frame_names_the_image_that_is_missing(keyframe: Keyframe) -> None:
    keyframe.image_paths["CAM_FRONT"].unlink()
    with pytest.raises(DataError, match=r"a\.jpg: image cannot be read"):
        surround_frame(keyframe)


def test_surround_frame_names_the_image_that_is_empty(keyframe: Keyframe) -> None:
    keyframe.image_paths["CAM_FRONT_LEFT"].write_bytes(b"")
    with pytest.raises(DataError, match=r"CAM_FRONT_LEFT/a\.jpg: image is empty"):
        surround_frame(keyframe)


def test_whatever_is_not_regular_is_a_corner_case(keyframe: Keyframe) -> None:
    assert not keyframe.is_corner
    assert replace(keyframe, case_name="fog").is_corner
