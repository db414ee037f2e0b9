"""colcon, pip, rosdep, Docker and RViz are told what the code says: one file against another."""

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from clkd_ros.system import default_system_file, load_system

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it where Python has none

ROOT = Path(__file__).resolve().parents[2]
SHARED = {"config", "launch", "msg", "weights"}
"""Folders of the root that are installed although they are no packages."""
PIP_NAMES = {"cv2": "opencv-python-headless", "yaml": "PyYAML"}
"""Import -> distribution, where the two differ."""
APT_NAMES = {
    "numpy": "python3-numpy",
    "opencv-python-headless": "python3-opencv",
    "matplotlib": "python3-matplotlib",
    "PyYAML": "python3-yaml",
    "tqdm": "python3-tqdm",
    "psutil": "python3-psutil",
}
"""Distribution -> rosdep key, where Ubuntu has it."""
OPTIONAL_ROS = {"autoware_planning_msgs"}
"""Used where it is there; a hard dependency would drag Autoware onto every machine."""
VERB_PACKAGES = {"bag": "ros2bag", "launch": "ros2launch"}
"""`ros2 VERB` -> the package that brings it."""
SHARE_FINDERS = {"FindPackageShare", "get_package_share_directory"}
RVIZ_CLASSES = {
    "rviz_common": {"Displays", "Views", "Time"},
    "rviz_default_plugins": {
        *("Grid", "Axes", "MarkerArray", "Path", "Image", "XYOrbit"),
        *("Interact", "MoveCamera", "Select", "FocusCamera", "Measure"),
    },
}
"""From plugins_description.xml of rviz, the same on Humble and Jazzy."""


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


PACKAGE = ElementTree.fromstring(read("package.xml"))
PROJECT = tomllib.loads(read("pyproject.toml"))["project"]
CMAKE = read("CMakeLists.txt")
DOCS = read("docs/ros2.md")


def keys(*tags: str) -> set[str]:
    """What package.xml depends on, by kind of dependency."""
    return {str(node.text) for tag in tags for node in PACKAGE.iter(tag)}


RUN_KEYS = keys("depend", "exec_depend")


def distribution(requirement: str) -> str:
    """``numpy`` of ``numpy>=1.24,<3; python_version < '3.13'``."""
    found = re.match(r"[\w-]+", requirement)
    assert found
    return found[0]


