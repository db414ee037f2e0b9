"""clkd_core.runtime.bench.contenders: each is what its line says, and counts what it does."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_vlm import tiny_model, tiny_t5_model
from torch import nn

from clkd_core.data.prompts import plan_question
from clkd_core.distill.feed.samples import tokenizer_texts
from clkd_core.errors import ConfigError
from clkd_core.files import shared_folder, shipped_student
from clkd_core.models.base import VlmBase
from clkd_core.models.families import build_from_config
from clkd_core.models.halving import halve
from clkd_core.models.moe import MoeConfig
from clkd_core.models.tokenizer import train_tokenizer
from clkd_core.models.vlm import count_parameters
from clkd_core.runtime.bench.contenders import rivals, room, students
from clkd_core.runtime.bench.contenders.control import ControlLoop
from clkd_core.runtime.bench.contenders.line_up import PRESETS, choose, line_up
from clkd_core.runtime.bench.contenders.one_pass import (
    OnePass,
    arithmetic_of,
    build_trained,
)
from clkd_core.runtime.bench.contenders.plain import PlainVlm, decode_plainly
from clkd_core.runtime.bench.contenders.room import check_room, free_bytes
from clkd_core.runtime.bench.contenders.spec import NoRoomError, Setting
from clkd_core.runtime.bench.contenders.students import build_random
from clkd_core.runtime.bench.contenders.work import count_work
from clkd_core.runtime.bench.frames import describe_frames, make_frames
from clkd_core.runtime.decode import decode_views, read_image_header
from clkd_core.runtime.engine import Engine
from clkd_core.types import SurroundFrame

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def frames() -> list[SurroundFrame]:
    return make_frames(2)


def test_made_up_frames_are_six_real_size_jpegs_of_real_weight(
    frames: list[SurroundFrame],
) -> None:
    assert len(frames[0].images) == 6
    for image in frames[0].images.values():
        assert image.encoded is not None
        assert read_image_header(image.encoded)[:2] == (900, 1600)
        assert 100_000 < len(image.encoded) < 300_000
    views, present = decode_views(frames[0], (72, 128))
    assert present.all() and views.std() > 10
    assert describe_frames(frames).startswith("six 1600 x 900 JPEGs of ")


def test_line_up_goes_to_other_processes_and_names_everybody_once() -> None:
    everybody = line_up(slow_every=7, on_gpu=False)
    names = [each.name for each in pickle.loads(pickle.dumps(everybody))]
    assert names[0] == "nano" and names[-1] == "control" and len(set(names)) == len(names)
    assert set(PRESETS) < set(names)
    for preset in PRESETS:
        assert (shared_folder("config") / "train" / f"{preset}.yaml").is_file()


def test_slow_ones_take_few_turns_and_on_a_gpu_our_engine_takes_all() -> None:
    on_cpu = {each.name: each.every for each in line_up(slow_every=7, on_gpu=False)}
    on_gpu = {each.name: each.every for each in line_up(slow_every=7, on_gpu=True)}
    assert (on_cpu["nano"], on_cpu["control"], on_cpu["t5-small"]) == (1, 1, 7)
    assert (on_gpu["t5-small"], on_gpu["senna-3.5b"], on_gpu["senna-7b"]) == (1, 1, 7)


def test_words_choose_by_name_or_unique_beginning_in_the_tables_order() -> None:
    everybody = line_up(slow_every=1, on_gpu=False)
    chosen = [each.name for each in choose(everybody, ["em-vlm4ad-b", "sw", "nano"])]
    assert chosen == ["nano", "em-vlm4ad-best", "swin-t5"]
    assert choose(everybody, []) == everybody
    with pytest.raises(ConfigError, match="'em', which may be em-vlm4ad-text, em-vlm4ad-action"):
        choose(everybody, ["em"])
    with pytest.raises(ConfigError, match="'gpt', expected nano, nano-t5"):
        choose(everybody, ["gpt"])


@pytest.mark.parametrize("preset", ["nano-t5", "t5-small", "senna-smollm2", "senna-3.5b"])
def test_student_of_a_preset_is_the_one_that_training_would_cut(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = students.read_preset(f"train/{preset}")
    tokenizer = train_tokenizer(tokenizer_texts([]), vocab_size=config.vocab_size)
    asked: list[nn.Module] = []

    def stop(skeleton: nn.Module, device: torch.device, *, bytes_each: int) -> None:
        asked.append(skeleton)
        assert bytes_each == (2 if preset == "senna-3.5b" else 16)
        raise NoRoomError("enough is known")

    monkeypatch.setattr(students, "check_room", stop)
    with pytest.raises(NoRoomError):
        students.build_student(preset, Setting(device="cpu"))
    with torch.device("meta"):
        teacher = build_from_config(config.model, tokenizer)
        rule, least = config.student.keep, config.student.min_blocks
        expected = halve(teacher, rule, config.student.moe, least=least)
    shapes = {name: value.shape for name, value in expected.state_dict().items()}
    assert {name: value.shape for name, value in asked[0].state_dict().items()} == shapes
    assert count_parameters(asked[0]) == count_parameters(expected)


@pytest.mark.parametrize("build", [tiny_model, tiny_t5_model])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_way_generates_exactly_so_many_tokens(
    build: type[VlmBase], dtype: torch.dtype, frames: list[SurroundFrame]
) -> None:
    model = build().to(dtype)
    seen: list[int] = []
    decode = model.tokenizer.decode
    model.tokenizer.decode = lambda ids: seen.extend(ids) or decode(ids)  # type: ignore[method-assign]
    ends = torch.zeros(model.language.config.vocab_size, dtype=dtype)
    ends[model.tokenizer.end_id] = 1e4  # it wants to end at once
    model.language.lm_head.register_forward_hook(lambda *call: call[2] + ends)
    plain = PlainVlm(model, tokens=9)
    assert isinstance(plain.answer(frames[0]), str)
    assert len(seen) == 9 and model.tokenizer.end_id not in seen
    assert plain.backend == f"transformers generate, {str(dtype).replace('.', ' ')}"
    assert plain.parameters == count_parameters(model)


@pytest.mark.parametrize("build", [tiny_model, tiny_t5_model])
def test_plain_way_says_what_our_own_generation_says(
    build: type[VlmBase], frames: list[SurroundFrame]
) -> None:
    model = build()
    model.tokenizer.end_id, end_id = -1, model.tokenizer.end_id
    views = torch.from_numpy(decode_plainly(frames[0], model.image_size))[None]
    present = torch.ones(1, 6, dtype=torch.bool)
    question = plan_question(frames[0].ego, frames[0].command)
    with torch.inference_mode():
        scene = model.scene_tokens(model.encode_views(views, present), present)
        ours = model.generate(scene, [question], 12)[0]
    model.tokenizer.end_id = end_id
    assert PlainVlm(model, tokens=12).answer(frames[0]).strip() == ours  # no end among them


def test_plain_decoding_is_at_full_size_and_close_to_the_reduced_one(
    frames: list[SurroundFrame],
) -> None:
    plain, reduced = decode_plainly(frames[0], (90, 160)), decode_views(frames[0], (90, 160))[0]
    assert plain.shape == reduced.shape and plain.dtype == np.uint8
    assert np.abs(plain.astype(float) - reduced).mean() < 12


class Twice(nn.Module):
    """One linear layer used two times, one not at all, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear, self.idle = (
            nn.Embedding(50, 8),
            nn.Linear(8, 8, bias=False),
            nn.Linear(8, 8),
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = self.linear(self.linear(self.table(ids)))[:, None]  # (B, 1, L, 8)
        attended: torch.Tensor = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return attended


def test_work_counts_weights_per_call_rows_of_tables_and_products_of_all_kinds() -> None:
    model, calls = Twice(), []
    ids = torch.zeros(1, 5, dtype=torch.int64)
    work = count_work(model, lambda: calls.append(model(ids)), dtype="float32")
    assert len(calls) == 2  # one to fill what is kept, one that counts
    assert work.weight_bytes == 5 * 8 * 4 + 2 * 8 * 8 * 4
    narrow = count_work(model, lambda: model(ids), dtype="bfloat16")
    assert narrow.weight_bytes == work.weight_bytes / 2 and narrow.flops == work.flops
    assert work.flops == 2 * (2 * 5 * 8 * 8) + 2 * (2 * 5 * 5 * 8)


def test_generation_reads_the_decoder_once_per_token(frames: list[SurroundFrame]) -> None:
    model = tiny_t5_model()
    short, long = (PlainVlm(model, tokens=tokens).count_work(frames[0]) for tokens in (2, 7))
    decoder = model.language.decoder
    every = sum(p.numel() for p in decoder.parameters()) + model.language.lm_head.weight.numel()
    every -= model.language.shared.weight.numel()  # of it one row is looked up
    every += model.language.shared.embedding_dim
    for block in decoder.block:  # the scene's keys and values are kept from the first token on
        kept = block.layer[1].EncDecAttention
        every -= kept.k.weight.numel() + kept.v.weight.numel()
    each_token = (long.weight_bytes - short.weight_bytes) / 5
    assert each_token == pytest.approx(4 * every, rel=0.02)  # rows of the position bias vary
    assert long.flops > short.flops


@pytest.mark.parametrize(("bf16", "bytes_each"), [(False, 4), (True, 2)])
def test_one_pass_counts_its_answer_in_the_arithmetic_of_its_engine(
    bf16: bool, bytes_each: int, frames: list[SurroundFrame]
) -> None:
    model = tiny_model(moe=MoeConfig(lora_rank=2))
    one = OnePass(Engine.on_torch(model, threads=1, bf16=bf16), lambda: model, checkpoint=None)
    decision = one.answer(frames[0])
    assert decision.probabilities.sum() == pytest.approx(1.0)
    work = one.count_work(frames[0])
    assert work.dtype == one.backend.split()[-1] and work.flops > 0
    weights = sum(p.numel() for p in model.parameters()) * bytes_each
    assert 0.3 * weights < work.weight_bytes < 1.5 * weights
    assert one.decode(frames[0]).shape == (6, 3, *model.image_size) and one.threads == 1
    assert one.parameters == count_parameters(model) and one.parameters[1] < one.parameters[0]


def test_number_format_is_read_from_a_backends_name() -> None:
    named = {"OpenVINO bfloat16": "bfloat16", "CUDA graph bfloat16 compiled": "bfloat16"}
    named["transformers generate, torch bfloat16"] = "bfloat16"
    for name, found in {
        **named,
        "torch float32": "float32",
        "ONNX Runtime CPU": "float32",
    }.items():
        assert arithmetic_of(name) == found


def test_shipped_student_stands_for_nano(frames: list[SurroundFrame]) -> None:
    one = build_trained(Setting(device="cpu", threads=1))
    assert one.checkpoint == shipped_student().resolve()
    assert one.answer(frames[0]).inference_ms > 0


def test_random_model_keeps_the_number_format_and_leaves_torchs_own() -> None:
    architecture = tiny_t5_model().config
    model = build_random(architecture, Setting(device="cpu"), vocab_size=512, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32 and not model.training


def test_swin_t5_is_all_of_swin_and_half_of_t5_small(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[nn.Module] = []

    def stop(skeleton: nn.Module, device: torch.device, *, bytes_each: int) -> None:
        asked.append(skeleton)
        raise NoRoomError("enough is known")

    monkeypatch.setattr(students, "check_room", stop)
    with pytest.raises(NoRoomError):
        rivals.build_swin_t5(6, Setting(device="cpu"))
    config = asked[0].config
    assert (config.language.layers, config.language.decoder_layers) == (3, 3)
    assert config.vision.blocks == (2, 2, 6, 2) and config.moe is None


def test_model_that_does_not_fit_says_how_much_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        layer = nn.Linear(50_000, 20_000, bias=False)  # 1 G
    monkeypatch.setattr(room, "free_bytes", lambda device: 3_000_000_000)
    with pytest.raises(NoRoomError, match=r"needs 3\.4 GB of memory, 3\.0 GB are free"):
        check_room(layer, CPU, bytes_each=2)
    check_room(nn.Linear(10, 10), CPU, bytes_each=4)


def test_container_allows_what_its_limit_leaves_files_not_counted(tmp_path: Path) -> None:
    assert room._container_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 300\n")
    assert room._container_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert room._container_bytes(tmp_path) == 600
    assert 0 < free_bytes(CPU) < 2**50


def test_control_loop_is_made_as_long_as_asked(frames: list[SurroundFrame]) -> None:
    loop = ControlLoop(2)
    short, long = loop.calibrate(2.0), loop.calibrate(20.0)
    assert 4 < long / short < 25 and loop.repeats == long
    assert np.isfinite(loop.answer(frames[0])) and loop.count_work(frames[0]) is None


def test_control_loop_gets_over_a_storm_while_it_is_calibrated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, measured = ControlLoop(2, repeats=20), []

    def time_ms() -> float:
        measured.append(loop.repeats)
        storm = 30.0 if len(measured) <= 9 or len(measured) % 3 == 0 else 1.0
        return 0.1 * loop.repeats * storm

    monkeypatch.setattr(loop, "_time_ms", time_ms)
    assert loop.calibrate(12.0) == pytest.approx(120, rel=0.04)
