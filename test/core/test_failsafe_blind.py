"""The stop of a car that sees nothing, and three threads at once."""

import math
import threading
import time

import numpy as np
import pytest
from failsafe_car import (
    CORNER,
    Car,
    HeldPlanner,
    LinePlanner,
    assert_straight,
    circle,
    decision_at,
    distances,
    frame_at,
    stamp,
)
from fakes import FakePlanner

from clkd_core.errors import FrameError
from clkd_core.runtime.braking import STEP_TIMES_S, StoppingPath
from clkd_core.runtime.failsafe import FailSafeConfig, FailSafePlanner
from clkd_core.types import Plan, PlanMode, Trajectory


def test_frames_that_keep_coming_leave_nothing_to_say_without_one() -> None:
    car = Car()
    assert car.blind(0.0) is None and car.blind(100.0) is None  # not before the first
    for tenth in range(200, 240, 5):
        car.see(tenth / 10)
        assert car.blind(tenth / 10 + 0.49) is None
    assert car.blind(24.01) is not None


def test_blind_car_stops_in_one_smooth_braking_however_often_it_is_asked() -> None:
    car = Car()
    car.decide(0.0)
    car.see(0.0)
    stop = car.profile(10.0)
    for hundredth in (60, 70, 75, 110, 300, 640, 870):
        plan = car.blind(hundredth / 100)
        assert plan is not None
        assert (plan.stamp_ns, plan.mode) == (stamp(hundredth / 100), PlanMode.STOPPING)
        assert (plan.decision_stamp_ns, math.isnan(plan.inference_ms)) == (None, True)
        assert plan.degraded == (f"no usable frame for {hundredth / 100:.1f} s, limit 0.5 s",)
        assert_straight(plan, distances(stop, hundredth / 100 - 0.6))
    for at_s in (9.0, 60.0):
        assert_straight(car.blind(at_s), [0.0] * 6)


@pytest.mark.parametrize("speed_mps", [None, 10.0 - 1.125 - 1.5], ids=["unseen", "seen"])
def test_blind_car_takes_up_the_stop_that_was_going_on_and_frames_take_up_the_blind_one(
    speed_mps: float | None,
) -> None:
    """After 1.5 s of growing braking and 1 s of holding it."""
    car = Car()
    car.see(0.0)
    car.see(3.1)
    stop = car.profile(10.0)
    assert_straight(car.blind(4.1), distances(stop, 1.0))
    assert_straight(car.blind(5.1), distances(stop, 2.0))
    plan = car.see(5.6, speed_mps)
    assert plan.mode is PlanMode.STOPPING
    assert_straight(plan, distances(stop, 2.5))


def test_blind_car_bends_along_the_rest_of_the_last_line() -> None:
    bend = circle(20.0, 6 * STEP_TIMES_S)  # 18 m
    car = Car(LinePlanner(bend, bend))
    car.decide(0.0)
    car.see(0.0, 6.0)
    for at_s in (0.6, 1.2):
        plan = car.blind(at_s)
        assert plan is not None
        ahead = np.array(distances(car.profile(6.0), at_s - 0.6))
        left = 18.0 - 3.6 - car.profile(6.0).at(at_s - 0.6).distance_m
        near = ahead < left
        assert near.sum() >= 5
        expected = circle(20.0, ahead)
        np.testing.assert_allclose(plan.trajectory.xy_m[near], expected[near], atol=0.1)


def test_blind_car_comes_nearer_to_a_bend_as_it_brakes() -> None:
    car = Car(LinePlanner(CORNER, CORNER))
    car.decide(0.0)
    car.see(0.0, 3.0)
    stop, path = car.profile(3.0), StoppingPath(Trajectory(xy_m=CORNER))
    for at_s in (0.6, 1.2, 2.0):
        plan = car.blind(at_s)
        assert plan is not None
        come_m = 0.6 * 3.0 + stop.at(at_s - 0.6).distance_m
        expected = path.points_ahead(come_m, np.array(distances(stop, at_s - 0.6)))
        np.testing.assert_allclose(plan.trajectory.xy_m, expected, atol=1e-3)


