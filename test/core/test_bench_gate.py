"""clkd_core.runtime.bench.gate: worse than the file is 1, another device is an error."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from clkd_core.errors import ConfigError, DataError
from clkd_core.runtime.bench import gate
from clkd_core.runtime.bench.contenders.line_up import OURS
from clkd_core.runtime.bench.gate import (
    BLOCK_FRAMES,
    REFERENCE,
    Measured,
    is_worse,
    read_baseline,
    summarize,
)


def measured(ratio: float = 0.25, **changes: object) -> Measured:
    values: dict[str, object] = {
        "device": "this device",
        "threads": 2,
        "reference": REFERENCE,
        "frames": 600,
        "ratio": ratio,
        "ratio_spread": 0.01,
        "p50_ms": 25.0,
        "reference_p50_ms": 100.0,
    }
    return Measured(**{**values, **changes})  # type: ignore[arg-type]


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    gate.add_arguments(parser)
    return parser.parse_args(list(words))


@pytest.fixture
def run_as(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run on this device that measures what ``found.json`` says; gives the baseline's place."""
    monkeypatch.setattr(gate, "find_device", lambda setting: ("cpu", "this device"))
    monkeypatch.setattr(
        gate, "measure", lambda *_: Measured(**json.loads((tmp_path / "found.json").read_text()))
    )
    return tmp_path / "baseline.json"


def let_measure(place: Path, found: Measured) -> None:
    (place.parent / "found.json").write_text(json.dumps(asdict(found)))


def test_ratio_is_the_median_of_blocks_and_a_storm_in_few_of_them_is_not_seen() -> None:
    rng = np.random.default_rng(1)
    frames = 12 * BLOCK_FRAMES + 7
    ours, other = rng.normal(25, 1, frames), rng.normal(100, 4, frames)
    calm = summarize({OURS: ours, REFERENCE: other}, device_words="d", threads=2)
    slow = sorted(
        np.median(ours[at : at + BLOCK_FRAMES]) / np.median(other[at : at + BLOCK_FRAMES])
        for at in range(0, 12 * BLOCK_FRAMES, BLOCK_FRAMES)
    )
    assert calm.ratio == pytest.approx((slow[5] + slow[6]) / 2)
    ours[: 5 * BLOCK_FRAMES] *= 3  # a neighbour that only ours meets
    other[5 * BLOCK_FRAMES : 9 * BLOCK_FRAMES] *= 2
    ours[5 * BLOCK_FRAMES : 9 * BLOCK_FRAMES] *= 2  # and one that both meet
    stormy = summarize({OURS: ours, REFERENCE: other}, device_words="d", threads=2)
    assert stormy.ratio == pytest.approx(calm.ratio, rel=0.03)
    assert stormy.ratio_spread > 0.5 > 0.05 > calm.ratio_spread


def test_worse_begins_beyond_the_tolerance() -> None:
    assert not is_worse(measured(0.262), measured(0.25), 0.05)
    assert is_worse(measured(0.263), measured(0.25), 0.05)
    assert not is_worse(measured(0.1), measured(0.25), 0.0)


def test_gate_writes_a_file_and_holds_later_runs_against_it(
    run_as: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    let_measure(run_as, measured(0.25))
    assert gate.run(arguments(str(run_as), "--write")) == 0
    assert read_baseline(run_as) == measured(0.25)
    made = json.loads(run_as.read_text())["made"]
    assert made["device"] == "this device" and made["versions"]["torch"] and made["created"]
    capsys.readouterr()
    for ratio, code, words in (
        (0.26, 0, "within 5%"),
        (0.27, 1, "worse by more than 5% of 0.2500"),
    ):
        let_measure(run_as, measured(ratio))
        assert gate.run(arguments(str(run_as))) == code
        printed = capsys.readouterr().out
        assert words in printed and f"{ratio:.4f}" in printed and printed.count("\n") == 1
    let_measure(run_as, measured(0.27))
    assert gate.run(arguments(str(run_as), "--tolerance", "0.1")) == 0


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        (measured(device="another device"), "is of 'another device', this is 'this device'"),
        (measured(threads=16), "is of 16 threads, this run of 2"),
    ],
)
def test_file_of_another_device_or_thread_count_is_refused_with_the_way_out(
    run_as: Path, baseline: Measured, said: str
) -> None:
    let_measure(run_as, measured())
    run_as.write_text(json.dumps({"format_version": 1, **asdict(baseline)}))
    with pytest.raises(ConfigError, match=said) as found:
        gate.run(arguments(str(run_as)))
    assert f"clkd bench gate {run_as} --write" in str(found.value)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "nothing",
        "[]",
        "{}",
        json.dumps({"format_version": 9, **asdict(measured())}),
        json.dumps({"format_version": 1, **asdict(measured(reference="somebody"))}),
        json.dumps({"format_version": 1, **asdict(measured(0.0))}),
    ],
)
def test_no_baseline_says_how_to_make_one(run_as: Path, text: str | None) -> None:
    if text is not None:
        run_as.write_text(text)
    with pytest.raises(DataError, match="--write"):
        gate.run(arguments(str(run_as)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--frames", "10"), "frames is 10 and"),
        (("--tolerance", "-1"), "tolerance -1.0, expected"),
        (("--threads", "0"), "threads is 0"),
    ],
)
def test_gate_refuses_words_out_of_range(run_as: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        gate.run(arguments(str(run_as), *words))


@pytest.mark.slow
def test_real_run_passes_against_its_own_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, words = tmp_path / "gate.json", ("--frames", str(BLOCK_FRAMES), "--device", "cpu")
    assert gate.run(arguments(str(place), "--write", *words)) == 0
    baseline = read_baseline(place)
    assert 0.05 < baseline.ratio < 20 and baseline.p50_ms > 1 and baseline.threads >= 1
    assert gate.run(arguments(str(place), "--tolerance", "9", *words)) == 0
    assert "within 900%" in capsys.readouterr().out


def test_the_committed_file_that_make_bench_gate_names_can_be_read(root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    baseline = read_baseline(root / makefile.split("bench gate ")[1].split()[0])
    assert baseline.frames >= 600 and 0 < baseline.ratio < 10