def trees(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file, ast.parse(file.read_text("utf-8"))


def imported_packages(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_every_package_that_the_ros_half_imports_is_declared() -> None:
    extras = PROJECT["optional-dependencies"].values()
    pip = {distribution(line) for group in (PROJECT["dependencies"], *extras) for line in group}
    known = RUN_KEYS | pip | OPTIONAL_ROS | {"clkd_core", "clkd_ros"} | sys.stdlib_module_names
    unknown = {
        f"{file.relative_to(ROOT)}: {name}"
        for file, tree in trees("clkd_ros", "launch")
        for name in imported_packages(tree)
        if PIP_NAMES.get(name, name) not in known
    }
    assert unknown == set()


def packages_in_actions(tree: ast.Module) -> set[str]:
    """What a launch file starts: ``package="x"``, ``"ros2", "bag"``, ``FindPackageShare("x")``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "package":
            found |= {node.value.value} if isinstance(node.value, ast.Constant) else set()
        if isinstance(node, ast.List):
            words = [item.value for item in node.elts if isinstance(item, ast.Constant)]
            found |= {VERB_PACKAGES[verb] for verb in words[1:2] if words[0] == "ros2"}
        if isinstance(node, ast.Call) and ast.unparse(node.func) in SHARE_FINDERS:
            found |= {item.value for item in node.args if isinstance(item, ast.Constant)}
    return found


def test_every_package_that_a_launch_file_starts_is_declared() -> None:
    shared = ast.parse(read("clkd_ros/ros2_launch.py"))
    files = [tree for _, tree in trees("launch")] + [shared]
    started = {name for tree in files for name in packages_in_actions(tree)}
    assert "clkd_ros" in started
    assert started - RUN_KEYS == {"clkd_ros"}


def test_packages_are_found_in_the_ways_launch_files_name_them() -> None:
    code = (
        """Node(package="rviz2"); FindPackageShare("x"); ExecuteProcess(cmd=["ros2", "bag", y])"""
    )
    assert packages_in_actions(ast.parse(code)) == {"rviz2", "x", "ros2bag"}


def test_every_pip_dependency_has_a_rosdep_key_or_stands_in_the_comment_with_its_pin() -> None:
    comment = re.search(r"<!-- From pip only.*?-->", read("package.xml"), re.S)
    assert comment
    listed = {line.strip() for line in comment[0].splitlines()[1:-1]}
    wanted = {line for line in PROJECT["dependencies"] if distribution(line) not in APT_NAMES}
    assert listed == wanted
    assert set(APT_NAMES.values()) <= RUN_KEYS


def test_all_files_tell_one_version() -> None:
    assert PACKAGE.findtext("version") == PROJECT["version"]


def cmake_calls(name: str) -> list[str]:
    """The words between the brackets of each call."""
    return re.findall(rf"^\s*{name}\(([^)]*)\)", CMAKE, re.M)


def test_every_message_is_generated_and_what_it_needs_is_found_and_declared() -> None:
    (call,) = cmake_calls("rosidl_generate_interfaces")
    assert set(re.findall(r'"(msg/\w+\.msg)"', call)) == {
        str(file.relative_to(ROOT)) for file in (ROOT / "msg").glob("*.msg")
    }
    needed = set(call.split("DEPENDENCIES")[1].split())
    assert needed == {
        package
        for file in (ROOT / "msg").glob("*.msg")
        for package in re.findall(r"^(\w+)/\w+", file.read_text("utf-8"), re.M)
    }
    assert needed <= keys("depend")


def test_everything_cmake_looks_for_is_declared() -> None:
    found = {call.split()[0] for call in cmake_calls("find_package")}
    assert found <= keys("depend", "buildtool_depend", "test_depend")


def test_shared_folders_are_installed_by_colcon_by_pip_and_in_the_sdist() -> None:
    calls = [call.split() for call in cmake_calls("install") if call.startswith("DIRECTORY")]
    installed = {words[-1]: set(words[1:-2]) for words in calls if words[-2] == "DESTINATION"}
    # rosidl installs msg/ to share/clkd_ros itself.
    assert installed["share/${PROJECT_NAME}"] == SHARED - {"msg"}
    assert installed["${PYTHON_INSTALL_DIR}/clkd_core/share"] == SHARED
    assert shared_folders_of_pip() == SHARED
    assert files_not_in_the_sdist() == []


def shared_folders_of_pip() -> set[str]:
    for node in ast.parse(read("setup.py")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SHARED":
            return set(ast.literal_eval(node.value))
    raise AssertionError("setup.py has no SHARED")


def files_not_in_the_sdist() -> list[str]:
    patterns = [
        (folder, pattern)
        for folder, *rest in re.findall(
            r"^recursive-include (\S+) (.*)$", read("MANIFEST.in"), re.M
        )
        for pattern in " ".join(rest).split()
    ]
    return [
        str(file.relative_to(ROOT))
        for folder in sorted(SHARED)
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
        if not any(place == folder and fnmatch(file.name, rule) for place, rule in patterns)
    ]


def test_every_node_of_the_system_is_an_executable() -> None:
    (nodes,) = re.findall(r"foreach\(node (.*)\)", CMAKE)
    for node in load_system(default_system_file(), {"evaluate": True}).nodes:
        assert node.executable in nodes.split()
        assert node.module == f"clkd_ros.{node.executable}"


def docker_instructions() -> list[tuple[str, str]]:
    """(instruction, rest) with continued lines joined and comments left out."""
    text = re.sub(r"^#.*\n", "", read("Dockerfile"), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def is_ignored(path: Path) -> bool:
    """By a rule for it or for a folder above it; no more of Docker's syntax is used here."""
    place = path.relative_to(ROOT)
    names = [part.as_posix() for part in (place, *place.parents)][:-1]
    rules = [line for line in read(".dockerignore").splitlines() if line and line[0] != "#"]
    return any(fnmatch(name, rule.removeprefix("**/")) for name in names for rule in rules)


def test_what_docker_copies_is_there_and_not_ignored() -> None:
    copied = [
        ROOT / word
        for name, rest in docker_instructions()
        if name == "COPY"
        for word in rest.split()[:-1]
    ]
    assert ROOT in copied
    assert [path for path in copied if not path.exists() or is_ignored(path)] == []


@pytest.mark.parametrize("name", [*sorted(SHARED), "clkd_core", "clkd_ros", "CMakeLists.txt"])
def test_docker_leaves_out_nothing_that_is_installed(name: str) -> None:
    assert not is_ignored(ROOT / name)


@pytest.mark.parametrize("name", [".venv", "runs", ".git", "build", "clkd_drive.egg-info"])
def test_docker_takes_nothing_along_that_is_made_here(name: str) -> None:
    assert is_ignored(ROOT / name)


def test_docker_builds_with_the_pins_of_the_documentation_and_runs_our_launch_file() -> None:
    pins = '"numpy<2" "opencv-python-headless<4.12"'
    assert pins in DOCS
    assert any(pins in rest for name, rest in docker_instructions() if name == "RUN")
    (command,) = [ast.literal_eval(rest) for name, rest in docker_instructions() if name == "CMD"]
    assert (ROOT / "launch" / command[-1]).is_file()


@pytest.fixture(scope="module")
def rviz() -> dict[str, Any]:
    return yaml.safe_load(read("config/rviz/dual_system.rviz"))


def values_of(node: Any, key: str) -> Iterator[Any]:
    """All values under a key, at any depth."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from values_of(value, key)
    elif isinstance(node, list):
        for item in node:
            yield from values_of(item, key)


def system_topics() -> set[str]:
    nodes = load_system(default_system_file(), {"evaluate": True}).nodes
    return {topic for node in nodes for topic in node.remappings.values()}


def test_rviz_shows_topics_of_the_system_in_the_frame_of_the_plans(rviz: dict[str, Any]) -> None:
    shown = {topic["Value"] for topic in values_of(rviz, "Topic")}
    assert shown <= system_topics()
    assert {"/planner/path", "/planner/markers", "/cam_back/image_raw/compressed"} <= shown
    assert len([topic for topic in shown if topic.startswith("/cam_")]) == 6
    assert list(values_of(rviz, "Fixed Frame")) == ["base_link"]


def test_rviz_is_asked_for_classes_that_it_has(rviz: dict[str, Any]) -> None:
    asked = [name.split("/") for name in values_of(rviz, "Class") if name]
    assert len(asked) > 10
    assert [name for package, name in asked if name not in RVIZ_CLASSES[package]] == []


def declared_launch_arguments() -> set[str]:
    """Of all launch files: what the system file names, and what they declare themselves."""
    names = set(load_system(default_system_file()).arguments)
    for _, tree in trees("launch"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "DeclareLaunchArgument":
                names |= {word.value for word in node.args[:1] if isinstance(word, ast.Constant)}
    return names


def test_the_page_names_launch_files_and_arguments_that_exist() -> None:
    table = DOCS.split("| argument |")[1].split("\n\n")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.M))
    used = set(re.findall(r"(?<![\w.])(\w+):=", DOCS)) - {"NAME", "PARAMETER"}
    assert documented
    assert (documented | used) - declared_launch_arguments() == set()
    assert {
        name
        for name in re.findall(r"\w+\.launch\.py", DOCS)
        if not (ROOT / "launch" / name).is_file()
    } == set()


def test_the_page_names_topics_and_files_that_exist() -> None:
    tables = "\n".join(re.findall(r"^\|.*\|$", DOCS.split("## Topics")[1], re.M))
    topics = set(re.findall(r"`(/[a-z_]+(?:/[a-z_]+)+)`", tables))
    assert len(topics) > 8
    assert topics - system_topics() == set()
    files = set(re.findall(r"`((?:config|test|clkd_ros|launch|docs)/[\w/.]+\.\w+)`", DOCS))
    assert {name for name in files if not (ROOT / name).is_file()} == set()
