"""What a result was made with: packages, git revision, device."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from clkd_core.report.provenance import describe_device

PACKAGES = ("torch", "transformers", "timm", "tokenizers", "numpy", "safetensors", "peft")


def collect_versions(device: str | None = None) -> dict[str, str]:
    """Versions, git revision and device that a result depends on.

    The revision is ``unknown`` outside a checkout.

    Args:
        device: torch's name of the one that computes; None: the GPU where this process has used
            one by now, else the CPU.
    """
    versions = {"python": platform.python_version(), "clkd": _git_revision()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return versions | {"device": describe_device(device or _device_in_use())}


def _device_in_use() -> str:
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return "cuda" if used else "cpu"


def _git_revision() -> str:
    root = Path(__file__).resolve().parents[3]
    if not (root / "pyproject.toml").is_file():
        return "unknown"  # installed: a repository around site-packages is not ours
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()
