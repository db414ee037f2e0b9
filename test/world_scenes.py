"""Situations of the synthetic world built by hand: an empty road, and who is put on it."""

import itertools
from dataclasses import replace
from functools import cache

import numpy as np

from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.questions.facts import find_facts
from clkd_core.data.world.questions.scenes import scene_questions
from clkd_core.data.world.questions.sight import see
from clkd_core.data.world.render.cameras import build_cameras
from clkd_core.data.world.render.surroundings import Walls
from clkd_core.data.world.scene.actors import Actor, Signal, standing, track_times
from clkd_core.data.world.scene.build import build_drive
from clkd_core.data.world.scene.causes import FRONT_M
from clkd_core.data.world.scene.script import DriveSpec
from clkd_core.types import MetaAction, PathAction, SpeedAction

CONFIG = WorldConfig(width_px=320, height_px=180)
CAMERAS = build_cameras(320, 180)
NO_WALLS = Walls(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))
KEEP = MetaAction(SpeedAction.KEEP, PathAction.STRAIGHT)
T = 4.0
"""When the hand-built scenes are looked at [s]."""


@cache
def empty_drive(cause="free", crossing=False):
    """A drive straight on without anybody else and without a light."""
    drives = (_without_others(cause, seed) for seed in itertools.count(1))
    return next(drive for drive in drives if drive.layout.crossing == crossing)


def _without_others(cause, seed):
    spec = DriveSpec(
        name="train-0000",
        split="train",
        index=0,
        seed=seed,
        case_name="regular",
        cause=cause,
        manoeuvre="straight",
        window="full",
    )
    return replace(build_drive(spec, CONFIG), actors=(), signal=None)


def pose_ahead(drive, ahead_m, left_m=0.0, turn=0.0, t=T):
    """A pose on the ego's way, so far ahead of its front and to the left of the way."""
    x, y, yaw = drive.path.pose_at(np.array(drive.motion.at(t)[0] + FRONT_M + ahead_m))
    return standing(x - np.sin(yaw) * left_m, y + np.cos(yaw) * left_m, yaw + turn)


def actor(kind, poses, on=False, name="one", role="cause"):
    on_s = ((-np.inf, np.inf),) if on else ()
    return Actor(name=name, kind=kind, color=(200, 200, 200), poses=poses, on_s=on_s, role=role)


def moving(pose, speed_mps, t=T):
    """A track that passes a pose at a time, straight on."""
    (x, y, yaw) = pose[0]
    s = speed_mps * (track_times(CONFIG.drive_s) - t)
    return np.stack([x + s * np.cos(yaw), y + s * np.sin(yaw), np.full(len(s), yaw)], axis=-1)


def answers(drive, *actors, signal=None, walls=NO_WALLS, weather="clear", action=KEEP, t=T):
    drive = replace(drive, actors=actors, signal=signal)
    facts = find_facts(drive, t, see(drive, t, CAMERAS, walls, 600.0), weather)
    return {qa.question: qa.answer for qa in scene_questions(facts, action)}


def light(drive, state, ahead_m=20.0):
    x, y, _ = pose_ahead(drive, ahead_m)[0]
    return Signal(heads_m=((x, y, 4.7),), poles_m=(), lamp_m=1.15, changes=((-np.inf, state),))
