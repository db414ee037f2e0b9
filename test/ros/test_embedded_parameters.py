"""Parameters, names and what the command line and the environment say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedded_graph import DOMAINS, EmbeddedGraph
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cyclonedds", reason="the embedded middleware needs cyclonedds")

from clkd_core.errors import ConfigError
from clkd_ros.embedded.arguments import expand_name, parse_arguments
from clkd_ros.embedded.parameter_files import (
    load_parameter_file,
    name_matches,
    parse_parameter_value,
)
from clkd_ros.embedded.parameters import (
    FloatingPointRange,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    Parameter,
    ParameterDescriptor,
    ParameterNotDeclaredException,
    SetParametersResult,
)


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedGraph]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(DOMAINS) % 100))
    made = EmbeddedGraph()
    yield made
    made.end()


def test_private_names_are_remapped_and_resolved(graph: EmbeddedGraph) -> None:
    graph.start("-r", "~/out:=/loud", "-r", "tester:chat:=talk", "-r", "__ns:=/car")
    node = graph.node()
    assert node.get_fully_qualified_name() == "/car/tester"
    assert node.resolve_topic_name("~/out") == "/loud"
    assert node.resolve_topic_name("chat") == "/car/talk"
    assert node.resolve_topic_name("~/in") == "/car/tester/in"
    assert node.resolve_topic_name("/abs") == "/abs"


@pytest.mark.parametrize("name", ["", "/", "a//b", "/a/", "~", "/a b", "/ä", "/1a"])
def test_topic_name_that_ros_does_not_allow_is_refused(name: str) -> None:
    if name == "~":
        assert expand_name(name, "node", "/") == "/node"
        return
    with pytest.raises(ConfigError, match="topic name"):
        expand_name(name, "node", "/")


def test_parameters_come_from_file_and_command_line_in_this_order(
    graph: EmbeddedGraph, tmp_path: Path
) -> None:
    file = tmp_path / "nodes.param.yaml"
    file.write_text(
        "/**:\n  ros__parameters: {rate_hz: 5.0, name: all}\n"
        "tester:\n  ros__parameters:\n    name: mine\n    sync: {tolerance_ms: 40}\n"
        "other:\n  ros__parameters: {name: foreign}\n"
    )
    graph.start("--params-file", str(file), "-p", "rate_hz:=7.5")
    node = graph.node()
    assert node.declare_parameter("rate_hz", 1.0).value == 7.5
    assert node.declare_parameter("name", "default").value == "mine"
    assert node.declare_parameter("sync.tolerance_ms", 10).value == 40
    assert node.declare_parameter("untouched", [1, 2]).value == [1, 2]


def test_override_of_another_type_or_out_of_range_is_refused(graph: EmbeddedGraph) -> None:
    graph.start("-p", "rate_hz:=5", "-p", "share:=1.5")
    node = graph.node()
    with pytest.raises(InvalidParameterTypeException, match="'rate_hz' is 5"):
        node.declare_parameter("rate_hz", 1.0)
    bounds = [FloatingPointRange(from_value=0.0, to_value=1.0, step=0.0)]
    with pytest.raises(InvalidParameterValueException, match=r"expected 0\.0\.\.1\.0"):
        node.declare_parameter("share", 0.5, ParameterDescriptor(floating_point_range=bounds))


def test_setting_a_parameter_asks_type_range_and_callback(graph: EmbeddedGraph) -> None:
    graph.start()
    node = graph.node()
    bounds = [FloatingPointRange(from_value=0.0, to_value=1.0, step=0.0)]
    node.declare_parameter("share", 0.5, ParameterDescriptor(floating_point_range=bounds))
    node.declare_parameter("fixed", 1, ParameterDescriptor(read_only=True))

    def judge(changed: list[Parameter]) -> Any:
        fine = all(p.value != 0.25 for p in changed)
        return SetParametersResult(successful=fine, reason="" if fine else "not a quarter")

    node.add_on_set_parameters_callback(judge)

    def outcome(name: str, value: Any) -> tuple[bool, str]:
        result = node.set_parameters([Parameter(name, value=value)])[0]
        return result.successful, result.reason

    assert outcome("share", 0.75) == (True, "")
    assert not outcome("share", 1.25)[0]
    assert not outcome("share", "half")[0]
    assert outcome("share", 0.25) == (False, "not a quarter")
    assert not outcome("fixed", 2)[0]
    assert node.get_parameter("share").value == 0.75
    with pytest.raises(ParameterNotDeclaredException, match="unknown"):
        outcome("unknown", 1)


def test_malformed_ros_arguments_are_refused(tmp_path: Path) -> None:
    for words in (["-p", "rate"], ["-r", "a"], ["--nonsense", "x"], ["-p"]):
        with pytest.raises(ConfigError):
            parse_arguments(["--ros-args", *words])
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        parse_arguments(["--ros-args", "--params-file", str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(
    ("pattern", "names", "others"),
    [
        ("/**", ["/a", "/a/b/c"], []),
        ("/*", ["/a"], ["/a/b"]),
        ("/car/*", ["/car/a"], ["/car", "/car/a/b", "/bus/a"]),
        ("/car/**", ["/car", "/car/a/b"], ["/carriage"]),
        ("/**/eyes", ["/eyes", "/a/b/eyes"], ["/eyes/a"]),
        ("eyes", ["/eyes"], ["/car/eyes", "/eyes2"]),
        ("car/eyes", ["/car/eyes"], ["/eyes"]),
        ("/ey.s", ["/ey.s"], ["/eyes"]),
    ],
)
def test_patterns_match_by_levels(pattern: str, names: list[str], others: list[str]) -> None:
    assert [name_matches(pattern, name) for name in names] == [True] * len(names)
    assert [name_matches(pattern, name) for name in others] == [False] * len(others)


def test_file_errors_name_file_and_place(tmp_path: Path) -> None:
    for text, place in (
        ("tester: {ros__parameters: {sync: {rate: [1, a]}}}", "'sync.rate'"),
        ("tester: {ros__parameters: {rate: }}", "'rate'"),
        ("car: {tester: {rate: 1}}", "'rate'"),
        ("car: {tester: {ros__parameters: [1]}}", "'car/tester'"),
        ("? [a]\n: 1", "line 1"),
        ("a: &x 1\nb: *x", "alias"),
        ("a: " * 500, "no YAML"),
        ("[" * 5000, "no YAML"),
        ("a: {" * 40 + "ros__parameters: {b: 1}" + "}" * 40, "deep"),
        ("\x00", "no YAML"),
    ):
        (tmp_path / "nodes.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"nodes\.yaml") as caught:
            load_parameter_file(tmp_path / "nodes.yaml")
        assert place in str(caught.value)
    (tmp_path / "nodes.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"nodes\.yaml cannot be read"):
        load_parameter_file(tmp_path / "nodes.yaml")


def test_nothing_is_built_from_tags() -> None:
    assert parse_parameter_value("!!python/object/apply:os.getcwd []") is None
    assert parse_parameter_value("!!python/name:os.system x") == "x"


@given(st.text(max_size=60) | st.text("0123456789.eExX+-_[]{},:'\"ainf# \n", max_size=20))
def test_any_value_is_read_or_refused(text: str) -> None:
    try:
        value = parse_parameter_value(text)
    except ConfigError:
        return
    kinds = {type(item) for item in value} if isinstance(value, list) else {type(value)}
    assert len(kinds) == 1 and kinds <= {bool, int, float, str, type(None)}


_KEYS = st.sampled_from(["ros__parameters", "tester", "/**", "a.b", "1", "[", "*x", "&x"])
_LINES = st.builds(
    lambda indent, key, value: f"{' ' * indent}{key}: {value}", st.integers(0, 8), _KEYS, _KEYS
)


@given(st.lists(_LINES, max_size=8).map("\n".join) | st.text(max_size=60))
def test_any_file_is_read_or_refused(tmp_path_factory: Any, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        sections = load_parameter_file(path)
    except ConfigError:
        return
    assert all(pattern and isinstance(values, dict) for pattern, values in sections)


_WORDS = st.sampled_from(
    ["--ros-args", "--", "-r", "-p", "--log-level", "--params-file", "a:=b", "n:a:=1", ":", "x:="]
)


@given(st.lists(_WORDS | st.text(max_size=10), max_size=10))
def test_any_command_line_is_read_or_refused(words: list[str]) -> None:
    try:
        parsed, rest = parse_arguments(words)
    except ConfigError:
        return
    assert set(rest) <= set(words)
    assert parsed.node_name("tester")
