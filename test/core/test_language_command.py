"""clkd_core.data.language.command: the words of ``clkd data merge`` and what they leave."""

import json
from pathlib import Path

import pytest
from annotation_files import drivelm_content, write_coda, write_drivelm

from clkd_core.cli import main


def run(*words: object) -> int:
    return main(["data", "merge", *map(str, words)])


def test_command_says_what_it_wrote_and_what_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = drivelm_content()
    content["scene1"]["key_frames"]["frame2"]["QA"]["planning"][0]["A"] = None
    path = write_drivelm(tmp_path / "drivelm", content)
    coda = write_coda(tmp_path / "coda")
    words = ("--drivelm", path, "--coda-lm", coda, "--out", tmp_path / "set")
    assert run(*words, "--val", "scene1", "--version", "v2") == 0
    said = capsys.readouterr().out
    assert "drivelm: left out 1: answer is missing; first" in said
    assert "scene scene1, keyframe frame2, planning 1" in said
    assert "drivelm: object tags: 4 mentioned, 0 outside, 0 malformed" in said
    assert "drivelm, train: 2 keyframes, 10 questions (behavior 2, perception 4," in said
    assert "coda_lm, val: 2 keyframes, 3 questions (general 1, region 1, suggestion 1)" in said
    assert "regular per corner, train: 3.33 by questions, 1.00 by keyframes" in said
    assert said.endswith(f"wrote {tmp_path / 'set' / 'v2'}: 8 records\n")


def test_every_word_reaches_the_set(tmp_path: Path) -> None:
    write_drivelm(tmp_path / "drivelm")
    write_coda(tmp_path / "coda")
    (tmp_path / "drivelm" / "nuscenes").rename(tmp_path / "nuscenes")
    next((tmp_path / "nuscenes").rglob("*.jpg")).unlink()
    assert (
        run(
            "--drivelm", tmp_path / "drivelm", "--coda-lm", tmp_path / "coda" / "CODA-LM",
            "--images", tmp_path, "--out", tmp_path / "set", "--skip-missing", "--seed", 5,
            "--val-frac", 0.4, "--regular-per-corner", 2, "--questions-per-keyframe", 3,
        )
        == 0
    )  # fmt: skip
    manifest = json.loads((tmp_path / "set" / "v1.0" / "manifest.json").read_text())
    assert manifest["rules"] == {
        "seed": 5,
        "val_frac": 0.4,
        "val_scenes": None,
        "regular_per_corner": 2.0,
        "questions_per_keyframe": 3,
        "skip_missing": True,
        "nuscenes": None,
    }


def test_set_without_corner_cases_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_drivelm(tmp_path)
    assert run("--drivelm", tmp_path, "--out", tmp_path / "set") == 0
    assert "regular per corner, val: no corner case by questions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--drivelm", "nowhere.json"], "nowhere.json: cannot be read as JSON"),
        (["--coda-lm", "nowhere"], "nowhere has no *.json"),
        (["--nuscenes", "root"], "--nuscenes is 'root', expected ROOT:VERSION"),
        ([], "neither DriveLM nor CODA-LM is given"),
    ],
)
def test_what_cannot_be_merged_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert run(*words, "--out", tmp_path / "set") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
