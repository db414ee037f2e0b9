"""The test of the world: what a student must gain by looking, and when that is not known."""

import argparse
import math

import pytest

from clkd_core.data.world.check import Gain, add_arguments, find_gains, run
from clkd_core.distill.record.results import ResultRow, Results, write_results
from clkd_core.errors import DataError
from clkd_core.metrics.intervals import Interval


def row(name, f1, half=0.03, cases="all"):
    interval = Interval(value=f1, low=f1 - half, high=f1 + half)
    return ResultRow(name=name, cases=cases, frames=100, accuracy=0.5, macro_f1=interval)


def table(student, blank, ego, half=0.03, cases="all"):
    names = ("student", "student, blank images", "ego status only")
    pairs = zip(names, (student, blank, ego), strict=True)
    return tuple(row(name, f1, half, cases) for name, f1 in pairs)


def verdict(folder, rows, *words):
    write_results(folder / "results.json", Results(table=rows))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(folder), *words]))


def enough(rows, gap=0.15):
    return [gain.is_enough(gap) for gain in find_gains(rows, "all")]


def test_the_student_must_beat_blank_images_and_ego_status_both():
    assert enough(table(0.9, 0.6, 0.7)) == [True, True]
    assert enough(table(0.9, 0.8, 0.7)) == [False, True]
    assert enough(table(0.9, 0.6, 0.8)) == [True, False]


def test_a_gap_needs_intervals_that_do_not_touch():
    assert enough(table(0.9, 0.7, 0.7, half=0.09)) == [True, True]
    assert enough(table(0.9, 0.7, 0.7, half=0.11)) == [False, False]


def test_an_unknown_number_is_never_enough():
    unknown = row("student", math.nan, half=math.nan)
    assert not Gain(unknown, row("ego status only", 0.5)).is_enough(0.15)


def test_the_command_prints_every_case_and_fails_when_short(tmp_path, capsys):
    rows = table(0.9, 0.6, 0.7) + table(0.8, 0.6, 0.7, cases="corner")
    assert verdict(tmp_path, rows) == 0
    printed = capsys.readouterr().out
    assert "all, 100 keyframes: student 0.900 (0.870 to 0.930)" in printed
    assert "  ego status only 0.700 (0.670 to 0.730), gap +0.200, intervals apart" in printed
    assert "corner" in printed and "regular" not in printed
    assert printed.endswith("world check: passed\n")
    assert verdict(tmp_path, rows, "--gap", "0.25") == 1
    assert "failed, expected a gap >= 0.25" in capsys.readouterr().out


@pytest.mark.parametrize("keep", [(), (1, 2), (0, 1)])
def test_a_run_without_the_rows_is_refused(tmp_path, keep):
    rows = tuple(table(0.9, 0.6, 0.7)[i] for i in keep)
    with pytest.raises(DataError):
        verdict(tmp_path, rows)


def test_a_folder_without_results_is_refused(tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(DataError, match=r"results\.json"):
        run(parser.parse_args([str(tmp_path)]))
