"""The wheel carries what lies at the root of the checkout: messages, configs, launch files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = ("msg", "config", "launch", "weights")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel, built from a copy of the checkout."""
    root = Path(__file__).resolve().parents[2]
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    for name in ("clkd_core", "clkd_ros", *SHARED):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--target", str(target))
    done = subprocess.run([*pip, *options, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def run_installed(installed: Path, tmp_path: Path, *words: str) -> str:
    """Run Python with the wheel and outside of the checkout; returns stdout."""
    env = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_below(folder: Path) -> set[str]:
    """Relative paths of all files but compiled ones."""
    files = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    return {str(file) for file in files if "__pycache__" not in file.parts}


@pytest.mark.slow
def test_the_wheel_holds_every_shared_file(installed: Path, root: Path) -> None:
    for name in SHARED:
        assert files_below(root / name) == files_below(installed / "clkd_core" / "share" / name)


@pytest.mark.slow
def test_an_installed_wheel_knows_its_verbs_messages_and_configs(
    installed: Path, tmp_path: Path
) -> None:
    code = """
from clkd_core.cli import find_entries
from clkd_core.data.bags.ros_types import load_typestore
from clkd_core.files import shared_folder
import clkd_core
print(clkd_core.__file__)
print("world" in find_entries("clkd.verbs"), "clkd_ros/msg/MetaAction" in load_typestore().types)
print(sorted(file.name for file in (shared_folder("config") / "demo").iterdir()))
"""
    where, verbs, sizes = run_installed(installed, tmp_path, "-c", code).splitlines()
    assert where.startswith(str(installed))
    assert (verbs, sizes) == ("True True", "['full.yaml', 'tiny.yaml']")


@pytest.mark.slow
def test_nothing_of_the_checkout_but_packages_lands_in_site_packages(installed: Path) -> None:
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops - {"bin", "__pycache__"} == {"clkd_core", "clkd_ros"}
