"""The renderer: geometry is exact, causes are visible, weather is weather."""

import cv2
import numpy as np
import pytest

from clkd_core.data.world.config import WorldConfig
from clkd_core.data.world.render.cameras import CAMERA_STAMP_OFFSETS_NS, build_cameras
from clkd_core.data.world.render.renderer import DriveRenderer, actor_shape
from clkd_core.data.world.render.shapes import ShapeBuilder
from clkd_core.data.world.render.view import View, sorted_primitives
from clkd_core.data.world.render.weather import draw_panorama, sample_weather
from clkd_core.data.world.scene.build import build_drive
from clkd_core.data.world.scene.script import DriveSpec, plan_drives
from clkd_core.types import CAMERAS

CONFIG = WorldConfig(width_px=320, height_px=180)


def spec(cause, window="full", case="regular", manoeuvre="straight", seed=5):
    return DriveSpec(
        name="train-0000",
        split="train",
        index=0,
        seed=seed,
        case_name=case,
        cause=cause,
        manoeuvre=manoeuvre,
        window=window,
    )


def test_cameras_have_nuscenes_lens_and_look_around():
    cameras = build_cameras(1600, 900)
    assert tuple(cameras) == CAMERAS
    front, back = cameras["CAM_FRONT"], cameras["CAM_BACK"]
    assert front.intrinsic[0, 0] == pytest.approx(1266.4)
    assert back.intrinsic[0, 0] == pytest.approx(809.2)
    ahead = front.project(np.array([20.0, 0.02, 1.51]))
    assert ahead == pytest.approx([816.3, 491.5, 18.3])
    assert front.project(np.array([20.0, 2.0, 1.51]))[0] < 816.3  # left of the ego is left
    assert cameras["CAM_FRONT_LEFT"].project(np.array([5.0, 8.0, 1.0]))[2] > 0
    assert back.project(np.array([20.0, 0.0, 1.0]))[2] < 0


def test_smaller_images_show_the_same_directions():
    point = np.array([15.0, 3.0, 0.5])
    large = build_cameras(1600, 900)["CAM_FRONT"].project(point)
    small = build_cameras(400, 225)["CAM_FRONT"].project(point)
    assert small[:2] * 4 == pytest.approx(large[:2])


def test_quaternion_turns_as_the_matrix_does():
    for camera in build_cameras(640, 360).values():
        w, x, y, z = camera.quaternion_wxyz
        matrix = np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
        assert matrix == pytest.approx(camera.camera_from_ego.T, abs=1e-12)


def test_one_camera_has_the_newest_stamp():
    assert set(CAMERA_STAMP_OFFSETS_NS) == set(CAMERAS)
    assert max(CAMERA_STAMP_OFFSETS_NS.values()) == 0


def test_shapes_land_where_the_camera_projects_them():
    """A magenta square on the ground ahead fills exactly its projected outline."""
    square = np.array([(9.0, -1.0, 0.0), (9.0, 1.0, 0.0), (12.0, 1.0, 0.0), (12.0, -1.0, 0.0)])
    builder = ShapeBuilder()
    builder.group(10.0, 0.0)
    builder.quad(square, (255.0, 0.0, 255.0), 1.0)
    weather = sample_weather("regular", 1)
    camera = build_cameras(640, 360)["CAM_FRONT"]
    view = View(camera, draw_panorama(1, "clear"), weather)
    image = np.zeros((360, 640, 3), np.uint8)
    view.draw(image, sorted_primitives(builder.build(), np.zeros(3), weather))
    rows, columns = np.nonzero(image[..., 0] > 100)
    expected = camera.project(square)[:, :2]
    assert columns.min() == pytest.approx(expected[:, 0].min(), abs=1.0)
    assert columns.max() == pytest.approx(expected[:, 0].max(), abs=1.0)
    assert rows.min() == pytest.approx(expected[:, 1].min(), abs=1.0)
    assert rows.max() == pytest.approx(expected[:, 1].max(), abs=1.0)


def test_ground_is_drawn_where_the_camera_projects_it():
    """The stop line of the raster lies in the image where its corners project to."""
    drive = build_drive(spec("red_light", "stand"), WorldConfig(width_px=640, height_px=360))
    renderer = DriveRenderer(drive)
    t = 0.0
    x, y, _ = drive.ego_pose(t)
    far = -drive.layout.box_m - 2.3 - x  # the middle of the zebra stripes, ahead of the ego
    columns = np.linspace(-2.5, 2.5, 41)
    points = np.stack([np.full(41, far), columns, np.zeros(41)], axis=-1)
    image = renderer.render(t)["CAM_FRONT"]
    uv = np.round(renderer.cameras["CAM_FRONT"].project(points)[:, :2]).astype(int)
    bright = image[uv[:, 1], uv[:, 0]].mean(axis=1)
    stripes = ((columns + y + drive.layout.half_m - 0.65 + 0.55) % 1.1) / 1.1
    on, off = np.abs(stripes - 0.5) < 0.15, np.abs(stripes - 0.5) > 0.38
    assert bright[on].mean() > bright[off].mean() + 50


