"""What only a live run has, on the page and in report.md: differences, plan modes, nodes."""

from dataclasses import replace

import pytest
from page_outline import Outline
from report_rows import DIRECT, LIVE, STOP, make_labelled_rows, make_row, with_plans

from clkd_core.metrics.frames import FrameRow
from clkd_core.report.layout.live import SHOWN_DIFFERENCES, describe_modes, said_by_nodes
from clkd_core.report.layout.markdown import build_markdown
from clkd_core.report.layout.page import build_page
from clkd_core.report.provenance import Provenance
from clkd_core.report.scoring.scores import RunScores, score_run
from clkd_core.report.scoring.values import compute_metrics
from clkd_core.types import PlanMode

NASTY = "<b>|`x`"


def layouts(scores: RunScores, provenance: Provenance = LIVE) -> tuple[str, str]:
    page = build_page(make_labelled_rows(), scores, provenance, {}, title="a run")
    return Outline(page).text, build_markdown(scores, provenance, title="a run")


def compared(live: list[FrameRow]) -> RunScores:
    direct = [make_row(number, scene=NASTY) for number in range(len(live))]
    return score_run(live, LIVE, direct=direct)


def test_differing_keyframes_are_listed_the_unexplained_first() -> None:
    rows = [make_row(number, scene=NASTY) for number in range(4)]
    live = [make_row(0, answer=None, scene=NASTY), rows[1], replace(rows[2], answer=STOP), rows[3]]
    for text in layouts(compared(live)):
        assert "live answers as direct in 2 of 4 keyframes; 1 dropped; 1 unexplained" in text
        assert text.index("1000000000") < text.index("dropped", text.index("1000000000"))
        assert "<b>" in text or "&lt;b&gt;" in text
    metrics = compute_metrics(compared(live), LIVE)["live_vs_direct"]
    assert (metrics["same"], metrics["different"], metrics["late"]) == (2, 2, 0)
    assert metrics["by_outcome"] == {"answered": 1, "dropped": 1}
    assert [one["stamp_ns"] for one in metrics["unexplained"]] == [1_000_000_000]
    assert [one["live"] for one in metrics["explained"]] == [None]


def test_a_long_list_is_cut_and_says_so() -> None:
    live = [make_row(number, answer=STOP, scene=NASTY) for number in range(SHOWN_DIFFERENCES + 7)]
    for text in layouts(compared(live)):
        assert "and 7 more in metrics.json" in text
    metrics = compute_metrics(compared(live), LIVE)["live_vs_direct"]
    assert len(metrics["unexplained"]) == SHOWN_DIFFERENCES + 7


def test_a_direct_run_has_nothing_to_compare_and_an_unlabelled_one_says_why() -> None:
    direct = score_run(make_labelled_rows(), DIRECT)
    assert compute_metrics(direct, DIRECT)["live_vs_direct"] == "not live"
    page, _ = layouts(direct, DIRECT)
    assert "Live against direct" not in page
    unlabelled = score_run([make_row(1, None)], LIVE)
    assert compute_metrics(unlabelled, LIVE)["live_vs_direct"] == "not labelled"


def test_modes_of_plans_are_counted_over_all_keyframes() -> None:
    rows = with_plans(make_labelled_rows())
    modes = [PlanMode.FOLLOWING] * 6 + [PlanMode.WITHOUT_DECISION] * 2 + [PlanMode.STOPPING]
    rows = [
        replace(row, plan_mode=mode, plan_with_decision=mode is PlanMode.FOLLOWING)
        for row, mode in zip(rows[:9], modes, strict=True)
    ] + [replace(rows[9], plan=None)]
    scores = score_run(rows, LIVE)
    words = "following 6 (60.0%), without decision 2 (20.0%), stopping 1 (10.0%), none 1 (10.0%)"
    assert describe_modes(scores) == words
    assert all(words in text for text in layouts(scores))
    modes_in_metrics = compute_metrics(scores, LIVE)["plan_modes"]
    assert modes_in_metrics["stopping"] == {"frames": 1, "share": pytest.approx(0.1)}
    assert scores.plans.l2["planner"]["all"].frames == 9  # of every mode
    assert compute_metrics(score_run(make_labelled_rows(), LIVE), LIVE)["plan_modes"] == (
        "no planner"
    )


def test_what_nodes_said_stands_in_one_line_each() -> None:
    said = {
        "answered": "210",
        "latency_p50_ms": "12.10",
        "latency_p95_ms": "15.00",
        "latency_p99_ms": "20.00",
        "dropped: replaced by a newer frame": "3",
        "flagged: stopping": "2",
        "image late": "4",
        "memory_mib": "812",
    }
    provenance = replace(LIVE, nodes={"/vlm": said, NASTY: {"rate_hz": "1"}})
    assert said_by_nodes(provenance)["/vlm"] == (
        "210 answered; p50, p95, p99 12.10, 15.00, 20.00 ms; drops: replaced by a newer frame 3; "
        "flags: stopping 2; images unused: late 4; memory 812 MiB"
    )
    page, markdown = layouts(score_run(make_labelled_rows(), LIVE), provenance)
    assert "drops: replaced by a newer frame 3" in page and NASTY in page
    assert "drops: replaced by a newer frame 3" in markdown and "<b>" not in markdown


def test_rows_that_are_not_there_say_why_and_are_escaped() -> None:
    provenance = replace(LIVE, not_built={"blank": NASTY})
    scores = score_run(make_labelled_rows(), LIVE)
    page, markdown = layouts(scores, provenance)
    assert f"not built: {NASTY}" in page
    assert "not built: &lt;b&gt;" in markdown
    assert compute_metrics(scores, provenance)["not_built"] == {
        "blank": f"not built: {NASTY}",
        "shuffled": "not built",
        "ego_status": "not built",
        "direct": "not built",
    }
