import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file
from tiny_releases import State, build_llama, save_safetensors, save_torch, unique_state
from torch import Tensor, nn

from clkd_core.errors import CheckpointError
from clkd_core.models.pretrained.tensors.weights import open_weights, read_model_config

STATE: State = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b.weight": torch.arange(4.0).to(torch.bfloat16),
    "c.count": torch.tensor(7),
}


def assert_holds(source: str | Path, state: State) -> None:
    weights = open_weights(source)
    assert set(weights) == set(state) and len(weights) == len(state)
    for key, value in state.items():
        assert torch.equal(weights[key], value) and weights[key].dtype == value.dtype
        assert weights.info(key).shape == tuple(value.shape)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("save", [save_safetensors, save_torch])
def test_folder_gives_what_was_saved(
    tmp_path: Path, save: Callable[..., Path], shards: int
) -> None:
    assert_holds(save(tmp_path, STATE, shards=shards), STATE)


def test_lone_file_gives_what_was_saved(tmp_path: Path) -> None:
    save_torch(tmp_path, STATE)
    assert_holds(tmp_path / "pytorch_model.bin", STATE)
    os.rename(tmp_path / "pytorch_model.bin", tmp_path / "mm_projector.pth")
    assert_holds(tmp_path / "mm_projector.pth", STATE)


def test_file_of_before_torch_1_6_gives_what_was_saved(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_holds(tmp_path, STATE)


def test_index_can_be_named_itself(tmp_path: Path) -> None:
    save_safetensors(tmp_path, STATE, shards=2)
    assert_holds(tmp_path / "model.safetensors.index.json", STATE)


def test_save_pretrained_in_shards_is_read_as_transformers_wrote_it(tmp_path: Path) -> None:
    model = build_llama()
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_holds(tmp_path, unique_state(model))


def test_safetensors_are_preferred_to_pickles(tmp_path: Path) -> None:
    save_torch(tmp_path, {"old": torch.zeros(1)})
    save_safetensors(tmp_path, STATE)
    assert_holds(tmp_path, STATE)


def test_dtype_of_a_float_is_torchs_and_of_anything_else_the_files(tmp_path: Path) -> None:
    found = [
        {key: weights.info(key).dtype for key in STATE}
        for weights in (
            open_weights(save_safetensors(tmp_path / "s", STATE)),
            open_weights(save_torch(tmp_path / "t", STATE)),
        )
    ]
    floats = {"a.weight": "float32", "b.weight": "bfloat16"}
    assert found == [{**floats, "c.count": "I64"}, {**floats, "c.count": "int64"}]


def test_tensors_are_gone_through_file_by_file(tmp_path: Path) -> None:
    folder = save_safetensors(tmp_path, {f"{n}": torch.zeros(1) for n in range(9)}, shards=3)
    assert list(open_weights(folder)) == ["0", "3", "6", "1", "4", "7", "2", "5", "8"]


def resident_anonymous_kb() -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0])


@pytest.mark.parametrize("save", [save_safetensors, save_torch])
def test_asking_for_names_and_shapes_reads_no_tensor(
    tmp_path: Path, save: Callable[..., Path]
) -> None:
    save(tmp_path, {f"{n}": torch.ones(2_000_000) for n in range(8)}, shards=2)  # 64 MB
    before = resident_anonymous_kb()
    weights = open_weights(tmp_path)
    assert "7" in weights and "8" not in weights
    assert all(weights.info(key).shape == (2_000_000,) for key in weights)
    assert resident_anonymous_kb() - before < 8_000


def test_tensor_that_a_shard_has_and_the_index_forgot_is_found(tmp_path: Path) -> None:
    save_safetensors(tmp_path, STATE, shards=2)
    change_index(tmp_path, lambda weight_map: weight_map.pop("c.count"))
    assert_holds(tmp_path, STATE)


