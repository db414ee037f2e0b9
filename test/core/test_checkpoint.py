import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vlm import tiny_model, tiny_t5_language, tiny_t5_model, tiny_views

from clkd_core.data.prompts import plan_question
from clkd_core.errors import CheckpointError
from clkd_core.models.base import VlmBase
from clkd_core.models.checkpoint import load_vlm, save_checkpoint
from clkd_core.models.checkpoint_files import CONFIG, MANIFEST, TOKENIZER, WEIGHTS, write_manifest
from clkd_core.models.halving import halve
from clkd_core.models.llama_vlm import LlamaVlm
from clkd_core.models.moe import MoeConfig
from clkd_core.models.t5_vlm import T5Vlm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    student = halve(tiny_model(), moe=MoeConfig(lora_rank=1, adapter_experts=2))
    save_checkpoint(tmp_path / "student", student)
    return tmp_path / "student"


@pytest.mark.parametrize("build", [tiny_model, tiny_t5_model])
@torch.no_grad()
def test_loaded_student_scores_exactly_as_the_saved_one(
    tmp_path: Path, build: Callable[[], VlmBase]
) -> None:
    saved = halve(build(), moe=MoeConfig(lora_rank=1, adapter_experts=2)).eval()
    save_checkpoint(tmp_path / "student", saved)
    loaded = load_vlm(tmp_path / "student")
    views, present = tiny_views(2)
    scores = [
        m.answer_log_probs(
            m.scene_tokens(m.encode_views(views, present), present),
            [plan_question(None, None)] * 2,
        )
        for m in (saved, loaded)
    ]
    assert torch.equal(scores[0], scores[1])
    assert loaded.image_size == saved.image_size


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_that_encoder_decoder_and_output_share_is_saved_once(
    tmp_path: Path, tied: bool
) -> None:
    saved = tiny_t5_model(
        fusion="gated", language=tiny_t5_language(gated_ffn=True, tie_embeddings=tied)
    )
    saved.save_pretrained(tmp_path / "t5")
    vocabulary = (saved.tokenizer.vocab_size, 16)
    state = load_file(tmp_path / "t5" / WEIGHTS)
    tables = {key for key, value in state.items() if value.shape == vocabulary}
    assert tables - {"language.lm_head.weight"} == {"language.shared.weight"}
    assert ("language.lm_head.weight" in tables) == (not tied)
    loaded = load_vlm(tmp_path / "t5")
    assert loaded.config == saved.config
    assert loaded.language.encoder.embed_tokens.weight is loaded.language.shared.weight
    assert (loaded.language.lm_head.weight is loaded.language.shared.weight) == tied
    for key, value in saved.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key


def test_checkpoint_holds_the_four_files_and_no_pickle(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, CONFIG, TOKENIZER, MANIFEST}


def test_saving_again_replaces_the_whole_folder(folder: Path) -> None:
    (folder / "left over").write_text("x")
    save_checkpoint(folder, tiny_model(), extra_files={"note.txt": "hello"})
    assert not (folder / "left over").exists()
    assert (folder / "note.txt").read_text() == "hello"
    assert load_vlm(folder).config.moe is None


def test_extra_files_are_hashed_with_the_model(folder: Path) -> None:
    save_checkpoint(folder, tiny_model(), extra_files={"note.txt": "hello"})
    (folder / "note.txt").write_text("other")
    with pytest.raises(CheckpointError, match=r"note\.txt is damaged"):
        load_vlm(folder)


def truncate_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10])


def change_config(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**config, **values}))
        write_manifest(folder)

    return change


def change_weights(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state["scene_norm.bias"] = torch.zeros(3)
    state["of.another.model"] = torch.zeros(1)
    del state["missing_view"]
    save_file(state, folder / WEIGHTS)
    write_manifest(folder)


def write_over(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)
        if name != MANIFEST:
            write_manifest(folder)

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate_weights, r"model\.safetensors is damaged: its sha256 is .*, expected"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / MANIFEST).unlink(), r"manifest\.json cannot be read"),
        (write_over(MANIFEST, "[]"), r"manifest\.json holds a list"),
        (write_over(MANIFEST, "{}"), r"manifest\.json lists no model\.safetensors"),
        (write_over(CONFIG, "{"), r"config\.json is not JSON"),
        (write_over(TOKENIZER, "{}"), r"tokenizer\.json is no tokenizer"),
        (write_over(WEIGHTS, "no tensors"), "is no safetensors file"),
        (
            change_config(architecture={"family": "t6"}),
            "'family' is 't6', expected one of 'llama'",
        ),
        (change_config(format_version=9), "format_version is 9, expected 1"),
        (change_config(architecture={"tokens": 4}), "unknown key 'tokens'"),
        (change_weights, r"missing_view is missing; of\.another\.model is unknown; scene_norm"),
    ],
)
def test_damage_is_one_line_that_names_it(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_vlm(folder)
    assert str(folder) in str(caught.value)


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing is no folder, expected a checkpoint"):
        load_vlm(tmp_path / "nothing")


def test_failed_save_leaves_the_old_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / WEIGHTS).read_bytes()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clkd_core.models.checkpoint.write_manifest", fail)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(folder, tiny_model())
    assert (folder / WEIGHTS).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_save_pretrained_and_from_pretrained_give_back_the_model(tmp_path: Path) -> None:
    for model in (tiny_model(), tiny_t5_model()):
        model.save_pretrained(tmp_path / "model")
        again = type(model).from_pretrained(str(tmp_path / "model"))
        state = again.state_dict()
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match="holds a T5Vlm, expected a LlamaVlm"):
        LlamaVlm.from_pretrained(tmp_path / "model")
    assert isinstance(VlmBase.from_pretrained(tmp_path / "model"), T5Vlm)


def test_name_that_is_no_folder_is_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def copy(name: str, **_: object) -> str:
        asked.append(name)
        tiny_model().save_pretrained(tmp_path / "snapshot")
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", copy)
    assert isinstance(VlmBase.from_pretrained("somebody/nano"), LlamaVlm)
    assert asked == ["somebody/nano"]

    def fail(name: str, **_: object) -> str:
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match=r"somebody/nano is no file .*offline"):
        VlmBase.from_pretrained("somebody/nano")
