"""clkd_core.config: what a file may hold, and that every problem is named at once."""

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clkd_core.config import config_from_dict, config_to_dict, load_config, save_config
from clkd_core.errors import ConfigError


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Release:
    alpha0: float = 1.0
    gamma: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}, expected 0 < gamma <= 1")


@dataclass(frozen=True, kw_only=True)
class Run:
    out: Path
    steps: int = 10
    lr: float = 1e-4
    name: str = "run"
    fast: bool = False
    color: Color = Color.RED
    kind: Literal["dense", "sparse"] = "dense"
    size_hw: tuple[int, int] = (72, 128)
    keep: tuple[int, ...] = ()
    limits: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    release: Release = field(default_factory=Release)
    teacher: Release | None = None


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def problem(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, write(tmp_path, text), overrides)
    return str(caught.value).replace(str(tmp_path) + "/", "")


def test_load_config_reads_every_kind_of_field(tmp_path: Path) -> None:
    text = """
out: runs/a
steps: 3
lr: 1e-3
name: b
fast: true
color: BLUE
kind: sparse
size_hw: [36, 64]
keep: [0, 2, 4]
limits: {a: 1, b: 2.5}
seed: 7
release: {gamma: 0.5}
teacher: {alpha0: 0}
"""
    assert load_config(Run, write(tmp_path, text)) == Run(
        out=Path("runs/a"),
        steps=3,
        lr=1e-3,
        name="b",
        fast=True,
        color=Color.BLUE,
        kind="sparse",
        size_hw=(36, 64),
        keep=(0, 2, 4),
        limits={"a": 1.0, "b": 2.5},
        seed=7,
        release=Release(gamma=0.5),
        teacher=Release(alpha0=0.0),
    )


def test_saved_config_loads_equal(tmp_path: Path) -> None:
    config = Run(out=tmp_path, lr=1e-7, color=Color.BLUE, keep=(1,), teacher=Release(gamma=0.5))
    save_config(config, tmp_path / "deep" / "saved.yaml")
    assert load_config(Run, tmp_path / "deep" / "saved.yaml") == config
    assert config_from_dict(Run, config_to_dict(config), source="x") == config


def test_overrides_win_over_the_file_and_reach_into_sections(tmp_path: Path) -> None:
    path = write(tmp_path, "out: a\nsteps: 3\nrelease: {alpha0: 2}")
    config = load_config(
        Run, path, ["steps=4", "release.gamma=0.9", "seed=null", "size_hw=[1, 2]", "lr=1e-5"]
    )
    assert (config.steps, config.seed, config.size_hw, config.lr) == (4, None, (1, 2), 1e-5)
    assert config.release == Release(alpha0=2.0, gamma=0.9)


def test_override_of_an_optional_section_builds_it(tmp_path: Path) -> None:
    assert load_config(Run, write(tmp_path, "out: a"), ["teacher.gamma=0.5"]).teacher == Release(
        gamma=0.5
    )


def test_all_problems_come_in_one_error(tmp_path: Path) -> None:
    text = "steps: many\nrelease: {gama: 1}\ncolor: GREEN\nsize_hw: [1, 2, 3]\nkeep: [1, x]"
    assert problem(tmp_path, text, "fast=2", "nonsense").splitlines() == [
        "command line: 'nonsense', expected key=value",
        "run.yaml: missing key 'out', expected a path",
        "run.yaml: 'steps' is 'many', expected an integer",
        "command line: 'fast' is 2, expected true or false",
        "run.yaml: 'color' is 'GREEN', expected one of RED, BLUE",
        "run.yaml: 'size_hw' has 3 values, expected a list of 2: an integer, an integer",
        "run.yaml: 'keep[1]' is 'x', expected an integer",
        "run.yaml: unknown key 'release.gama', did you mean 'release.gamma'?",
    ]


