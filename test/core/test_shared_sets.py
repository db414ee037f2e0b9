"""clkd_core.runtime.shared: which encoding is whose, and what becomes of a failure."""

import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import jpeg_bytes, wait_until
from shared_engines import (
    CountingEngine,
    a_frame,
    an_image,
    same_decision,
    some_pixels,
    tiny_planner,
    tiny_student,
)

from clkd_core.errors import FrameError
from clkd_core.models.base import VlmBase
from clkd_core.models.planner import Planner
from clkd_core.runtime.engine import EncodedFrame, Engine
from clkd_core.runtime.shared import KEPT_SETS, SharedEngine, set_key
from clkd_core.types import CAMERAS, CameraImage, SurroundFrame


@pytest.fixture(scope="module")
def model() -> VlmBase:
    return tiny_student("llama")


@pytest.fixture(scope="module")
def planner(model: VlmBase) -> Planner:
    return tiny_planner(model)


@pytest.fixture
def engine(model: VlmBase) -> CountingEngine:
    return CountingEngine(model)


def test_what_is_missing_is_said_to_each_and_damage_to_both(
    engine: CountingEngine, planner: Planner
) -> None:
    shared = SharedEngine(engine, planner)
    images = {
        "CAM_FRONT": an_image(1, 0),
        "CAM_BACK": CameraImage(stamp_ns=1, encoded=b"junk"),
    }
    plan = shared.planner().plan(a_frame(images=images, command=None, faults=("a fault",)), None)
    decision = shared.decider().decide(a_frame(images=images, ego=None))
    assert engine.encoded == {1: 1}
    missing = "no image from CAM_FRONT_LEFT CAM_FRONT_RIGHT CAM_BACK_LEFT CAM_BACK_RIGHT"
    assert plan.degraded[:3] == ("a fault", missing, "no route command")
    assert decision.degraded[:2] == (missing, "no odometry")
    assert plan.degraded[3:] == decision.degraded[2:]
    assert len(plan.degraded) == 4 and plan.degraded[3].startswith("CAM_BACK: 4 bytes")


def test_a_set_nobody_can_use_is_refused_to_both_and_looked_at_once(
    engine: CountingEngine, planner: Planner
) -> None:
    shared = SharedEngine(engine, planner)
    broken = a_frame(images={"CAM_FRONT": CameraImage(stamp_ns=1, encoded=b"junk")})
    with pytest.raises(FrameError, match="no usable image in the set: CAM_FRONT: 4 bytes"):
        shared.planner().plan(broken, None)
    with pytest.raises(FrameError, match="no usable image in the set: CAM_FRONT: 4 bytes"):
        shared.decider().decide(broken)
    assert engine.encoded == {1: 1}
    assert shared.decider().decide(a_frame(2)).degraded == ()


def test_another_failure_reaches_who_waits_and_is_tried_again_later(
    engine: CountingEngine, planner: Planner
) -> None:
    shared = SharedEngine(engine, planner)
    engine.error = torch.OutOfMemoryError("tried to allocate 2 GiB")
    engine.free.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared.planner().plan, a_frame(1), None)
        wait_until(lambda: engine.running == 1, "the planner encodes")
        second = pool.submit(shared.decider().decide, a_frame(1))
        wait_until(second.running, "the decider asks")
        time.sleep(0.05)
        engine.free.set()
        for one in (first, second):
            with pytest.raises(torch.OutOfMemoryError, match="2 GiB"):
                one.result(30.0)
    assert engine.encoded == {1: 1}
    engine.error = None
    assert shared.decider().decide(a_frame(1)).degraded == ()
    assert engine.encoded == {1: 2}


