"""A frame's JPEGs decoded, cropped and resized on the device that then looks at them.

Only compressed bytes travel to the device. Which views are usable, and what is said of the rest,
is what :mod:`clkd_core.runtime.decode` would find: headers are read on the CPU before memory is
taken, and what the device's decoder does not take goes through the CPU's.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clkd_core.errors import FrameError
from clkd_core.runtime.backends.cuda_graph import CudaGraphBackend
from clkd_core.runtime.backends.protocol import Backend
from clkd_core.runtime.decode import (
    DecodedViews,
    check_sides,
    crop_box,
    decode_frame,
    read_image_header,
    try_decode,
)
from clkd_core.types import CAMERAS, CameraImage, SurroundFrame

_log = logging.getLogger(__name__)

DecodeJpegs = Callable[[list[Tensor], torch.device], Sequence[Tensor]]
"""Whole JPEGs, each (bytes,) uint8 on the CPU, to (3, h, w) uint8 RGB on a device each; raises
RuntimeError when it refuses one of them."""


class GpuViews(NamedTuple):
    """As :class:`clkd_core.runtime.decode.DecodedViews`, the pixels on a device."""

    views: Tensor
    """(C, 3, H, W) uint8 RGB in the order of ``CAMERAS``; a missing view is zeros."""
    present: NDArray[np.bool_]
    """(C,) bool on the host, True where the view holds an image."""
    failures: tuple[str, ...]
    """One line per image that came and could not be used; absent cameras are not failures."""


def decode_with_torchvision(jpegs: list[Tensor], device: torch.device) -> list[Tensor]:
    """A batch by torchvision: nvJPEG on a CUDA device, libjpeg on the CPU.

    Raises:
        ImportError: this torchvision has no image operations.
        RuntimeError: one of the JPEGs is refused; there are no partial results.
    """
    from torchvision.io import (  # type: ignore[import-untyped]
        ImageReadMode,
        decode_jpeg,
    )

    return list(decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device))


@functools.cache
def offers_gpu_decoding(device: str) -> bool:
    """Whether torchvision decodes a JPEG on this device; tried once, the answer is logged."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        _log.info("images are decoded on the CPU: %s is no CUDA device to decode on", device)
        return False
    _, data = cv2.imencode(".jpg", np.full((16, 16, 3), 128, np.uint8))
    try:
        (pixels,) = decode_with_torchvision([torch.from_numpy(data)], torch.device(device))
        mean = float(pixels.float().mean())
    except (ImportError, AttributeError, RuntimeError) as err:  # Attribute: not built in
        _log.info("images are decoded on the CPU: torchvision on %s: %s", device, _brief(err))
        return False
    if pixels.shape != (3, 16, 16) or abs(mean - 128) > 2:
        _log.info("images are decoded on the CPU: torchvision on %s misreads a JPEG", device)
        return False
    _log.info("JPEG images are decoded on %s by torchvision, others on the CPU", device)
    return True


def decoder_for(backend: Backend) -> "Callable[..., DecodedViews | GpuViews]":
    """What decodes a frame for a backend: (frame, size_hw, pool=...) to views where it wants them.

    The device's decoder for a CUDA graph where torchvision offers it, else the CPU's.
    """
    if isinstance(backend, CudaGraphBackend) and offers_gpu_decoding(backend.device):
        return functools.partial(decode_on_gpu, device=backend.device)
    return decode_frame


