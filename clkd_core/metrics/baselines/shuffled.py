"""Whose images a keyframe is shown in place of its own: what is left is not worth of the images.

Black images ask what a student does without a picture; another scene's images ask whether it
looks at the picture it has. Speed and route stay the keyframe's own.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from clkd_core.types import CameraImage, SurroundFrame


def choose_sources(scenes: Sequence[Hashable], *, seed: int) -> NDArray[np.int64] | None:
    """For each keyframe the one whose images it is shown, never its own.

    The keyframes are put in order scene by scene, at random within each (or the same moment of
    two drives would meet, and that says something about the label), and the images are passed on
    by a random number of places, far enough to come from another scene. So a scene's images come
    from few others. Where one scene holds more than half of the keyframes there are not enough
    others: those are shown more than once. Of a single scene the images of a moment at least
    a quarter of the order away are taken.

    Args:
        scenes: (N,) the scene of each keyframe.
        seed: the same seed gives the same choice.

    Returns:
        (N,) indices; None where there is no other keyframe.
    """
    count = len(scenes)
    if count < 2:
        return None
    rng = np.random.default_rng((seed, count))
    order = _order_by_scene(scenes, rng)
    sizes = _scene_sizes(scenes)
    apart = max(sizes.values()) if len(sizes) > 1 else -(-count // 4)
    shift = int(rng.integers(apart, count - apart + 1)) if 2 * apart <= count else count // 2
    sources = np.empty(count, np.int64)
    sources[order] = np.roll(order, -shift)
    return sources if len(sizes) == 1 else _from_other_scenes(sources, scenes, order)


def with_images_of(frame: SurroundFrame, shown: SurroundFrame) -> SurroundFrame:
    """The frame with another one's images; stamp, speed, route and faults stay its own.

    The images carry the frame's stamp: to whoever looks at them they are as fresh as its own.
    """
    images: Mapping[str, CameraImage] = {
        camera: replace(image, stamp_ns=frame.stamp_ns) for camera, image in shown.images.items()
    }
    return replace(frame, images=images)


def _scene_sizes(scenes: Sequence[Hashable]) -> dict[Hashable, int]:
    sizes: dict[Hashable, int] = {}
    for scene in scenes:
        sizes[scene] = sizes.get(scene, 0) + 1
    return sizes


def _order_by_scene(scenes: Sequence[Hashable], rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices, scenes in the order of their first keyframe, at random within a scene."""
    number_of: dict[Hashable, int] = {}
    scene_of = np.array([number_of.setdefault(scene, len(number_of)) for scene in scenes])
    return np.asarray(np.lexsort((rng.random(len(scenes)), scene_of)), np.int64)


def _from_other_scenes(
    sources: NDArray[np.int64], scenes: Sequence[Hashable], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Replace sources within the own scene, which only one scene of more than half can have."""
    at_home = [int(i) for i in order if scenes[sources[i]] == scenes[i]]
    if at_home:
        others = [int(i) for i in order if scenes[i] != scenes[at_home[0]]]
        for turn, index in enumerate(at_home):
            sources[index] = others[turn % len(others)]
    return sources
