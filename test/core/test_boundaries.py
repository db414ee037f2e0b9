"""Which way imports point, in a fresh interpreter: the linter overlooks `__init__` files."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

NO_TORCH = (
    "clkd_core.types",
    "clkd_core.errors",
    "clkd_core.config",
    "clkd_core.config_files",
    "clkd_core.files",
    "clkd_core.progress",
    "clkd_core.cli",
    "clkd_core.data.bags.topics",
    "clkd_core.data.labels",
    "clkd_core.data.prompts",
    "clkd_core.data.bags.files",
    "clkd_core.models.pretrained.wheels.fetch",
    "clkd_core.models.pretrained.wheels.fetch_command",
    "clkd_core.distill.bench.command",
    "clkd_core.metrics.frames",
    "clkd_core.metrics.decisions.rsdr",
    "clkd_core.runtime.sync",
    "clkd_core.runtime.decode",
    "clkd_core.runtime.deadline",
    "clkd_core.runtime.timely",
    "clkd_core.runtime.engine",
    "clkd_core.runtime.backends.on_openvino",
    "clkd_core.runtime.backends.on_onnxruntime",
    "clkd_core.runtime.exporting.cache",
    "clkd_core.runtime.exporting.run",
    "clkd_core.runtime.bench.command",
    "clkd_core.runtime.bench.gate",
    "clkd_core.report.compare.command",
    "clkd_core.driving.command",
    "clkd_ros.params",
    "clkd_ros.convert",
    "clkd_ros.demo",
)
"""Loaded in this order in one interpreter; the first that brings torch along is named."""

HEAVY = ("torch", "transformers", "timm")
ROS = ("clkd_ros", "rclpy", "cyclonedds")


def first_offenders(root: Path, modules: list[str], forbidden: tuple[str, ...]) -> list[str]:
    """Which of the modules first brought which forbidden package into a fresh interpreter."""
    code = f"""
        import importlib, json, sys
        seen, offenders = set(), []
        for name in {modules!r}:
            importlib.import_module(name)
            new = ({set(forbidden)!r} & set(sys.modules)) - seen
            offenders += [f"{{name}} loads {{package}}" for package in sorted(new)]
            seen |= new
        print(json.dumps(offenders))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    offenders: list[str] = json.loads(done.stdout.splitlines()[-1])
    return offenders


def test_what_crosses_the_border_loads_no_torch(root: Path) -> None:
    assert first_offenders(root, list(NO_TORCH), HEAVY) == []


def test_the_probe_sees_a_package_that_is_loaded(root: Path) -> None:
    assert first_offenders(root, ["json", "decimal"], ("decimal",)) == ["decimal loads decimal"]


def test_no_module_of_the_core_loads_ros(root: Path) -> None:
    files = sorted((root / "clkd_core").rglob("*.py"))
    modules = [".".join(file.relative_to(root).with_suffix("").parts) for file in files]
    modules = [name for name in modules if not name.endswith(("__init__", "__main__"))]
    assert len(modules) > 20
    assert first_offenders(root, modules, ROS) == []
