"""Ratchets of the house style; numbers here only ever go up (lengths: down)."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("clkd_core", "clkd_ros")

MAX_FILE_LINES = 400
READ_IN_ORDER = {"clkd_core/distill/train.py": 430}
"""The training loop may run long because it is read top to bottom."""
MAX_NODE_LINES = 150
MIN_DOCSTRING_FRAC = 1.0
MAX_MEAN_FUNCTION_LINES = 14.0

NO_ROOMS = {"utils", "common", "helpers", "misc", "util", "helper"}


def sources(*folders: str) -> list[Path]:
    """All Python files below the folders."""
    found = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def public_api(
    tree: ast.Module,
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Public functions and classes of a module, and public methods of its public classes."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield inner


def test_no_file_is_longer_than_the_limit() -> None:
    files = sources(*PACKAGES, "test")
    long = {name_of(file): len(file.read_text().splitlines()) for file in files}
    assert {
        name: lines
        for name, lines in long.items()
        if lines > READ_IN_ORDER.get(name, MAX_FILE_LINES)
    } == {}


def test_nodes_stay_thin() -> None:
    nodes = [file for file in sources("clkd_ros") if file.name.endswith("_node.py")]
    long = {name_of(file): len(file.read_text().splitlines()) for file in nodes}
    assert {name: lines for name, lines in long.items() if lines > MAX_NODE_LINES} == {}


def test_no_file_is_named_after_nothing() -> None:
    assert [name_of(file) for file in sources(*PACKAGES) if file.stem in NO_ROOMS] == []


def test_init_files_hold_a_docstring_and_nothing_else() -> None:
    full = []
    for file in sources(*PACKAGES):
        if file.name == "__init__.py" and name_of(file) != "clkd_ros/__init__.py":
            body = ast.parse(file.read_text()).body
            if len(body) != 1 or not ast.get_docstring(ast.parse(file.read_text())):
                full.append(name_of(file))
    assert full == []


def test_everything_public_has_a_docstring() -> None:
    total, bare = 0, []
    for file in sources(*PACKAGES):
        tree = ast.parse(file.read_text())
        total += 1
        if not ast.get_docstring(tree):
            bare.append(name_of(file))
        for node in public_api(tree):
            overrides = any("override" in ast.unparse(mark) for mark in node.decorator_list)
            total += 1
            if not ast.get_docstring(node) and not overrides and not is_trivial(node):
                bare.append(f"{name_of(file)}:{node.lineno} {node.name}")
    assert 1 - len(bare) / total >= MIN_DOCSTRING_FRAC, "\n".join(bare)


def is_trivial(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """torch calls it `forward`; the class above says what it computes."""
    return node.name == "forward"


def test_functions_stay_short_on_average() -> None:
    lengths = [
        (node.end_lineno or node.lineno) - node.lineno + 1 - docstring_lines(node)
        for file in sources(*PACKAGES)
        for node in definitions(ast.parse(file.read_text()))
        if not isinstance(node, ast.ClassDef)
    ]
    assert sum(lengths) / len(lengths) <= MAX_MEAN_FUNCTION_LINES


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node) is None:
        return 0
    return (first.end_lineno or first.lineno) - first.lineno + 1


def test_only_commands_print() -> None:
    printing = []
    for file in sources("clkd_core"):
        tree = ast.parse(file.read_text())
        is_command = any(isinstance(n, ast.FunctionDef) and n.name == "run" for n in tree.body)
        if is_command or file.name in ("cli.py", "__main__.py", "progress.py"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                printing.append(f"{name_of(file)}:{node.lineno}")
    assert printing == []


def test_nothing_from_outside_is_unpickled_or_evaluated() -> None:
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "yaml.unsafe_load"}
    used = [
        f"{name_of(file)}:{node.lineno} {ast.unparse(node.func)}"
        for file in sources(*PACKAGES)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in forbidden
        and not is_load_of_tensors_only(node)
    ]
    assert used == []


def is_load_of_tensors_only(call: ast.Call) -> bool:
    """The one form of ``torch.load`` that executes nothing, spelt out in the call itself."""
    keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
    return ast.unparse(call.func) == "torch.load" and keywords.get("weights_only") == "True"


def mirrors(stem: str, names: set[str]) -> bool:
    """`train_command` may test `train`, and `bench` both `bench_command` and `bench_models`."""
    return any(stem.startswith(name) or name.startswith(f"{stem}_") for name in names)


def test_every_test_file_mirrors_a_module_or_is_one_of_the_guards() -> None:
    guards = {"boundaries", "configs", "launch", "packaging", "readme", "style", "wheel"}
    modules = {file.stem for file in sources(*PACKAGES)} | {
        file.parent.name for file in sources(*PACKAGES)
    }
    strays = [
        name_of(file)
        for file in sources("test")
        if file.name.startswith("test_")
        and not mirrors(file.stem.removeprefix("test_"), modules | guards)
    ]
    assert strays == []