def test_solid_faces_are_seen_from_outside_only():
    builder = ShapeBuilder()
    builder.group(10.0, 0.0)
    builder.box((8.0, -1.0, 0.0), (12.0, 1.0, 2.0), (200.0, 0.0, 0.0))
    weather = sample_weather("regular", 1)
    camera = build_cameras(320, 180)["CAM_FRONT"]
    view = View(camera, draw_panorama(1, "clear"), weather)
    outside, inside = np.zeros((2, 180, 320, 3), np.uint8)
    view.draw(outside, sorted_primitives(builder.build(), np.zeros(3), weather))
    view.draw(inside, sorted_primitives(builder.build(), np.array([8.5, 0.0, 0.0]), weather))
    assert (outside[..., 0] > 50).sum() > 500
    assert (inside[..., 0] > 50).sum() == 0


def red_lamps(image):
    r, g, b = (image[..., i].astype(int) for i in range(3))
    return int(((r > 200) & (g < 90) & (b < 90)).sum())


def test_red_light_and_green_light_are_seen_at_a_hundred_pixels():
    drive = build_drive(spec("red_light", "stand"), CONFIG)
    renderer = DriveRenderer(drive)

    def lamps(t):
        image = cv2.resize(
            renderer.render(t)["CAM_FRONT"], (128, 72), interpolation=cv2.INTER_AREA
        )
        r, g = image[..., 0].astype(int), image[..., 1].astype(int)
        return int(((r > 190) & (g < 110)).sum()), int(((g > 190) & (r < 110)).sum())

    red, none = lamps(0.0)
    nothing, green = lamps(drive.signal.changes[-1][0] + 0.1)
    assert drive.signal.state_at(0.0) == "red"
    assert red >= 20 > none
    assert green >= 20 > nothing


def test_brake_lights_are_seen():
    drive = build_drive(spec("lead_stop", "stand"), CONFIG)
    renderer = DriveRenderer(drive)
    lead = next(a for a in drive.actors if a.role == "lead")
    released = lead.on_s[0][1]
    before = red_lamps(renderer.render(released - 0.1)["CAM_FRONT"])
    after = red_lamps(renderer.render(released + 0.1)["CAM_FRONT"])
    assert before > 150 + 3 * after


@pytest.mark.parametrize("case", ["night", "fog", "rain_glare"])
def test_weather_changes_the_picture(case):
    clear = DriveRenderer(build_drive(spec("pedestrian", "stand"), CONFIG)).render(0.0)
    other = DriveRenderer(build_drive(spec("pedestrian", "stand", case), CONFIG)).render(0.0)
    difference = np.abs(clear["CAM_FRONT"].astype(int) - other["CAM_FRONT"].astype(int)).mean()
    assert difference > 15
    if case == "night":
        assert other["CAM_FRONT"].mean() < 0.6 * clear["CAM_FRONT"].mean()


def test_foliage_hides_part_of_a_hidden_light():
    whole = DriveRenderer(build_drive(spec("red_light", "stand"), CONFIG)).render(0.0)
    hidden = DriveRenderer(build_drive(spec("red_light", "stand", "hidden_sign"), CONFIG)).render(
        0.0
    )
    assert red_lamps(hidden["CAM_FRONT"]) < 0.95 * red_lamps(whole["CAM_FRONT"])


def test_every_corner_case_renders_at_any_time():
    config = WorldConfig(width_px=64, height_px=36, val_drives=7, val_corner_frac=1.0)
    for drive_spec in plan_drives(config, "val"):
        drive = build_drive(drive_spec, config)
        images = DriveRenderer(drive).render(config.drive_s - 0.1)
        assert {image.shape for image in images.values()} == {(36, 64, 3)}


def test_people_face_the_ego():
    drive = build_drive(spec("pedestrian", "stand"), CONFIG)
    person = next(a for a in drive.actors if a.role == "cause")
    ego = drive.ego_pose(0.0)
    corners = actor_shape(person, 0.0, ego, False).corners.reshape(-1, 3)
    sight = person.pose_at(0.0)[:2] - ego[:2]
    along = (corners[:, :2] - ego[:2]) @ (sight / np.linalg.norm(sight))
    assert np.ptp(along) < 0.05
