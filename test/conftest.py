"""What every test shares: where real data lies, and no network of ours on anybody else's."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("CLKD_CACHE", str(ROOT / ".pytest_cache" / "clkd"))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real DriveLM, CODA-LM and KITTI pieces; the test is skipped where they are not at hand."""
    folder = Path(os.environ.get("CLKD_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set CLKD_SHARED_DATA")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run and say what is missing; `make test-ros` fails instead."""
    for item in items:
        if item.get_closest_marker("ros") and not _importable("rclpy"):
            if os.environ.get("CLKD_REQUIRE_ROS"):
                raise pytest.UsageError("rclpy cannot be imported: source ROS 2 first")
            item.add_marker(pytest.mark.skip(reason="rclpy is missing: source ROS 2"))
        if item.get_closest_marker("gpu") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _importable(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
