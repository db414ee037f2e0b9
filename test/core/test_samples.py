from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_vlm import SQUARES_VERSION, write_squares

from clkd_core.data.keyframes import Region
from clkd_core.data.sidecar import SIDECAR, keyframe_to_json, load_keyframes, write_sidecar
from clkd_core.distill.feed.samples import load_samples
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS


def test_cached_views_are_read_back_and_renewed_when_an_image_changes(tmp_path: Path) -> None:
    write_squares(tmp_path / "set", train=2, val=1)
    keyframes = load_keyframes(tmp_path / "set", SQUARES_VERSION, "train")
    cache = tmp_path / "cache"
    first = load_samples(keyframes, (36, 64), workers=1, cache=cache)
    assert sorted(path.name.split("-")[0] for path in cache.iterdir()) == ["present", "views"]
    again = load_samples(keyframes, (36, 64), workers=1, cache=cache)
    assert np.array_equal(first.views, again.views)
    front, back = (keyframes[0].image_paths[c] for c in ("CAM_FRONT", "CAM_BACK"))
    front.write_bytes(back.read_bytes())
    changed = load_samples(keyframes, (36, 64), workers=1, cache=cache)
    assert np.array_equal(changed.views[0, 0], changed.views[0, CAMERAS.index("CAM_BACK")])


@pytest.mark.parametrize("lazy", [True, False])
def test_another_region_in_the_same_image_is_decoded_anew(tmp_path: Path, lazy: bool) -> None:
    root, cache = tmp_path / "set", tmp_path / "cache"
    write_squares(root, train=2, val=1)
    plain = list(load_keyframes(root, SQUARES_VERSION, "train"))
    seen = []
    for left in (4.0, 30.0):
        region = Region(camera="CAM_FRONT", box_xywh_px=(left, 6.0, 20.0, 20.0))
        marked = [replace(keyframe, region=region) for keyframe in plain]
        records = [keyframe_to_json(k, split="train", root=root) for k in marked]
        write_sidecar(root / "marked" / SIDECAR, records)
        keyframes = load_keyframes(root, "marked", "train") if lazy else marked
        seen.append(load_samples(keyframes, (36, 64), workers=1, cache=cache))
    assert seen[0].fingerprint != seen[1].fingerprint
    assert not np.array_equal(seen[0].views[:, 0], seen[1].views[:, 0])
    assert np.array_equal(seen[0].views[:, 1:], seen[1].views[:, 1:])


def test_damaged_image_is_named_with_its_keyframe(tmp_path: Path) -> None:
    write_squares(tmp_path / "set", train=2, val=1)
    keyframes = load_keyframes(tmp_path / "set", SQUARES_VERSION, "train")
    keyframes[1].image_paths["CAM_BACK"].write_bytes(b"no image")
    with pytest.raises(DataError, match="keyframe token-001: CAM_BACK"):
        load_samples(keyframes, (36, 64), workers=2)