def test_index_decides_between_two_shards_that_have_the_same_tensor(tmp_path: Path) -> None:
    save_safetensors(tmp_path, STATE, shards=2)
    name = "model-00002-of-00002.safetensors"
    save_file({"b.weight": STATE["b.weight"], "a.weight": torch.zeros(2, 3)}, tmp_path / name)
    assert_holds(tmp_path, STATE)
    change_index(tmp_path, lambda weight_map: weight_map.pop("a.weight"))
    with pytest.raises(CheckpointError, match=r"does not say whether a\.weight is in model-00001"):
        open_weights(tmp_path)


def change_index(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    (path,) = folder.glob("*.index.json")
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def set_shard(name: object) -> Callable[[Path], None]:
    return lambda folder: change_index(folder, lambda found: found.update({"a.weight": name}))


def truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-9]) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_shard("../outside.safetensors"), r"index\.json names the shard '\.\./outside"),
        (set_shard("/etc/passwd"), r"names the shard '/etc/passwd', expected a file beside it"),
        (set_shard(".."), r"names the shard '\.\.'"),
        (set_shard(3), "names the shard 3"),
        (set_shard("other.safetensors"), r"names other\.safetensors, which is not there"),
        (set_shard("config.json"), r"config\.json is no \.safetensors, \.bin"),
        (set_shard(SHARD), rf"index\.json lists what its shards lack: a\.weight \({SHARD}\)"),
        (remove(SHARD), rf"names {SHARD}, which is not there"),
        (truncate(SHARD), rf"{SHARD} is no safetensors file: "),
        (write(SHARD, "no tensors"), rf"{SHARD} is no safetensors file: "),
        (write(INDEX, "[]"), r"index\.json holds a list, expected an object"),
        (write(INDEX, "{"), r"index\.json is no readable JSON"),
        (write(INDEX, "{}"), r"index\.json has no weight_map"),
        (remove(INDEX), r"holds no weights, expected one of model\.safetensors, "),
    ],
)
def test_damage_to_shards_is_one_line_that_names_it(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    save_safetensors(tmp_path / "outside", STATE)
    folder = save_safetensors(tmp_path / "model", STATE, shards=2)
    (folder / "config.json").write_text("{}")
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_weights(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_all_shards_that_are_not_there_are_named(tmp_path: Path) -> None:
    folder = save_torch(tmp_path, STATE, shards=3)
    for number in (1, 3):
        (folder / f"pytorch_model-0000{number}-of-00003.bin").unlink()
    with pytest.raises(CheckpointError, match=r"00001-of-00003\.bin, pytorch_model-00003-of"):
        open_weights(folder)


class SideEffect:
    """Pickled, it asks whoever loads it to create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_runs_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    effect, path = tmp_path / "it ran", tmp_path / "pytorch_model.bin"
    state = {"a.weight": torch.zeros(2), "b": SideEffect(effect)}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"\.bin is no PyTorch file of tensors alone: it wan"
    ):
        open_weights(tmp_path)
    assert not effect.exists()
    torch.load(path, weights_only=False)  # what the guard is there for
    assert effect.exists()


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(2), "holds a Tensor, expected a dict of tensors by name"),
        ({"state_dict": dict(STATE)}, "holds a dict under 'state_dict', expected tensors"),
        ({"a.weight": torch.zeros(2), "step": 3}, "holds a int under 'step'"),
        ({3: torch.zeros(2)}, "holds a Tensor under 3"),
        ({"a": torch.zeros(2, device="meta")}, "'a' is no plain tensor with values of its own"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is no plain tensor"),
        (nn.Linear(2, 2), r"it wants to import torch\.nn\.modules\.linear\.Linear"),
    ],
)
def test_torch_file_with_anything_but_tensors_is_refused(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message) as caught:
        open_weights(tmp_path)
    assert str(tmp_path / "pytorch_model.bin") in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_file_cut_anywhere_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="is no PyTorch file of tensors alone: "):
            open_weights(path)


def test_path_that_is_not_there_is_no_model_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # whatever lies beside the checkout is not asked for
    for source in (tmp_path / "nothing", "./nothing", "a/b/c", "/nothing", "../x"):
        with pytest.raises(CheckpointError, match=r"is no file and no folder$"):
            open_weights(source)


def test_names_that_would_break_a_line_are_refused(tmp_path: Path) -> None:
    for shards in (1, 2):
        save_safetensors(tmp_path, {"a\nb": torch.zeros(1), "c": torch.zeros(1)}, shards=shards)
        with pytest.raises(CheckpointError, match=r"names a tensor 'a\\nb', expected printable"):
            open_weights(tmp_path)
        (tmp_path / "model.safetensors").unlink(missing_ok=True)


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_text("x")
    with pytest.raises(CheckpointError, match=r"model\.h5 is no \.safetensors, \.bin"):
        open_weights(tmp_path / "model.h5")


def test_config_is_read_from_the_folder_and_from_beside_a_file(tmp_path: Path) -> None:
    save_safetensors(tmp_path, STATE)
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        read_model_config(tmp_path)
    (tmp_path / "config.json").write_text('{"hidden_size": 16}')
    assert read_model_config(tmp_path) == {"hidden_size": 16}
    assert read_model_config(tmp_path / "model.safetensors") == {"hidden_size": 16}
    (tmp_path / "config.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"config\.json is no readable JSON"):
        read_model_config(tmp_path)


class Hub(ThreadingHTTPServer):
    """What huggingface_hub asks of the hub, answered from folders named like the models."""

    sha = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _HubRequest)
        self.root, self.downloads = root, list[str]()


class _HubRequest(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        model = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        files = sorted(file for file in (self.server.root / model).glob("*") if file.is_file())
        if path.startswith("/api/models/") and not files:
            self._reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name}
                for f in files
            ]
            self._reply(200, json.dumps(tree).encode(), {})
        elif path.startswith("/api/models/"):
            self._reply(200, json.dumps({"id": model, "sha": self.server.sha}).encode(), {})
        else:
            self._send_file(path)

    do_HEAD = do_GET  # noqa: N815

    def _send_file(self, path: str) -> None:
        model, name = path.split("/resolve/")[0].strip("/"), path.rsplit("/", 1)[1]
        content = (self.server.root / model / name).read_bytes()
        if self.command == "GET":
            self.server.downloads.append(name)
        self._reply(200, content, {"X-Repo-Commit": self.server.sha, "ETag": f'"{name}"'})

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


def point_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """What the variable HF_ENDPOINT does to a fresh process."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(tmp_path / "hub")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    point_at(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def publish(hub: Hub, model: str, save: Callable[..., Path], shards: int = 1) -> Path:
    folder = save(hub.root / model, STATE, shards=shards)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def test_hub_id_reads_the_shards_it_names(hub: Hub) -> None:
    publish(hub, "lmsys/vicuna", save_torch, shards=2)
    assert_holds("lmsys/vicuna", STATE)
    assert read_model_config("lmsys/vicuna") == {"model_type": "llama"}


def test_hub_is_not_asked_for_pickles_where_it_has_safetensors(hub: Hub) -> None:
    publish(hub, "org/both", save_torch)
    publish(hub, "org/both", save_safetensors)
    assert_holds("org/both", STATE)
    assert sorted(hub.downloads) == ["config.json", "model.safetensors"]


def test_hub_is_not_asked_for_what_exists_here(hub: Hub, tmp_path: Path) -> None:
    publish(hub, "org/model", save_safetensors)
    here: dict[str, Tensor] = {"mine": torch.ones(1)}
    save_safetensors(tmp_path / "org/model", here)
    assert_holds("org/model", here)
    assert hub.downloads == []


def test_model_the_hub_does_not_have_is_named(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match=r"^org/none is no file and no folder here, and the"):
        open_weights("org/none")


def test_hub_out_of_reach_is_one_line_and_a_cached_model_still_opens(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub, "org/cached", save_safetensors)
    open_weights("org/cached")
    point_at(monkeypatch, "http://127.0.0.1:9")
    assert_holds("org/cached", STATE)
    with pytest.raises(
        CheckpointError, match=r"the Hugging Face hub does not give it: "
    ) as caught:
        open_weights("org/other")
    assert "\n" not in str(caught.value)
