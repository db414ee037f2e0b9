"""clkd_core.cli: verbs are found, failures are one line, `--help` loads nothing heavy."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from clkd_core import cli

VERB = '''
"""Say a word.

More about it.
"""
import sys, time
from clkd_core.errors import DataError

def add_arguments(parser):
    parser.add_argument("word")

def run(args):
    if args.word == "expected":
        raise DataError("the bag x.mcap is truncated")
    if args.word == "ctrl-c":
        raise KeyboardInterrupt
    if args.word == "wait":
        print("waiting", flush=True)
        time.sleep(60)
    print("said", args.verb, args.word)
    return 1 if args.word == "no" else 0
'''


@pytest.fixture
def verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Register `say`, `bag` and `bag play`, all served by one module."""
    package = tmp_path / "some_verbs"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "say.py").write_text(VERB)
    (package / "lacks.py").write_text('"""Need more."""\nimport not_there_at_all\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    table = dict.fromkeys(("say", "bag", "bag.play"), "some_verbs.say")
    table |= {"lacks": "some_verbs.lacks", "absent": "absent_package.verb"}
    monkeypatch.setattr(cli, "find_entries", lambda group: table)
    return tmp_path


@pytest.mark.usefixtures("verbs")
@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (["say", "hello"], 0, "said say hello\n", ""),
        (["say", "no"], 1, "said say no\n", ""),
        (["bag", "from-world"], 0, "said bag from-world\n", ""),
        (["bag", "play", "x"], 0, "said bag.play x\n", ""),
        (["say", "expected"], 2, "", "clkd: error: the bag x.mcap is truncated\n"),
        (["say", "ctrl-c"], 130, "", ""),
        (
            ["lacks"],
            2,
            "",
            "clkd: error: some_verbs.lacks needs the Python module 'not_there_at_all',"
            " which is not installed\n",
        ),
    ],
)
def test_a_verb_decides_the_exit_code(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, out: str, err: str
) -> None:
    assert cli.main(words) == code
    assert capsys.readouterr() == (out, err)


@pytest.mark.usefixtures("verbs")
def test_help_names_every_verb_with_its_first_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    out = capsys.readouterr().out
    assert left.value.code == 0
    for line in ("say       Say a word.", "bag play  Say a word.", "absent    (not installed)"):
        assert line in out


@pytest.mark.usefixtures("verbs")
def test_help_of_a_verb_names_its_nested_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["bag", "--help"])
    assert "bag play  Say a word." in capsys.readouterr().out


@pytest.mark.usefixtures("verbs")
def test_an_unknown_verb_is_refused_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["sya"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "clkd: error: unknown verb 'sya', did you mean 'say'?\n"


def test_no_verb_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "clkd VERB --help" in capsys.readouterr().err


def test_the_checkouts_table_holds_the_verbs_that_stay() -> None:
    entries = cli.find_entries("clkd.verbs")
    assert {"world", "bag", "replay", "report", "bench", "bag.play", "demo"} <= set(entries)
    assert "replay" in cli.find_entries("clkd.live")


def test_the_table_is_found_where_colcon_installs_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = tmp_path / "clkd_core" / "share"
    share.mkdir(parents=True)
    (share / "pyproject.toml").write_text((root / "pyproject.toml").read_text())
    monkeypatch.setattr(cli, "__file__", str(share.parent / "cli.py"))
    assert "bag.play" in cli.find_entries("clkd.verbs")
    assert (
        "pyproject.toml DESTINATION ${PYTHON_INSTALL_DIR}/clkd_core/share"
        in (root / "CMakeLists.txt").read_text()
    )


def test_every_registered_verb_can_be_asked_for_help(root: Path) -> None:
    missing = [
        name
        for name, target in cli.find_entries("clkd.verbs").items()
        if not hasattr(cli.load_entry(target), "run")
    ]
    assert missing == []


def test_help_of_all_verbs_loads_neither_torch_nor_numpy(root: Path) -> None:
    code = """
        import sys
        from clkd_core import cli
        try:
            cli.main(["--help"])
        except SystemExit:
            print(sorted({"torch", "numpy", "rosbags", "clkd_ros"} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=root, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_verb_quietly_with_130(
    verbs: Path, root: Path, how: signal.Signals
) -> None:
    code = f"""
        import sys
        sys.path[:0] = [{str(root)!r}, {str(verbs)!r}]
        from clkd_core import cli
        cli.find_entries = lambda group: {{"say": "some_verbs.say"}}
        sys.exit(cli.main(["say", "wait"]))
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    start_s = time.monotonic()
    child.send_signal(how)
    _, err = child.communicate(timeout=10)
    assert (child.returncode, err) == (130, "")
    assert time.monotonic() - start_s < 3
