"""The page stands alone, escapes what it is told, and says what it does not know."""

import math
import re
from dataclasses import replace

import pytest
from page_outline import Outline
from report_rows import DIRECT, LIVE, make_labelled_rows, make_row, with_plans

from clkd_core.metrics.frames import FrameRow
from clkd_core.report.layout.page import build_page
from clkd_core.report.provenance import Provenance
from clkd_core.report.scoring.scores import score_run

NASTY = "<script>alert('x')</script>&\"'"


def page_of(
    rows: list[FrameRow],
    provenance: Provenance = LIVE,
    gallery: dict[int, dict[str, bytes]] | None = None,
) -> str:
    scores = score_run(rows, provenance)
    return build_page(rows, scores, provenance, gallery or {}, title="a run")


PICTURES = {0: {"CAM_FRONT": b"front", "CAM_BACK": b"back"}, 5: {"CAM_BACK": b"x"}}


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(with_plans(make_labelled_rows()), gallery=PICTURES)


def test_the_page_is_well_formed_and_needs_nothing_from_outside(page: str) -> None:
    outline = Outline(page)
    assert {"script", "link", "iframe", "object"}.isdisjoint(outline.tags)
    assert all(link.startswith("data:image/jpeg;base64,") for link in outline.links)
    assert "@import" not in page
    assert "url(" not in page
    assert not re.search(r"(?:https?:)?//", page)


def test_headline_numbers_come_before_everything_else(page: str) -> None:
    text = Outline(page).text
    assert text.index("8 / 10") < text.index("70.0%") < text.index("Is it right?")


def test_whatever_comes_from_data_is_escaped() -> None:
    rows = [
        replace(row, scene=NASTY, case_name=NASTY, reason=NASTY, degraded=True)
        for row in make_labelled_rows()
    ]
    provenance = Provenance(
        mode="live",
        checkpoint=NASTY,
        bag=NASTY,
        device=NASTY,
        command=NASTY,
        created=NASTY,
        git_revision=NASTY,
        versions={"x": NASTY},
        counters={NASTY: 1},
        notes=(NASTY,),
    )
    scores = score_run(rows, provenance)
    page = build_page(rows, scores, provenance, {0: {"CAM_FRONT": b"x"}}, title=NASTY)
    assert "<script" not in page
    outline = Outline(page)
    assert "script" not in outline.tags
    assert outline.text.count(NASTY) >= 12


def test_cards_show_right_and_wrong_and_what_should_have_been(page: str) -> None:
    assert 'class="frame right regular"' in page
    assert 'class="frame wrong regular"' in page
    text = Outline(page).text
    assert "should be" in text
    assert "no front view" in text


def test_an_unlabelled_direct_run_says_so_everywhere() -> None:
    rows = [replace(make_row(n, None), response_ms=math.nan) for n in range(4)]
    text = Outline(page_of(rows, DIRECT, {0: {"CAM_FRONT": b"x"}})).text
    assert text.count("not labelled") >= 6
    assert "not measured" in text
    assert "0.0%" not in text
    assert "Which actions?" not in text


def test_a_run_without_planner_or_corner_cases_has_words_and_dashes() -> None:
    page = page_of([replace(make_row(n), truth=None) for n in range(4)])
    text = Outline(page).text
    assert "L2: not labelled" in text
    assert "\N{EN DASH}" in text


def test_a_run_in_which_nothing_was_answered_can_be_shown() -> None:
    text = Outline(page_of([make_row(n, answer=None) for n in range(4)])).text
    assert "0 / 4" in text
    assert "not measured" in text
