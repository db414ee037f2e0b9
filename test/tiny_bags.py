"""Small bags of grey images."""

from pathlib import Path

from fakes import jpeg_bytes

from clkd_core.data.bags import topics
from clkd_core.data.bags.files import write_bag
from clkd_core.data.bags.messages import Label, Pose, image_to_msg, label_to_msg, odometry_to_msg
from clkd_core.types import CAMERAS, META_ACTIONS, CameraImage, EgoState

START_NS = 1_000_000_000_000
KEYFRAME_NS = 500_000_000
SCENE_NS = 600_000_000_000


def scene_start_ns(number: int) -> int:
    """Stamp of the first keyframe that :func:`write_scene` writes."""
    return START_NS + number * SCENE_NS


def write_scene(path: Path, number: int, *, keyframes: int = 3, labelled: bool = True) -> Path:
    """Keyframes of a scene of its own, 0.5 s apart; brightness and speed say which one it is."""
    with write_bag(path) as bag:
        for step in range(keyframes):
            now = scene_start_ns(number) + step * KEYFRAME_NS
            ego = odometry_to_msg(EgoState(stamp_ns=now, speed_mps=float(number)), Pose())
            bag.write(topics.ODOMETRY, topics.ODOMETRY_TYPE, now, ego)
            for camera in CAMERAS:
                jpeg = jpeg_bytes(value=20 * number)
                msg = image_to_msg(camera, CameraImage(stamp_ns=now, encoded=jpeg))
                bag.write(topics.image_topic(camera), topics.COMPRESSED_IMAGE, now, msg)
            if labelled:
                label = Label(
                    stamp_ns=now, scene=f"s{number}", case_name="fog", action=META_ACTIONS[0]
                )
                bag.write(topics.TRUE_META_ACTION, topics.META_ACTION, now, label_to_msg(label))
    return path
