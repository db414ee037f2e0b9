"""One YAML describes the system; nodes, launch file, build files and bags agree with it."""

import dataclasses
import importlib
import importlib.util
import operator
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from fakes import FakeEngine, FakePlanner
from ros_graph import running_graph

from clkd_core.data.bags import topics
from clkd_core.types import CAMERAS
from clkd_ros import messages
from clkd_ros.evaluator_node import EvaluatorNode, EvaluatorNodeConfig
from clkd_ros.params import declare_params
from clkd_ros.planner_node import PlannerNode, PlannerNodeConfig
from clkd_ros.system import (
    NodeSpec,
    default_system_file,
    load_system,
    parse_launch_arguments,
)
from clkd_ros.vlm_node import VlmNode, VlmNodeConfig

CONFIGS = {
    "vlm": VlmNodeConfig,
    "planner": PlannerNodeConfig,
    "evaluator": EvaluatorNodeConfig,
}
BUILD: dict[str, Any] = {
    "vlm": lambda **options: VlmNode(lambda config: FakeEngine(), **options),
    "planner": lambda **options: PlannerNode(lambda config: FakePlanner(), **options),
    "evaluator": EvaluatorNode,
}


def shipped() -> tuple[NodeSpec, ...]:
    return load_system(default_system_file(), {"evaluate": True}).nodes


@pytest.mark.parametrize("spec", shipped(), ids=lambda spec: spec.name)
def test_every_topic_of_a_node_is_remapped_and_every_remap_is_used(
    spec: NodeSpec, tmp_path: Path
) -> None:
    with running_graph() as graph:
        words = ["--ros-args", "-p", f"output_dir:={tmp_path}"]
        node = graph.start(BUILD[spec.name](cli_args=words))
        names = [each.topic_name for each in (*node.publishers, *node.subscriptions)]
        own = f"/{spec.name}/"
        private = {name.replace(own, "~/", 1) for name in names if name.startswith(own)}
        private -= {"~/transition_event"}  # rclpy's lifecycle
    if messages.autoware_trajectory_class() is None and spec.name == "planner":
        private.add("~/output/autoware_trajectory")  # there only where its package is
    assert private == set(spec.remappings)


@pytest.mark.parametrize("spec", shipped(), ids=lambda spec: spec.name)
def test_every_parameter_in_the_file_is_one_of_the_node_and_accepted(spec: NodeSpec) -> None:
    with running_graph():
        node = BUILD[spec.name](cli_args=["--ros-args", *spec.rules()])
        config = declare_params(node, CONFIGS[spec.name])
        node.destroy_node()
    for name, value in spec.parameters.items():
        if name != "use_sim_time":
            assert operator.attrgetter(name)(config) == value


def test_node_files_can_be_started_as_module_and_as_executable(root: Path) -> None:
    cmake = (root / "CMakeLists.txt").read_text()
    started = load_system(default_system_file(), {"evaluate": True}).processes
    for spec in (*shipped(), *started):
        assert callable(importlib.import_module(spec.module).main)
        assert re.search(rf"foreach\(node .*\b{spec.executable}\b", cmake)


def test_what_the_installed_executables_import_is_there(root: Path) -> None:
    cmake = (root / "CMakeLists.txt").read_text()
    nodes = re.search(r"foreach\(node ([\w ]+)\)", cmake)
    assert nodes is not None
    for node in nodes[1].split():
        imports = re.findall(r"from ([\w.${}]+) import (\w+)", cmake)
        assert ("clkd_ros.${node}", "main") in imports
        for module, name in imports:
            assert hasattr(importlib.import_module(module.replace("${node}", node)), name)


def test_remaps_meet_the_topics_of_our_bags() -> None:
    wanted = {f"~/input/{camera.lower()}": topics.image_topic(camera) for camera in CAMERAS}
    wanted |= {"~/input/odometry": topics.ODOMETRY, "~/input/route_command": topics.ROUTE_COMMAND}
    for spec in shipped():
        assert wanted.items() <= dict(spec.remappings).items()
    remaps = {source: target for spec in shipped() for source, target in spec.remappings.items()}
    assert remaps["~/input/label"] == topics.TRUE_META_ACTION
    assert remaps["~/input/true_trajectory"] == topics.TRUE_TRAJECTORY


def test_outputs_of_one_node_are_inputs_of_the_others() -> None:
    by_name = {spec.name: spec.remappings for spec in shipped()}
    decision = by_name["vlm"]["~/output/meta_action"]
    assert by_name["planner"]["~/input/meta_action"] == decision
    assert by_name["evaluator"]["~/input/meta_action"] == decision
    plan = by_name["planner"]["~/output/trajectory"]
    assert by_name["evaluator"]["~/input/trajectory"] == plan


def test_arguments_of_the_file_reach_the_parameters_that_they_name() -> None:
    system = load_system(default_system_file(), {"checkpoint": "X", "device": "cpu"})
    assert [spec.name for spec in system.nodes] == ["vlm", "planner"]
    assert all(spec.parameters["checkpoint"] == "X" for spec in system.nodes)


def test_build_files_name_every_message_and_depend_on_what_is_imported(root: Path) -> None:
    cmake = (root / "CMakeLists.txt").read_text()
    for path in (root / "msg").glob("*.msg"):
        assert f'"msg/{path.name}"' in cmake
    package = ElementTree.parse(root / "package.xml").getroot()
    needed = {element.text for element in package if element.tag in ("exec_depend", "depend")}
    imports = (root / "clkd_ros" / "messages.py").read_text()
    imported = set(re.findall(r"from (\w+)\.msg import", imports))
    optional = {"autoware_planning_msgs"}  # used where it is there
    assert imported - {"clkd_ros"} - optional <= needed
    assert package.findtext("member_of_group") == "rosidl_interface_packages"
    assert package.findtext("export/build_type") == "ament_cmake"


def test_messages_are_generated_before_our_modules_are_installed(root: Path) -> None:
    cmake = (root / "CMakeLists.txt").read_text()
    generate = cmake.index("rosidl_generate_interfaces(${PROJECT_NAME}")
    assert generate < cmake.index("install(DIRECTORY ${PROJECT_NAME}/")
    assert "ament_python_install_package(${PROJECT_NAME})" not in cmake
    assert not (root / "clkd_ros" / "msg").exists()


@pytest.mark.ros
@pytest.mark.parametrize("words", [{}, {"composed": "false", "evaluate": "true"}])
def test_launch_file_starts_what_clkd_launch_starts(root: Path, words: dict[str, str]) -> None:
    from launch import LaunchContext

    path = root / "launch" / "dual_system.launch.py"
    spec = importlib.util.spec_from_file_location("dual_system_launch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = LaunchContext()
    context.launch_configurations.update(words)
    for action in module.generate_launch_description().entities[:-1]:
        action.execute(context)
    started = module.start_nodes(context)
    chosen = parse_launch_arguments([f"{name}:={value}" for name, value in words.items()])
    described = load_system(default_system_file(), chosen).processes
    assert [action.node_executable for action in started] == [one.executable for one in described]
    for action, process in zip(started, described, strict=True):
        action._perform_substitutions(context)
        command = [
            "".join(part.perform(context) for part in word)
            for word in action.process_description.cmd
        ]
        assert command[2 : 2 + len(process.arguments())] == process.arguments()
        assert command[1] == "--autostart=configure,activate"


def test_config_dataclasses_share_their_input_knobs() -> None:
    shared = {"transport", "reliability", "depth", "sync"}
    for config_class in CONFIGS.values():
        assert shared <= {field.name for field in dataclasses.fields(config_class)}