def test_a_failure_holds_no_memory_once_it_was_caught(
    engine: CountingEngine, planner: Planner
) -> None:
    class Tensors:
        """What a failed encoding leaves behind in its variables."""

    left: list[weakref.ref[Tensors]] = []

    def run_out_of_memory(frame: SurroundFrame, *, blank: bool = False) -> EncodedFrame:
        large = Tensors()
        left.append(weakref.ref(large))
        raise torch.OutOfMemoryError

    engine.encode = run_out_of_memory  # type: ignore[method-assign]
    decider = SharedEngine(engine, planner).decider()
    gc.disable()
    try:
        with pytest.raises(torch.OutOfMemoryError) as caught:
            decider.decide(a_frame(1))
        caught.__dict__.clear()
        assert left[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("raw", [False, True], ids=["png", "raw"])
def test_two_sets_of_one_stamp_are_never_mixed_up(
    engine: CountingEngine, planner: Planner, model: VlmBase, raw: bool
) -> None:
    def of(seed: int) -> SurroundFrame:
        raw_image = CameraImage(stamp_ns=1, pixels=some_pixels(seed))
        images = dict.fromkeys(
            CAMERAS, raw_image if raw else replace(an_image(seed, 0), stamp_ns=1)
        )
        return a_frame(images=images)

    decider, alone = SharedEngine(engine, planner).decider(), Engine.on_torch(model, bf16=True)
    for seed in (40, 200, 40):
        assert same_decision(decider.decide(of(seed)), alone.decide(of(seed)))
    assert engine.encoded == {1: 2}
    one, other = (alone.decide(of(seed)).probabilities for seed in (40, 200))
    assert np.abs(one - other).max() > 1e-3  # else the sameness above means little


def test_images_that_look_alike_at_two_times_are_encoded_twice(
    engine: CountingEngine, planner: Planner
) -> None:
    decider = SharedEngine(engine, planner).decider()
    for stamp_ns in (1, 2):
        image = CameraImage(stamp_ns=stamp_ns, encoded=jpeg_bytes())
        decider.decide(a_frame(stamp_ns, images=dict.fromkeys(CAMERAS, image)))
    assert engine.encoded == {1: 1, 2: 1}


def test_a_set_that_lacks_a_camera_is_another_set() -> None:
    whole = a_frame(1)
    images = {camera: whole.images[camera] for camera in CAMERAS[:5]}
    assert set_key(whole) == set_key(a_frame(1, ego=None, command=None, faults=("a fault",)))
    assert set_key(whole) != set_key(replace(whole, images=images))
    swapped = {**whole.images, "CAM_FRONT": whole.images["CAM_BACK"]}
    assert set_key(whole) != set_key(replace(whole, images=swapped))
    backwards = dict(reversed(whole.images.items()))
    assert set_key(whole) == set_key(replace(whole, images=backwards))


def test_raw_images_are_told_apart_by_a_small_part_of_them() -> None:
    image = CameraImage(stamp_ns=1, pixels=some_pixels(1, 900, 1600))
    key = set_key(a_frame(images=dict.fromkeys(CAMERAS, image)))
    assert sum(len(content) for *_, content in key) < 110_000  # of 26 MB


def test_sets_are_encoded_one_after_the_other(engine: CountingEngine, planner: Planner) -> None:
    shared = SharedEngine(engine, planner)
    engine.free.clear()
    with ThreadPoolExecutor(2) as pool:
        plan = pool.submit(shared.planner().plan, a_frame(1), None)
        wait_until(lambda: engine.running == 1, "the planner encodes")
        decision = pool.submit(shared.decider().decide, a_frame(2))
        time.sleep(0.02)
        engine.free.set()
        assert plan.result(30.0).stamp_ns == 1 and decision.result(30.0).stamp_ns == 2
    assert engine.encoded == {1: 1, 2: 1}


def test_only_the_newest_sets_are_remembered(engine: CountingEngine, planner: Planner) -> None:
    decider = SharedEngine(engine, planner).decider()
    for n in range(KEPT_SETS + 1):
        decider.decide(a_frame(n))
    decider.decide(a_frame(KEPT_SETS))
    decider.decide(a_frame(1))
    assert set(engine.encoded.values()) == {1}
    decider.decide(a_frame(0))
    assert engine.encoded[0] == 2
