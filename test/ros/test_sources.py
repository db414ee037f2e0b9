"""clkd_ros.sources: a hash changes with the code it is made of and with no other."""

from pathlib import Path

import pytest

from clkd_ros.sources import hash_sources


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """`a` imports `b` late, `b` imports `pkg.c` from its package, `other` stands alone."""
    files = {
        "a": "def f():\n    import clkd_core.b\n",
        "b": "from clkd_core.pkg import c\n",
        "pkg/__init__": "",
        "pkg/c": "import json, clkd_core.a\n",
        "other": "",
    }
    for name, text in files.items():
        file = tmp_path / "clkd_core" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "module", "differs"),
    [
        ("a", "clkd_core.a", True),
        ("b", "clkd_core.a", True),
        ("pkg/c", "clkd_core.a", True),
        ("other", "clkd_core.a", False),
        ("other", None, True),
        ("other", "clkd_core.other", True),
        ("a", "clkd_core.other", False),
    ],
)
def test_the_hash_follows_imports(
    packages: Path, changed: str, module: str | None, differs: bool
) -> None:
    before = hash_sources(packages, module)
    with (packages / "clkd_core" / f"{changed}.py").open("a") as file:
        file.write("# changed\n")
    assert (hash_sources(packages, module) != before) == differs


def test_the_worlds_code_does_not_hang_on_the_nodes(root: Path) -> None:
    world = hash_sources(root, "clkd_core.data.world.command")
    assert world != hash_sources(root, "clkd_core.distill.__main__")
    assert world != hash_sources(root)
