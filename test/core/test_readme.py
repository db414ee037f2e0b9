"""README.md and its pages: every command runs, cheaply in `make test`, as is in `make readme`.

A ``bash`` block is preceded by one comment that says how it is checked:

- ``<!-- check -->``: run it; `make test` first makes it cheap by the table ``CHEAP``;
- ``<!-- needs: PROGRAM -->``: only where PROGRAM is found, and the skip says so;
- ``<!-- check elsewhere: WHY -->``: not run here; WHY names what checks it.

Blocks run in the order of the pages, in the checkout.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = (
    README,
    *(ROOT / "docs" / f"{name}.md" for name in ("data", "embedded", "engine", "ros2")),
)
WORD_FOR_WORD = os.environ.get("CLKD_README") == "full"

CHEAP = {
    "make demo": "make demo SIZE=tiny",
    "runs/demo/": "runs/demo-tiny/",
    "bench latency": "bench latency --frames 20",
}
"""Text of the page -> what `make test` runs instead."""

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    mark: str
    """The comment before it, empty if none."""
    language: str
    body: str
    line: int


def read_blocks(text: str, page: str) -> list[Block]:
    """All fenced blocks in order."""
    return [
        Block(
            page=page,
            mark=found["mark"] or "",
            language=found["language"],
            body=found["body"],
            line=text.count("\n", 0, found.start("body")),
        )
        for found in _BLOCK.finditer(text)
    ]


COMMANDS = [
    block
    for page in PAGES
    for block in read_blocks(page.read_text(), page.name)
    if block.language == "bash"
]


def commands_of(block: Block) -> str:
    """What to run for a block, or a skip that says what is missing."""
    kind, _, argument = block.mark.partition(": ")
    if kind == "needs":
        if shutil.which(argument) is None:
            pytest.skip(f"{argument} is missing")
    elif kind == "check elsewhere":
        pytest.skip(argument)
    else:
        assert kind == "check", f"{block.page}:{block.line}: a bash block without its mark"
    return block.body if WORD_FOR_WORD else make_cheap(block.body)


def make_cheap(commands: str) -> str:
    """The same commands at the smallest size, with whichever Python runs the tests."""
    for text, cheap in CHEAP.items():
        commands = commands.replace(text, cheap)
    programs = {"clkd": f"{sys.executable} -m clkd_core.cli", "python": sys.executable}
    return re.sub(r"\.venv/bin/(clkd|python)", lambda found: programs[found[1]], commands)


def run_shell(commands: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run lines as a user would; the whole process group ends with the test."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["PYTHONPATH"] = str(ROOT)
    shell = subprocess.Popen(
        ["bash", "-e", "-c", commands],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=timeout_s)
    except BaseException:
        os.killpg(shell.pid, signal.SIGINT)
        raise
    return subprocess.CompletedProcess(commands, shell.returncode, output)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: f"{block.page}:{block.line}")
def test_every_command_runs(block: Block) -> None:
    commands = commands_of(block)
    if "make " in commands and not (ROOT / ".venv" / ".ready").exists():
        pytest.skip("no .venv made by make; `make test` and `make readme` have one")
    if "make demo" in commands and not WORD_FOR_WORD:
        shutil.rmtree(ROOT / "runs" / "demo-tiny", ignore_errors=True)  # nothing kept from before
    if "../shared/data" in commands and not (ROOT.parent / "shared" / "data").is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    done = run_shell(commands, timeout_s=1100)
    print(done.stdout)
    assert done.returncode == 0, f"{commands}\n{done.stdout[-3000:]}"


def test_every_command_block_says_how_it_is_checked() -> None:
    marks = ("check", "needs", "check elsewhere")
    bare = [
        (block.page, block.line)
        for block in COMMANDS
        if block.mark.partition(": ")[0] not in marks
    ]
    assert bare == []
    assert {block.page for block in COMMANDS} == {page.name for page in PAGES}


def test_the_first_forty_lines_say_what_the_house_style_asks_for() -> None:
    head = "\n".join(README.read_text().splitlines()[:40])
    for what in ("![", "| ", "make demo", "ros2 launch", "cannot"):
        assert what in head, f"{what!r} is not in the first 40 lines"


def test_links_and_pictures_of_the_page_exist() -> None:
    for page in PAGES:
        targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
        assert [target for target in targets if not (page.parent / target).exists()] == []


def test_blocks_are_read_with_their_marks() -> None:
    text = "x\n<!-- needs: a -->\n```bash\nmake b\nmake c\n```\n```text\nno\n```\n"
    assert [(b.mark, b.language, b.body) for b in read_blocks(text, "page")] == [
        ("needs: a", "bash", "make b\nmake c\n"),
        ("", "text", "no\n"),
    ]


def test_cheap_commands_are_the_same_ones_at_the_smallest_size() -> None:
    assert make_cheap("make demo\n") == "make demo SIZE=tiny\n"
    replay = make_cheap(".venv/bin/clkd replay x --checkpoint runs/demo/student")
    assert (
        replay == f"{sys.executable} -m clkd_core.cli replay x --checkpoint runs/demo-tiny/student"
    )
