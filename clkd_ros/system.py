"""Which nodes a system has, in which processes, and what a launch may choose.

``config/nodes/dual_system.yaml`` is the only source; ``clkd launch``
(:mod:`clkd_ros.launcher`) and ``ros2 launch`` (:mod:`clkd_ros.ros2_launch`) both read it here.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from clkd_core.config import load_config
from clkd_core.data.bags.topics import BagTopics, image_topic, load_topics, raw_image_topic
from clkd_core.errors import ConfigError
from clkd_core.files import shared_folder
from clkd_core.types import CAMERAS


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """One node: what runs, how its topics and parameters are set."""

    name: str
    """Name in the graph."""
    module: str
    """Started as ``python -m module``."""
    executable: str
    """Started as ``ros2 run clkd_ros executable``."""
    lifecycle: bool = True
    """Whether transitions are asked of it."""
    when: Literal["always", "evaluate"] = "always"
    """evaluate: only when the run is scored."""
    remappings: Mapping[str, str] = field(default_factory=dict)
    """Private topic name -> absolute one."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """ROS parameters; nested ones are named with dots."""

    def rules(self, prefix: str = "") -> list[str]:
        """Remappings and parameters as ROS arguments; ``prefix`` says for which node."""
        words = []
        for source, target in self.remappings.items():
            words += ["-r", f"{prefix}{source}:={target}"]
        for name, value in _flat(self.parameters).items():
            words += ["-p", f"{prefix}{name}:={_yaml_text(value)}"]
        return words


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """One process and the nodes in it."""

    name: str
    """For logs and errors."""
    module: str
    """Started as ``python -m module``."""
    executable: str
    """Started as ``ros2 run clkd_ros executable``."""
    nodes: tuple[NodeSpec, ...]
    """What runs in it."""

    @property
    def respawn(self) -> bool:
        """Whether it is started again when it dies; a scored run is over when a node of it did."""
        return all(node.when == "always" for node in self.nodes)

    def arguments(self) -> list[str]:
        """The command line after the program's name.

        Nodes that share a process keep the names they have in the code: rules are told apart by
        them.
        """
        if len(self.nodes) == 1:
            (node,) = self.nodes
            return ["--ros-args", "-r", f"__node:={node.name}", *node.rules()]
        rules = (word for node in self.nodes for word in node.rules(f"{node.name}:"))
        return ["--ros-args", *rules]


@dataclass(frozen=True, kw_only=True)
class CompositionSpec:
    """Nodes that share a process unless ``composed:=false``."""

    name: str
    """Of the process."""
    module: str
    """Started as ``python -m module``."""
    executable: str
    """Started as ``ros2 run clkd_ros executable``."""
    nodes: tuple[str, ...]
    """Names of the nodes in it, which are those in the code."""


@dataclass(frozen=True, kw_only=True)
class ArgumentSpec:
    """One ``name:=value`` that the launch takes."""

    default: Any
    """Value when none is given."""
    parameter: tuple[str, ...] = ()
    """The ``node.parameter`` names that it sets; none: a word for the launch itself."""
    description: str = ""
    """For ``--help``."""


@dataclass(frozen=True, kw_only=True)
class SystemSpec:
    """All nodes, the arguments, and the order of transitions."""

    nodes: tuple[NodeSpec, ...]
    """In the order they are started."""
    transitions: tuple[str, ...] = ("configure", "activate")
    """Each is asked of all nodes in their order before the next begins."""
    arguments: Mapping[str, ArgumentSpec] = field(default_factory=dict)
    """By name."""
    composition: CompositionSpec | None = None
    """Which nodes may share a process."""
    composed: bool = True
    """Whether they do."""
    rviz: bool = False
    """Whether RViz is to be shown; only ``ros2 launch`` can."""

    @property
    def processes(self) -> tuple[ProcessSpec, ...]:
        """In the order they are started; a composition of which one node is left is none."""
        shared = self.composition
        named = {node.name for node in self.nodes}
        if not self.composed or shared is None or not named.issuperset(shared.nodes):
            return tuple(_alone(node) for node in self.nodes)
        together = ProcessSpec(
            name=shared.name,
            module=shared.module,
            executable=shared.executable,
            nodes=tuple(node for node in self.nodes if node.name in shared.nodes),
        )
        others = (node for node in self.nodes if node.name not in shared.nodes)
        return (together, *(_alone(node) for node in others))


def _alone(node: NodeSpec) -> ProcessSpec:
    return ProcessSpec(
        name=node.name, module=node.module, executable=node.executable, nodes=(node,)
    )


def default_system_file() -> Path:
    """The dual system as shipped."""
    return shared_folder("config") / "nodes" / "dual_system.yaml"


def load_system(path: Path, arguments: Mapping[str, Any] | None = None) -> SystemSpec:
    """Read a system file and apply arguments.

    Args:
        path: a YAML file like ``config/nodes/dual_system.yaml``.
        arguments: by name; ``node.parameter`` sets one parameter of one node. An argument that
            sets no parameter is one of ``evaluate``, ``composed``, ``rviz`` and ``topics``.

    Raises:
        ConfigError: the file, an argument or the topic mapping does not fit.
    """
    system = load_config(SystemSpec, path)
    chosen = {node.name: dict(_flat(node.parameters)) for node in system.nodes}
    given, words = dict(arguments or {}), {}
    for name, argument in system.arguments.items():
        value = given.pop(name, argument.default)
        if not argument.parameter:
            words[name] = value
        elif value not in ("", None):  # as good as not given: the node's own default holds
            given = {**dict.fromkeys(argument.parameter, value), **given}
    for dotted, value in given.items():
        node, dot, parameter = dotted.partition(".")
        if not dot or node not in chosen:
            raise ConfigError(f"{path}: {_unknown_argument(dotted, system)}")
        chosen[node][parameter] = value
    evaluate = _switch(words, "evaluate", False)
    nodes = tuple(
        replace(node, parameters=chosen[node.name])
        for node in system.nodes
        if node.when == "always" or evaluate
    )
    if words.get("topics"):
        nodes = _renamed(nodes, load_topics(Path(str(words["topics"]))))
    else:
        nodes = tuple(_listening_raw(node) for node in nodes)
    return replace(
        system,
        nodes=nodes,
        composed=_switch(words, "composed", system.composed),
        rviz=_switch(words, "rviz", system.rviz),
    )


def _switch(words: Mapping[str, Any], name: str, default: bool) -> bool:
    value = words.get(name, default)
    if not isinstance(value, bool):
        raise ConfigError(f"launch argument {name} is {value!r}, expected true or false")
    return value


def _listening_raw(node: NodeSpec) -> NodeSpec:
    """The same node, its cameras remapped to where raw images are sent, if it wants raw ones."""
    if node.parameters.get("transport") != "raw":
        return node
    raw = {image_topic(camera): raw_image_topic(camera) for camera in CAMERAS}
    remapped = {name: raw.get(topic, topic) for name, topic in node.remappings.items()}
    return replace(node, remappings=remapped)


def _renamed(nodes: Sequence[NodeSpec], names: BagTopics) -> tuple[NodeSpec, ...]:
    """The nodes listening to the vehicle's topics; cameras it lacks are not waited for."""
    ours, cameras = BagTopics(), [camera for camera in CAMERAS if camera in names.images]
    theirs = {
        topic: names.by_role[role] for role, topic in ours.by_role.items() if role in names.by_role
    }
    gone = {image_topic(camera) for camera in CAMERAS if camera not in cameras}
    return tuple(
        replace(
            node,
            remappings={
                name: theirs.get(topic, topic)
                for name, topic in node.remappings.items()
                if topic not in gone
            },
            parameters={"sync.cameras": cameras, **node.parameters},
        )
        for node in nodes
    )


def parse_launch_arguments(words: Sequence[str]) -> dict[str, Any]:
    """``["device:=cpu"]`` as ``{"device": "cpu"}``; values are YAML.

    Raises:
        ConfigError: a word is not ``name:=value``.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, separator, text = word.partition(":=")
        if not separator or not name:
            raise ConfigError(f"launch argument is {word!r}, expected name:=value")
        try:
            found[name] = yaml.safe_load(text)
        except yaml.YAMLError as err:
            raise ConfigError(f"launch argument is {word!r}, expected a YAML value") from err
    return found


def _unknown_argument(name: str, system: SystemSpec) -> str:
    near = difflib.get_close_matches(name, list(system.arguments), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected one of {sorted(system.arguments)}"
    return f"unknown launch argument {name!r}, {hint} or node.parameter"


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _yaml_text(value: Any) -> str:
    """On one line, as ``-p`` takes it; floats keep their point."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("...").strip()
