"""clkd_core.runtime.backends.gpu_decode: the CPU path's views and words, decoded elsewhere."""

import io
import logging
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from shared_engines import FAMILIES, tiny_student
from torch import Tensor

from clkd_core.errors import FrameError
from clkd_core.runtime.backends.cuda_graph import CudaGraphBackend
from clkd_core.runtime.backends.gpu_decode import (
    GpuViews,
    decode_on_gpu,
    decode_with_torchvision,
    decoder_for,
    fit_on_device,
    offers_gpu_decoding,
)
from clkd_core.runtime.backends.on_torch import TorchBackend
from clkd_core.runtime.decode import DecodedViews, decode_frame, decode_image
from clkd_core.runtime.engine import Engine
from clkd_core.types import CAMERAS, CameraImage, SurroundFrame

SIZE_HW = (72, 128)


def smooth(seed: int, height: int = 450, width: int = 800) -> NDArray:
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 16, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(pixels: NDArray, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def frame_of(images: dict[str, CameraImage | bytes]) -> SurroundFrame:
    taken = {
        camera: CameraImage(stamp_ns=1, encoded=image) if isinstance(image, bytes) else image
        for camera, image in images.items()
    }
    return SurroundFrame(stamp_ns=1, images=taken)


def mixed_frame() -> SurroundFrame:
    return frame_of(
        {
            "CAM_BACK": encode(smooth(1)),
            "CAM_FRONT": encode(smooth(2), "PNG"),
            "CAM_FRONT_LEFT": encode(smooth(3))[:4000],
            "CAM_FRONT_RIGHT": CameraImage(stamp_ns=1, pixels=smooth(4)),
            "CAM_BACK_LEFT": encode(smooth(5), mode="L"),
        }
    )


def assert_alike(ours: GpuViews, theirs: DecodedViews, mean_levels: float = 3) -> None:
    # The CPU path decodes at reduced size: as far as this from full decoding and area resize.
    assert ours.views.dtype == torch.uint8 and tuple(ours.views.shape) == theirs.views.shape
    assert ours.present.tolist() == theirs.present.tolist()
    assert ours.failures == theirs.failures
    away = np.abs(ours.views.cpu().numpy().astype(int) - theirs.views).mean((1, 2, 3))
    assert away.max() < mean_levels, away


@pytest.mark.parametrize("pooled", [False, True])
def test_views_masks_and_words_are_those_of_the_cpu_path(pooled: bool) -> None:
    with ThreadPoolExecutor(2) as threads:
        ours = decode_on_gpu(mixed_frame(), SIZE_HW, "cpu", threads if pooled else None)
    assert ours.present.sum() == 4 and "cut off" in ours.failures[0]
    assert_alike(ours, decode_frame(mixed_frame(), SIZE_HW))


def test_all_jpegs_go_in_one_batch_and_nothing_else_does() -> None:
    batches: list[int] = []

    def counted(jpegs: list[Tensor], device: torch.device) -> list[Tensor]:
        batches.append(len(jpegs))
        return decode_with_torchvision(jpegs, device)

    decode_on_gpu(mixed_frame(), SIZE_HW, "cpu", decode_jpegs=counted)
    assert batches == [2]


def test_what_the_decoder_refuses_the_cpu_takes_and_the_others_stay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grey = encode(smooth(5), mode="L")
    taken: list[int] = []

    def picky(jpegs: list[Tensor], device: torch.device) -> list[Tensor]:
        if any(bytes(each.numpy()) == grey for each in jpegs):
            raise RuntimeError("no grey images here")
        taken.append(len(jpegs))
        return decode_with_torchvision(jpegs, device)

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            ours = decode_on_gpu(mixed_frame(), SIZE_HW, "cpu", decode_jpegs=picky)
    assert_alike(ours, decode_frame(mixed_frame(), SIZE_HW))
    assert taken == [1, 1]
    assert caplog.text.count("no grey images here") == 1


def test_absurd_sizes_never_reach_the_decoder() -> None:
    data = bytearray(encode(smooth(1)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = b"\xfd\xe8\xfd\xe8"
    frame = frame_of({"CAM_FRONT": bytes(data), "CAM_BACK": encode(smooth(2))})
    ours = decode_on_gpu(frame, SIZE_HW, "cpu")
    assert_alike(ours, decode_frame(frame, SIZE_HW))
    assert "65000 x 65000 pixels" in ours.failures[0]


def test_a_frame_without_a_usable_view_fails_in_the_cpu_paths_words() -> None:
    for frame in (frame_of({}), frame_of({"CAM_FRONT": b"", "CAM_BACK": b"text"})):
        with pytest.raises(FrameError) as theirs:
            decode_frame(frame, SIZE_HW)
        with pytest.raises(FrameError) as ours:
            decode_on_gpu(frame, SIZE_HW, "cpu")
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_one_three_and_four_channels_become_rgb(mode: str) -> None:
    frame = frame_of({"CAM_FRONT": encode(smooth(7), mode=mode)})
    assert_alike(decode_on_gpu(frame, SIZE_HW, "cpu"), decode_frame(frame, SIZE_HW))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_views_are_those_of_full_decoding_and_area_resize(mode: str) -> None:
    data = encode(smooth(7), mode=mode)
    ours = decode_on_gpu(frame_of({"CAM_FRONT": data}), SIZE_HW, "cpu").views[0]
    full = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    slow = cv2.resize(full, SIZE_HW[::-1], interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
    assert np.abs(ours.numpy().astype(int) - slow).mean() < 1.5


@pytest.mark.parametrize(
    "size", [(900, 1600), (899, 1599), (370, 1226), (960, 720), (72, 128), (40, 60), (50, 1000)]
)
def test_crop_and_resize_are_those_of_the_cpu_path(size: tuple[int, int]) -> None:
    pixels = smooth(8, *size)
    ours = fit_on_device(torch.from_numpy(pixels).permute(2, 0, 1), SIZE_HW)
    theirs = decode_image(CameraImage(stamp_ns=0, pixels=pixels), SIZE_HW).transpose(2, 0, 1)
    assert ours.dtype == torch.uint8 and tuple(ours.shape) == (3, *SIZE_HW)
    assert np.abs(ours.numpy().astype(int) - theirs).mean() < 1.5


def test_resize_rounds_to_the_nearest_level() -> None:
    pixels = torch.full((3, 144, 256), 7, dtype=torch.uint8)
    pixels[:, ::2] = 8
    pixels[:, ::2, ::2] = 9  # the mean of four is 7.75
    assert fit_on_device(pixels, SIZE_HW).unique().tolist() == [8]


def test_the_cpu_is_no_device_to_decode_on_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    offers_gpu_decoding.cache_clear()
    with caplog.at_level(logging.INFO):
        assert not offers_gpu_decoding("cpu") and not offers_gpu_decoding("cpu")
    assert caplog.text.count("decoded on the CPU") == 1


def test_a_backend_that_is_no_cuda_graph_gets_the_cpu_decoder() -> None:
    assert decoder_for(TorchBackend(tiny_student(FAMILIES[0]), "cpu")) is decode_frame


@pytest.mark.gpu
def test_an_engine_on_a_cuda_graph_reads_what_the_device_decoded() -> None:
    if not offers_gpu_decoding("cuda"):
        pytest.skip("torchvision offers no JPEG decoding on this device")
    engine = Engine(CudaGraphBackend(tiny_student(FAMILIES[0]).cuda(), "cuda"))
    views, present, failures = engine._decode(mixed_frame(), blank=False)
    assert views.device.type == "cuda"
    assert_alike(
        GpuViews(views, present, failures), decode_frame(mixed_frame(), engine.image_size)
    )
    assert not engine._decode(mixed_frame(), blank=True)[0].any()
    assert engine.decide(mixed_frame()).degraded[-1] == failures[0]


@pytest.mark.gpu
def test_a_cuda_device_gives_the_views_of_the_cpu_path() -> None:
    if not offers_gpu_decoding("cuda:0"):
        pytest.skip("torchvision offers no JPEG decoding on this device")
    frames = [mixed_frame(), frame_of({c: encode(smooth(i)) for i, c in enumerate(CAMERAS)})]
    frames.append(frame_of({"CAM_FRONT": encode(smooth(7), mode="CMYK")}))
    for frame in frames:
        ours = decode_on_gpu(frame, SIZE_HW, "cuda:0")
        assert ours.views.device.type == "cuda"
        assert_alike(ours, decode_frame(frame, SIZE_HW))
