"""What the system file says, and what a launch may choose."""

from pathlib import Path
from typing import Any

import pytest

from clkd_core.data.bags.topics import image_topic
from clkd_core.errors import ConfigError
from clkd_ros.system import (
    NodeSpec,
    ProcessSpec,
    default_system_file,
    load_system,
    parse_launch_arguments,
)


def load(*words: str) -> Any:
    return load_system(default_system_file(), parse_launch_arguments(words))


def test_arguments_reach_the_parameters_they_name() -> None:
    given = parse_launch_arguments(["checkpoint:=some/where", "planner.threads:=3"])
    nodes = {node.name: node for node in load_system(default_system_file(), given).nodes}
    assert set(nodes) == {"vlm", "planner"}
    assert nodes["vlm"].parameters["checkpoint"] == "some/where"
    assert nodes["planner"].parameters["checkpoint"] == "some/where"
    assert nodes["planner"].parameters["threads"] == 3
    scored = load_system(default_system_file(), {"evaluate": True})
    assert [node.name for node in scored.nodes] == ["vlm", "planner", "evaluator"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["checkpont:=x"], "did you mean 'checkpoint'"),
        (["nobody.threads:=1"], "nobody.threads"),
        (["checkpoint=x"], "name:=value"),
    ],
)
def test_unknown_launch_argument_is_refused(words: list[str], hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        load_system(default_system_file(), parse_launch_arguments(words))


def test_node_arguments_keep_types_through_yaml() -> None:
    from clkd_ros.embedded.arguments import parse_arguments

    parameters = {"a": 1e-5, "b": "1", "c": True, "d": {"e": [1, 2]}, "f": "", "g": 2.0}
    node = NodeSpec(
        name="n", module="m", executable="x", parameters=parameters, remappings={"~/a": "/b"}
    )
    spec = ProcessSpec(name="n", module="m", executable="x", nodes=(node,))
    parsed, rest = parse_arguments(spec.arguments())
    flat = {"a": 1e-5, "b": "1", "c": True, "d.e": [1, 2], "f": "", "g": 2.0}
    found = parsed.parameters_of("/n")
    assert found == flat
    assert [type(found[name]) for name in "abcg"] == [float, str, bool, float]
    assert parsed.node_name("other") == "n"
    assert parsed.remapped("~/a", "n", "/") == "/b"
    assert rest == []


def test_both_systems_share_a_process_unless_told_otherwise() -> None:
    assert [spec.name for spec in load("evaluate:=true").processes] == ["dual_system", "evaluator"]
    alone = load("evaluate:=true", "composed:=false").processes
    assert [spec.name for spec in alone] == ["vlm", "planner", "evaluator"]
    assert [spec.executable for spec in alone] == ["vlm_node", "planner_node", "evaluator_node"]
    assert [spec.respawn for spec in alone] == [True, True, False]


def test_rules_of_a_shared_process_reach_only_the_node_they_name() -> None:
    from clkd_ros.embedded.arguments import parse_arguments

    (spec,) = load("planner.threads:=2", "vlm.threads:=3").processes
    parsed, rest = parse_arguments(spec.arguments())
    assert rest == []
    assert parsed.parameters_of("/planner")["threads"] == 2
    assert parsed.parameters_of("/vlm")["threads"] == 3
    assert "fail_safe.stop_after_s" not in parsed.parameters_of("/vlm")
    assert parsed.remapped("~/output/path", "planner", "/") == "/planner/path"
    assert parsed.remapped("~/output/path", "vlm", "/") == "/vlm/output/path"


def test_topics_of_a_vehicle_take_the_place_of_ours_and_absent_cameras_are_not_waited_for(
    tmp_path: Path,
) -> None:
    mapping = tmp_path / "topics.yaml"
    mapping.write_text("images: {CAM_FRONT: /eye}\nodometry: /pose\n")
    for node in load(f"topics:={mapping}", "evaluate:=true").nodes:
        assert node.remappings["~/input/cam_front"] == "/eye"
        assert node.remappings["~/input/odometry"] == "/pose"
        assert node.remappings["~/input/route_command"] == "/route_command"
        assert image_topic("CAM_BACK") not in node.remappings.values()
        assert node.parameters["sync.cameras"] == ["CAM_FRONT"]


def test_raw_cameras_are_listened_to_where_they_send() -> None:
    for node in load("transport:=raw", "evaluate:=true").nodes:
        assert node.remappings["~/input/cam_front"] == "/cam_front/image_raw"


def test_word_that_is_no_yaml_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"'checkpoint:=\[a', expected a YAML value"):
        load("checkpoint:=[a")


def test_word_that_is_no_switch_or_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="composed is 'maybe', expected true or false"):
        load("composed:=maybe")
    with pytest.raises(ConfigError, match="nowhere"):
        load(f"topics:={tmp_path / 'nowhere.yaml'}")


def test_argument_without_a_value_leaves_the_default_of_the_node() -> None:
    assert load("checkpoint:=") == load()
    assert all("checkpoint" not in node.parameters for node in load().nodes)