def decode_on_gpu(
    frame: SurroundFrame,
    size_hw: tuple[int, int],
    device: torch.device | str,
    pool: Executor | None = None,
    *,
    decode_jpegs: DecodeJpegs = decode_with_torchvision,
) -> GpuViews:
    """Decode all views of a frame on a device; an unusable view is masked and its reason kept.

    Args:
        frame: up to six views, encoded (JPEG, PNG) or raw.
        size_hw: (H, W) of the result in pixels.
        device: where the views are wanted.
        pool: decodes in parallel what is left to the CPU; None decodes in turn.
        decode_jpegs: decodes a batch of JPEGs on ``device``.

    Raises:
        FrameError: not a single view is usable; the message names each camera and its fault.
    """
    device = torch.device(device)
    cameras = [camera for camera in CAMERAS if camera in frame.images]
    jpegs = {c: frame.images[c].encoded for c in cameras if _is_sound_jpeg(frame.images[c])}
    buffers = {c: torch.frombuffer(bytearray(d), dtype=torch.uint8) for c, d in jpegs.items() if d}
    decoded = _decode_batch(buffers, device, decode_jpegs)
    if not decoded:
        views, present, failures = decode_frame(frame, size_hw, pool=pool)
        return GpuViews(torch.from_numpy(views).to(device), present, failures)
    rest = [camera for camera in cameras if camera not in decoded]
    run = map if pool is None else pool.map
    results = list(run(lambda camera: try_decode(camera, frame, size_hw), rest))
    return _arrange(decoded, dict(zip(rest, results, strict=True)), size_hw, device)


def fit_on_device(pixels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Central 16:9 crop, then the wanted size: by area when shrinking, linear when growing.

    Args:
        pixels: (3, h, w) uint8 on any device, h and w at least 1.
        size_hw: (H, W) of the result in pixels.

    Returns:
        (3, H, W) uint8 on the same device, rounded to the nearest grey level.
    """
    top, left, crop_height, crop_width = crop_box(*pixels.shape[1:])
    crop = pixels[:, top : top + crop_height, left : left + crop_width]
    if crop.shape[1:] == tuple(size_hw):
        return crop
    if crop_height >= size_hw[0] and crop_width >= size_hw[1]:
        resized = functional.interpolate(crop[None].float(), size_hw, mode="area")
    else:
        resized = functional.interpolate(crop[None].float(), size_hw, mode="bilinear")
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def _is_sound_jpeg(image: CameraImage) -> bool:
    """Whether to hand it to the device; the CPU path says what is wrong with the others."""
    if image.encoded is None:
        return False
    try:
        header = read_image_header(image.encoded)
        check_sides(header.height, header.width)
    except FrameError:
        return False
    return header.is_jpeg


def _decode_batch(
    jpegs: dict[str, Tensor], device: torch.device, decode_jpegs: DecodeJpegs
) -> dict[str, Tensor]:
    """What the decoder takes, by camera: together, or one by one if it refuses the batch."""
    if not jpegs:
        return {}
    try:
        return dict(zip(jpegs, decode_jpegs(list(jpegs.values()), device), strict=True))
    except RuntimeError as err:
        if len(jpegs) == 1:
            _tell_refusal(str(device), _brief(err))
            return {}
    alone = [_decode_batch({c: data}, device, decode_jpegs) for c, data in jpegs.items()]
    return {camera: pixels for one in alone for camera, pixels in one.items()}


def _arrange(
    decoded: dict[str, Tensor],
    others: dict[str, NDArray[np.uint8] | FrameError],
    size_hw: tuple[int, int],
    device: torch.device,
) -> GpuViews:
    views = torch.zeros((len(CAMERAS), 3, *size_hw), dtype=torch.uint8, device=device)
    present = np.zeros(len(CAMERAS), np.bool_)
    failures: list[str] = []
    for position, camera in enumerate(CAMERAS):
        result = others.get(camera)
        if isinstance(result, FrameError):
            failures.append(str(result))
        elif result is not None:
            views[position] = torch.from_numpy(result).permute(2, 0, 1)
        elif camera in decoded:
            views[position] = fit_on_device(decoded[camera], size_hw)
        present[position] = camera in decoded or isinstance(result, np.ndarray)
    return GpuViews(views, present, tuple(failures))


@functools.lru_cache(maxsize=64)
def _tell_refusal(device: str, reason: str) -> None:
    """Once per reason: a camera whose JPEGs are refused sends ten of them each second."""
    _log.warning("the JPEG decoder of %s refuses an image, the CPU takes it: %s", device, reason)


def _brief(err: Exception) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0][:120]
