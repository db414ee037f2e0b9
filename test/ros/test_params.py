"""Dataclass fields as ROS parameters."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from ros_graph import Graph, running_graph

from clkd_core.errors import ConfigError
from clkd_ros.middleware import Node, Parameter
from clkd_ros.params import RANGE, declare_params, read_descriptions


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    cameras: tuple[str, ...] = ("a", "b")
    """Names."""
    age_ms: float = 5.0
    """Age [ms], > 0."""

    def __post_init__(self) -> None:
        if self.age_ms <= 0:
            raise ConfigError(f"age_ms is {self.age_ms}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class OuterConfig:
    mode: Literal["slow", "fast"] = "slow"
    """How it
    goes."""
    count: int = field(default=1, metadata={RANGE: (0, 9)})
    """How many."""
    inner: InnerConfig = field(default_factory=InnerConfig)
    """A section."""


@pytest.fixture
def graph() -> Iterator[Graph]:
    with running_graph() as running:
        yield running


def node_with(**overrides: Any) -> Node:
    given = [Parameter(name.replace("__", "."), value=value) for name, value in overrides.items()]
    return Node("knobs", parameter_overrides=given)


def test_parameters_fill_the_dataclass_and_its_sections(graph: Graph) -> None:
    node = node_with(mode="fast", inner__cameras=["x"], inner__age_ms=2.5)
    config = declare_params(node, OuterConfig)
    assert config == OuterConfig(mode="fast", inner=InnerConfig(cameras=("x",), age_ms=2.5))
    assert declare_params(node, OuterConfig) == config  # configured a second time
    node.destroy_node()


def test_defaults_are_those_of_the_dataclass_and_described_by_its_docstrings(graph: Graph) -> None:
    node = node_with()
    assert declare_params(node, OuterConfig) == OuterConfig()
    assert node.describe_parameter("mode").description == "How it goes."
    assert node.describe_parameter("inner.age_ms").description == "Age [ms], > 0."
    limits = node.describe_parameter("count").integer_range[0]
    assert (limits.from_value, limits.to_value) == (0, 9)
    node.destroy_node()


@pytest.mark.parametrize(
    ("name", "value"),
    [("count", 10), ("count", "many"), ("mode", "warp"), ("inner__age_ms", -1.0)],
)
def test_bad_values_are_refused_at_start_by_name(graph: Graph, name: str, value: Any) -> None:
    node = node_with(**{name: value})
    with pytest.raises(ConfigError, match=name.rpartition("__")[2]):
        declare_params(node, OuterConfig)
    node.destroy_node()


def test_bad_values_are_refused_at_run_time_and_good_ones_taken(graph: Graph) -> None:
    node = node_with()
    declare_params(node, OuterConfig)
    for name, value in (("count", 10), ("mode", "warp"), ("inner.age_ms", 0.0)):
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert not result.successful, name
        assert name.rpartition(".")[2] in result.reason
    (result,) = node.set_parameters([Parameter("count", value=2)])
    assert result.successful
    assert declare_params(node, OuterConfig).count == 2
    node.destroy_node()


def test_every_knob_of_every_node_is_described() -> None:
    from clkd_ros.evaluator_node import EvaluatorNodeConfig
    from clkd_ros.planner_node import PlannerNodeConfig
    from clkd_ros.vlm_node import VlmNodeConfig

    for config_class in (VlmNodeConfig, PlannerNodeConfig, EvaluatorNodeConfig):
        described = read_descriptions(config_class)
        assert set(described) >= set(config_class.__dataclass_fields__)