def test_blind_car_is_as_far_as_a_late_frame_was_old() -> None:
    car = Car()
    car.see(0.0)
    car.see(3.1, age_s=0.4)  # so at 3.5 it has braked for 0.4 s
    assert_straight(car.blind(4.1), distances(car.profile(10.0), 1.0))


def test_unusable_frames_end_neither_blindness_nor_the_count_without_decisions() -> None:
    car = Car()
    car.see(0.0)
    for at_s in (0.3, 0.5):
        with pytest.raises(FrameError, match="no usable image"):
            car.see(at_s, image=b"torn")
    plan = car.blind(0.6)
    assert plan is not None and plan.degraded == ("no usable frame for 0.6 s, limit 0.5 s",)
    car.decide(2.0)
    with pytest.raises(FrameError):
        car.see(2.0, image=b"torn")
    assert car.see(3.1).mode is PlanMode.STOPPING
    assert car.blind(3.2) is None


def test_sight_and_decision_come_back_at_once() -> None:
    car = Car()
    car.see(0.0)
    assert car.blind(4.0) is not None
    car.decide(4.0)
    assert car.see(4.1).mode is PlanMode.FOLLOWING
    assert car.blind(4.2) is None


@pytest.mark.parametrize("age_s", [3e8, -3e8, math.nan])
def test_age_from_another_clock_does_not_move_the_car(age_s: float) -> None:
    car = Car()
    for at_s in (0.0, 3.1):
        car.now_s = at_s
        car.safe.plan(frame_at(at_s), age_s=age_s)
    assert_straight(car.blind(4.1), distances(car.profile(10.0), 1.0))


def test_blindness_is_counted_anew_where_simulated_time_begins_again() -> None:
    car = Car()
    car.see(100.0)
    assert car.blind(1.0) is None and car.blind(1.5) is None
    assert car.blind(1.6) is not None


def test_stop_without_frames_never_waits_for_a_plan_and_the_plan_says_what_it_replaces() -> None:
    planner = HeldPlanner()
    planner.free.set()
    car = Car(planner)
    car.see(0.0)
    planner.free.clear()
    planner.asked_now.clear()
    car.now_s, late = 0.4, list[Plan]()
    worker = threading.Thread(target=lambda: late.append(car.safe.plan(frame_at(0.4), age_s=0.0)))
    worker.start()
    assert planner.asked_now.wait(10.0)
    stops: list[Plan | None] = []
    watchdog = threading.Thread(target=lambda: stops.append(car.blind(0.7)))
    watchdog.start()
    watchdog.join(10.0)
    blocked = not stops
    planner.free.set()
    worker.join(10.0)
    watchdog.join(10.0)
    assert not blocked and stops[0] is not None
    assert (stops[0].stamp_ns, late[0].stamp_ns) == (stamp(0.7), stamp(0.4))
    said = "replaces a stop that was planned while it was in the making"
    assert said in late[0].degraded
    assert said not in car.see(0.8).degraded


def test_three_threads_at_once_leave_whole_plans_in_the_right_modes() -> None:
    """Decisions are pushed before their frame, so every plan of a frame follows one."""
    safe = FailSafePlanner(FakePlanner(), FailSafeConfig(frame_max_age_s=0.05))
    plans, stops, newest, done = list[Plan](), list[Plan](), [0.0], threading.Event()

    def drive() -> None:
        for number in range(150):
            newest[0] = number / 10
            safe.push_decision(decision_at(newest[0]))
            plans.append(safe.plan(frame_at(newest[0]), age_s=0.0))
            if number % 50 == 25:
                time.sleep(0.08)
        done.set()

    def watch() -> None:
        while not done.is_set():
            if plan := safe.plan_blind(1):
                stops.append(plan)

    def push() -> None:
        while not done.is_set():
            safe.push_decision(decision_at(newest[0] - 0.2))

    threads = [threading.Thread(target=target) for target in (drive, watch, push)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    assert {plan.mode for plan in plans} == {PlanMode.FOLLOWING} and len(plans) == 150
    assert {plan.mode for plan in stops} == {PlanMode.STOPPING}
