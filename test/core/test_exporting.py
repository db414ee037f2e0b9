"""clkd_core.runtime.exporting: made once, checked against the model, run without it."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import jpeg_bytes
from shared_engines import a_frame, tiny_student

from clkd_core.cli import main
from clkd_core.errors import CheckpointError, ConfigError, DataError
from clkd_core.files import replace_folder, shipped_student
from clkd_core.models.checkpoint import save_checkpoint
from clkd_core.runtime.backends.artefact import load_artefact
from clkd_core.runtime.backends.on_openvino import OpenVinoBackend
from clkd_core.runtime.engine import Engine
from clkd_core.runtime.exporting import cache, command
from clkd_core.runtime.exporting.cache import cache_folder, cached_artefact
from clkd_core.types import CAMERAS, META_ACTIONS


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exporting") / "student"
    save_checkpoint(folder, tiny_student("llama"))
    return folder


@pytest.fixture(scope="module")
def artefact(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "artefact"
    assert main(["export", str(folder), "--checkpoint", str(student)]) == 0
    return folder


def test_export_says_how_near_each_backend_comes_to_the_model(
    student: Path, artefact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(artefact), "--checkpoint", str(student)]) == 0  # once more
    said = capsys.readouterr().out.splitlines()
    for name in ("OpenVINO float32", "ONNX Runtime cpu"):
        line = next(line for line in said if line.startswith(name))
        assert float(line.split("within ")[1].split(" ")[0]) < 1e-4
        assert line.endswith("8 of 8 decisions the same")
    chosen = OpenVinoBackend(load_artefact(artefact)).name
    assert any(line.startswith(chosen) for line in said)  # what nodes run, exact or not


def test_export_that_computes_something_else_is_refused_and_leaves_what_was_there(
    student: Path, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, kept = tmp_path / "other", tmp_path / "kept"
    model = tiny_student("llama")
    with torch.no_grad():
        model.language.lm_head.weight.mul_(1.5)
    save_checkpoint(other, model)
    shutil.copytree(artefact, kept)
    before = (kept / "artefact.json").read_bytes()
    gaps = command.compare_scores(other, artefact)
    exact = [gap for gap in gaps if gap.exact]
    assert len(exact) == 2 and min(gap.log_prob for gap in exact) > command.TOLERANCE
    monkeypatch.setattr(command, "compare_scores", lambda *_: gaps)
    assert main(["export", str(kept), "--checkpoint", str(student)]) == 2
    assert main(["export", str(tmp_path / "new"), "--checkpoint", str(student)]) == 2
    assert (kept / "artefact.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "other"]


@pytest.mark.parametrize(
    ("exact", "log_prob", "good"),
    [(True, 0.0099, True), (True, 0.011, False), (True, np.nan, False), (False, 0.2, True)],
)
def test_only_what_is_exact_is_held_to_the_tolerance_and_nan_is_never_near(
    exact: bool, log_prob: float, good: bool
) -> None:
    gap = command.Gap(backend="b", exact=exact, log_prob=log_prob, same=1, frames=1)
    with nullcontext() if good else pytest.raises(command.ExportError, match=r"b is .* off"):
        command.check_gaps([gap])


def test_noise_leaves_out_every_camera_once() -> None:
    frames = command.make_noise_frames(8)
    missing = {tuple(set(CAMERAS) - set(frame.images)) for frame in frames}
    assert missing == {(), *((camera,) for camera in CAMERAS)}


def test_exported_decision_runs_by_itself(
    artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [tmp_path / f"{number}.jpg" for number in range(6)]
    for image in images:
        image.write_bytes(jpeg_bytes())
    words = [*map(str, images), "--speed", "5", "--repeat", "3", "--provider", "cpu"]
    assert main(["export", "run", str(artefact), *words]) == 0
    said = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert said["decision"].split("(")[0].strip() in {action.text for action in META_ACTIONS}
    assert "no route command" in said["degraded"] and "no odometry" not in said["degraded"]
    assert "ONNX Runtime cpu" in said["latency"] and "of 3" in said["latency"]


def test_the_runner_needs_neither_torch_nor_most_of_the_rest(
    artefact: Path, tmp_path: Path
) -> None:
    (tmp_path / "front.jpg").write_bytes(jpeg_bytes())
    missing = ["torch", "torchvision", "transformers", "timm", "openvino", "yaml", "tqdm", "onnx"]
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({missing}))\n"
        f"sys.argv = ['run', {str(artefact)!r}, {str(tmp_path / 'front.jpg')!r}]\n"
        "runpy.run_module('clkd_core.runtime.exporting.run', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "decision: " in done.stdout and "no image from CAM_FRONT_LEFT" in done.stdout


def test_nodes_and_commands_take_an_artefact_for_a_checkpoint(
    student: Path, artefact: Path
) -> None:
    exported = Engine.from_checkpoint(artefact, device="cpu", threads=1)
    whole = Engine.from_checkpoint(student, device="cpu", threads=1)
    for stamp_ns in (1, 2, 3):
        one, other = exported.decide(a_frame(stamp_ns)), whole.decide(a_frame(stamp_ns))
        assert np.array_equal(one.probabilities, other.probabilities)
    with pytest.raises(
        ConfigError, match=r"'cuda:0', but .* is an exported decision|GPUs are here"
    ):
        Engine.from_checkpoint(artefact, device="cuda:0")


def test_folder_of_something_else_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    assert main(["export", str(tmp_path)]) != 0
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("name", ["vision.onnx", "decision.onnx", "tokenizer.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_damaged_artefact_is_refused_by_name(
    artefact: Path, tmp_path: Path, name: str, harm: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(artefact, folder)
    content = bytearray((folder / name).read_bytes())
    if harm == "lose":
        (folder / name).unlink()
    elif harm == "cut":
        (folder / name).write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_artefact(folder)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format_version", 99, "format_version is 99, expected 1"),
        ("actions", ["GO"], "expected our 20"),
        ("sha256", {}, r"lists no decision\.onnx"),
        ("question_tokens", "many", "ValueError"),
        ("image", None, "TypeError"),
    ],
)
def test_manifest_that_says_something_else_is_refused(
    artefact: Path, tmp_path: Path, key: str, value: object, said: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(artefact, folder)
    manifest = json.loads((folder / "artefact.json").read_text())
    (folder / "artefact.json").write_text(json.dumps({**manifest, key: value}))
    with pytest.raises(CheckpointError, match=said):
        load_artefact(folder)


def test_a_checkpoint_is_exported_once_and_found_again(
    student: Path, copied: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path))
    made = cached_artefact(student)
    monkeypatch.setattr(cache, "_export", lambda checkpoint, folder: pytest.fail("again"))
    moved = tmp_path / "moved"
    shutil.copytree(student, moved)
    again = cached_artefact(moved)
    assert made is not None and again is not None and made.folder == again.folder
    assert made.folder.parent == tmp_path / "engines"


def test_a_damaged_cache_is_made_anew(
    student: Path, copied: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path))
    made = cached_artefact(student)
    assert made is not None
    (made.folder / "vision.onnx").write_bytes(b"")
    again = cached_artefact(student)
    assert again is not None and (again.folder / "vision.onnx").stat().st_size > 0


def test_a_damaged_checkpoint_is_refused_though_its_artefact_is_cached(
    student: Path, tmp_path: Path
) -> None:
    assert cached_artefact(student) is not None
    damaged = tmp_path / "damaged"
    shutil.copytree(student, damaged)
    (damaged / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        cached_artefact(damaged)


def test_too_large_a_checkpoint_stays_with_torch(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_WEIGHT_BYTES", 10)
    assert Engine.from_checkpoint(student, device="cpu").backend.startswith("torch ")


def test_an_unwritable_cache_is_said_and_another_place_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o077 == 0
    assert "engines are kept in" in caplog.text


@pytest.fixture
def copied(artefact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was exported once is copied into caches, which is faster and as good a folder."""

    def copy(checkpoint: Path, folder: Path) -> None:
        with replace_folder(folder) as temporary:
            shutil.copytree(artefact, temporary, dirs_exist_ok=True)

    monkeypatch.setattr(cache, "_export", copy)


