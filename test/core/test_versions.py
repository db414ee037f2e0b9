"""What a result was made with is named, and unknown where it is not known."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import torch

from clkd_core.distill.record import versions
from clkd_core.distill.record.versions import PACKAGES, collect_versions


def test_packages_python_and_device_are_named() -> None:
    found = collect_versions()
    assert found["python"] == platform.python_version()
    assert "peft" in PACKAGES
    assert all(found[package] == metadata.version(package) for package in PACKAGES)
    assert found["device"].startswith("CPU ")


def test_the_gpu_is_named_where_it_was_used_or_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    assert collect_versions("cuda:1")["device"] == "Some GPU (cuda:1)"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert collect_versions("cpu")["device"].startswith("CPU ")
    assert collect_versions()["device"] == "Some GPU (cuda)"


def test_revision_is_that_of_the_checkout(root: Path) -> None:
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True)
    wanted = "unknown" if done.returncode else done.stdout.strip()
    assert collect_versions()["clkd"].removesuffix("-dirty") == wanted


def test_a_package_that_is_missing_and_a_place_outside_a_checkout_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "clkd_core" / "distill" / "record" / "versions.py"
    installed.parent.mkdir(parents=True)
    for words in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m one"):
        subprocess.run(["git", "-C", str(tmp_path), *words.split()], check=True)
    monkeypatch.setattr(versions, "__file__", str(installed))
    monkeypatch.setattr(versions, "PACKAGES", ("torch", "no-such-package"))
    found = collect_versions()
    assert found["clkd"] == "unknown"
    assert found["no-such-package"] == "unknown"
    assert found["torch"] == metadata.version("torch")
