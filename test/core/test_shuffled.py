"""Whose images a keyframe is shown: never its own, and another scene's wherever there is one."""

from collections import Counter

import numpy as np
import pytest
from fakes import jpeg_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.metrics.baselines.shuffled import choose_sources, with_images_of
from clkd_core.types import CameraImage, EgoState, RouteCommand, SurroundFrame

scene_lists = st.lists(st.sampled_from("abcde"), min_size=2, max_size=40)
seeds = st.integers(0, 2**32)


@settings(deadline=None)
@given(scenes=scene_lists, seed=seeds)
def test_nobody_is_shown_its_own_images_nor_those_of_its_scene_where_there_are_others(
    scenes: list[str], seed: int
) -> None:
    sources = choose_sources(scenes, seed=seed)
    assert sources is not None and sources.shape == (len(scenes),)
    for index, source in enumerate(sources):
        assert source != index
        if len(set(scenes)) > 1:
            assert scenes[source] != scenes[index]


@settings(deadline=None)
@given(scenes=scene_lists, seed=seeds)
def test_every_image_is_shown_once_where_no_scene_has_more_than_half(
    scenes: list[str], seed: int
) -> None:
    largest = max(Counter(scenes).values())
    sources = choose_sources(scenes, seed=seed)
    assert sources is not None
    if len(set(scenes)) == 1 or 2 * largest <= len(scenes):
        assert sorted(sources) == list(range(len(scenes)))


def test_the_seed_decides_and_nothing_else() -> None:
    scenes = [f"drive {number // 10}" for number in range(60)]
    first, again, other = (choose_sources(scenes, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_a_scene_takes_its_images_from_few_others_and_not_moment_by_moment() -> None:
    scenes = [number // 10 for number in range(100)]
    sources = choose_sources(scenes, seed=0)
    assert sources is not None
    for scene in range(10):
        shown = sources[scene * 10 : scene * 10 + 10]
        assert len({scenes[source] for source in shown}) <= 2
        assert (np.diff(shown) == 1).sum() < 5  # the same moment of two drives would meet


def test_a_single_scene_is_shown_another_moment_and_a_single_keyframe_nothing() -> None:
    sources = choose_sources(["a"] * 8, seed=1)
    assert sources is not None and sorted(sources) == list(range(8))
    assert choose_sources(["a"], seed=0) is None
    assert choose_sources([], seed=0) is None


@pytest.mark.parametrize("count", [2, 3])
def test_the_smallest_sets_still_have_somebody_elses_images(count: int) -> None:
    sources = choose_sources(list("ab" if count == 2 else "aab"), seed=0)
    assert sources is not None and all(sources[i] != i for i in range(count))


def test_speed_route_and_stamp_stay_and_the_images_are_the_others() -> None:
    own = SurroundFrame(
        stamp_ns=7,
        images={"CAM_FRONT": CameraImage(stamp_ns=7, encoded=jpeg_bytes(value=1))},
        ego=EgoState(stamp_ns=6, speed_mps=3.0),
        command=RouteCommand.LEFT,
        faults=("odometry is old",),
    )
    other = SurroundFrame(
        stamp_ns=99,
        images={"CAM_BACK": CameraImage(stamp_ns=98, encoded=jpeg_bytes(value=2))},
        ego=EgoState(stamp_ns=99, speed_mps=30.0),
    )
    mixed = with_images_of(own, other)
    assert (mixed.stamp_ns, mixed.ego, mixed.command) == (7, own.ego, RouteCommand.LEFT)
    assert mixed.faults == own.faults
    assert set(mixed.images) == {"CAM_BACK"}
    assert mixed.images["CAM_BACK"].encoded == other.images["CAM_BACK"].encoded
    assert mixed.images["CAM_BACK"].stamp_ns == 7