def cache_with(tmp_path: Path, mode: int) -> Path:
    """A cache whose folder of engines has this mode."""
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines").chmod(mode)
    return tmp_path


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_cache_that_others_write_to_is_not_trusted(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setenv("CLKD_CACHE", str(cache_with(tmp_path, mode)))
    with pytest.raises(DataError, match=r"drwxrwx.*expected a folder that only user"):
        cached_artefact(student)


def test_an_artefact_in_the_cache_that_others_write_to_is_not_loaded(
    student: Path, copied: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLKD_CACHE", str(cache_with(tmp_path, 0o700)))
    made = cached_artefact(student)
    assert made is not None and made.folder.stat().st_mode & 0o077 == 0
    made.folder.chmod(0o757)
    with pytest.raises(DataError, match="expected a folder that only user"):
        cached_artefact(student)
    target = tmp_path / "elsewhere"
    made.folder.rename(target)
    made.folder.symlink_to(target)
    with pytest.raises(DataError, match="is lrwx"):
        cached_artefact(student)


def test_processes_that_start_at_once_export_once(
    student: Path, artefact: Path, tmp_path: Path
) -> None:
    code = (
        "import os, shutil, sys, time\n"
        "from pathlib import Path\n"
        "from clkd_core.files import replace_folder\n"
        "from clkd_core.runtime.exporting import cache\n"
        "def export(checkpoint, folder):\n"
        f"    Path({str(tmp_path)!r}, f'exported-{{os.getpid()}}').touch()\n"
        "    time.sleep(0.5)\n"
        "    with replace_folder(folder) as temporary:\n"
        f"        shutil.copytree({str(artefact)!r}, temporary, dirs_exist_ok=True)\n"
        "cache._export = export\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"print(cache.cached_artefact(Path({str(student)!r})).folder)\n"
    )
    env = {**os.environ, "CLKD_CACHE": str(tmp_path / "cache")}
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for _ in range(3)
    ]  # fmt: skip
    for node in nodes:
        assert node.stdout is not None and node.stdout.readline() == "ready\n"
    for node in nodes:  # all of them before one is waited for
        assert node.stdin is not None
        node.stdin.write("go\n")
        node.stdin.flush()
    folders = {node.communicate(timeout=100)[0] for node in nodes}
    assert [node.returncode for node in nodes] == [0, 0, 0]
    assert len(folders) == 1 and len(list(tmp_path.glob("exported-*"))) == 1


def test_what_was_not_loaded_for_long_is_forgotten(
    student: Path, copied: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLKD_CACHE", str(cache_with(tmp_path, 0o700)))
    for name, age_s in (("old", cache.KEPT_UNUSED_S + 60), ("young", 60.0)):
        folder = tmp_path / "engines" / name
        folder.mkdir()
        os.utime(folder, (time.time() - age_s,) * 2)
    assert cached_artefact(student) is not None
    kept = {path.name for path in (tmp_path / "engines").iterdir() if path.is_dir()}
    assert "old" not in kept and "young" in kept and len(kept) == 2


def test_a_checkpoint_without_torch_says_what_to_use_instead(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cache, "version", missing)
    cache._code_digest.cache_clear()
    with pytest.raises(ConfigError, match=r"needs torch, which is not installed: .*clkd export"):
        cached_artefact(student)
    cache._code_digest.cache_clear()


def test_somebody_elses_folder_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CLKD_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    own = cache_folder()
    monkeypatch.setattr(cache.os, "getuid", lambda: own.stat().st_uid + 1)
    theirs = tmp_path / f"clkd-engines-{own.stat().st_uid + 1}"
    theirs.mkdir(mode=0o755)
    if own.stat().st_uid == 0:  # root's folders are trusted
        os.chown(theirs, 12345, -1)
    with pytest.raises(DataError, match="expected a folder that only user"):
        cache_folder()


@pytest.mark.slow
def test_shipped_student_is_exported_within_the_tolerance(tmp_path: Path) -> None:
    assert main(["export", str(tmp_path / "nano")]) == 0
    gaps = command.compare_scores(shipped_student(), tmp_path / "nano")
    assert max(gap.log_prob for gap in gaps if gap.exact) < 1e-3
