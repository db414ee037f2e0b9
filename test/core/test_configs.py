"""Every YAML we ship loads with its dataclass; a folder nobody reads is an error too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clkd_core.config import load_config
from clkd_core.data.bags.topics import load_topics
from clkd_core.data.world.config import WorldConfig
from clkd_core.distill.config import TrainConfig
from clkd_core.models.vehicle import VehicleConfig
from clkd_core.planner_training.config import PlannerTrainConfig
from clkd_ros.demo import DemoConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "config"


def by_dataclass(cls: type[Any]) -> Callable[[Path], object]:
    """A reader for configs of this class."""
    return lambda path: load_config(cls, path)


def read_nodes(path: Path) -> object:
    """Nodes, remaps and parameters have a reader of their own."""
    from clkd_ros.system import load_system

    return load_system(path)


READERS: dict[str, Callable[[Path], object]] = {
    "world": by_dataclass(WorldConfig),
    "train": by_dataclass(TrainConfig),
    "ablation": by_dataclass(TrainConfig),
    "paper": by_dataclass(TrainConfig),
    "planner": by_dataclass(PlannerTrainConfig),
    "demo": by_dataclass(DemoConfig),
    "nodes": read_nodes,
    "topics": load_topics,
    "vehicle": by_dataclass(VehicleConfig),
}
SHIPPED = [file for kind in ("*.yaml", "*.yml") for file in sorted(CONFIGS.rglob(kind))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_shipped_config_loads(path: Path) -> None:
    room = path.relative_to(CONFIGS).parts[0]
    assert room in READERS, f"{path} is in a folder that no reader is named for"
    READERS[room](path)


def test_every_shipped_config_says_on_top_what_it_is_for() -> None:
    silent = [path.name for path in SHIPPED if not path.read_text().startswith("# ")]
    assert silent == []


@pytest.mark.parametrize("size", ["full", "tiny"])
def test_the_demos_steps_name_configs_that_exist(size: str) -> None:
    demo = load_config(DemoConfig, CONFIGS / "demo" / f"{size}.yaml")
    for path in (demo.world, demo.train, demo.planner):
        assert (CONFIGS / path).is_file(), path