@pytest.mark.parametrize(
    ("text", "override", "expected"),
    [
        ("out: a\ngamma: 1", "", "run.yaml: unknown key 'gamma', did you mean 'release.gamma'?"),
        ("out: a\nzzzzzzz: 1", "", "run.yaml: unknown key 'zzzzzzz'"),
        ("out: a", "step=1", "command line: unknown key 'step', did you mean 'steps'?"),
        (
            "out: a\nrelease: {gamma: 2}",
            "",
            "run.yaml: 'release': gamma is 2.0, expected 0 < gamma <= 1",
        ),
        (
            "out: a",
            "release.gamma=2",
            "run.yaml with the command line: 'release': gamma is 2.0, expected 0 < gamma <= 1",
        ),
        ("out: a\nlr: .nan", "", "run.yaml: 'lr' is nan, expected a number"),
        ("out: a\nsteps: true", "", "run.yaml: 'steps' is true, expected an integer"),
        ("out: a\nsteps: 1.0", "", "run.yaml: 'steps' is 1.0, expected an integer"),
        ("out: a\nseed: x", "", "run.yaml: 'seed' is 'x', expected an integer or null"),
        ("out: a\nname: null", "", "run.yaml: 'name' is null, expected text"),
        (
            "out: a\nkind: thin",
            "",
            "run.yaml: 'kind' is 'thin', expected one of 'dense', 'sparse'",
        ),
        (
            "out: a\nrelease: 3",
            "",
            "run.yaml: 'release' is 3, expected a section of keys with values",
        ),
        ("out: a\nteacher: {gama: 1}", "", "did you mean 'teacher.gamma'?"),
        ("out: a\nsteps: 1\nsteps: 2", "", "run.yaml: not YAML: key 'steps' is given twice"),
        ("[1, 2]", "", "run.yaml: holds [1, 2], expected keys with values"),
        ("a: [", "", "run.yaml: not YAML: "),
        ("out: !!python/object/apply:os.system ['true']", "", "run.yaml: not YAML: "),
        ("out: " + "[" * 5000, "", "run.yaml: not YAML"),
        ("out: a", "lr=[", "command line: the value of 'lr=[' is not YAML"),
    ],
)
def test_a_problem_names_file_key_what_came_and_what_was_wanted(
    tmp_path: Path, text: str, override: str, expected: str
) -> None:
    message = problem(tmp_path, text, *([override] if override else []))
    assert expected in message
    assert len(message.splitlines()) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file, expected a YAML file"):
        load_config(Run, tmp_path / "none.yaml")


def test_an_empty_file_means_all_defaults(tmp_path: Path) -> None:
    assert load_config(Release, write(tmp_path, "# nothing\n")) == Release()


@given(st.text(max_size=80))
def test_any_text_loads_or_is_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_config(Release, path)
    except ConfigError as err:
        assert "any.yaml" in str(err)


@dataclass(frozen=True)
class Round:
    kind: Literal["round"] = "round"
    radius: int = 1


@dataclass(frozen=True)
class Square:
    kind: Literal["square"] = "square"
    side: int = 1
    colour: str = "red"


@dataclass(frozen=True)
class Drawing:
    shape: Round | Square = Round()
    pens: tuple[Round | Square, ...] = ()


def test_section_that_names_its_kind_is_read_as_that_kind(tmp_path: Path) -> None:
    def read(text: str) -> Drawing:
        (tmp_path / "d.yaml").write_text(text)
        return load_config(Drawing, tmp_path / "d.yaml")

    assert read("shape: {kind: square, side: 3}").shape == Square(side=3)
    assert read("shape: {radius: 3}").shape == Round(radius=3)
    assert read("pens: [{kind: square}, {kind: round}]").pens == (Square(), Round())
    with pytest.raises(
        ConfigError, match=r"'shape\.kind' is 'oval', expected one of 'round', 'sq"
    ):
        read("shape: {kind: oval}")
    with pytest.raises(ConfigError, match=r"unknown key 'shape\.radius'$"):
        read("shape: {kind: square, radius: 3}")


def test_file_builds_on_another_one_section_by_section(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("shape: {kind: square, side: 3, colour: blue}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nshape: {colour: green}\n")
    (tmp_path / "c.yaml").write_text("base: b.yaml\nshape: {kind: square, side: 5}\n")
    (tmp_path / "d.yaml").write_text("base: c.yaml\nshape: {kind: round}\n")
    shapes = [load_config(Drawing, tmp_path / f"{name}.yaml").shape for name in "abcd"]
    assert shapes == [
        Square(side=3, colour="blue"),
        Square(side=3, colour="green"),
        Square(side=5, colour="green"),
        Round(),
    ]
    over = load_config(Drawing, tmp_path / "c.yaml", ["shape.side=7"])
    assert over.shape == Square(side=7, colour="green")


def test_naming_the_kind_that_is_the_default_anyway_keeps_what_the_base_says(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.yaml").write_text("shape: {radius: 3}\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\nshape: {kind: round}\n")
    assert load_config(Drawing, tmp_path / "b.yaml").shape == Round(radius=3)


def test_bases_that_go_in_a_circle_or_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match="bases go in a circle"):
        load_config(Drawing, tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("base: nothing.yaml\n")
    with pytest.raises(ConfigError, match=r"nothing\.yaml: no such file"):
        load_config(Drawing, tmp_path / "c.yaml")
    (tmp_path / "d.yaml").write_text("base: [a]\n")
    with pytest.raises(ConfigError, match=r"'base' is \['a'\], expected a path"):
        load_config(Drawing, tmp_path / "d.yaml")
