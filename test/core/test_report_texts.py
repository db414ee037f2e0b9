"""What was said in words: kept whole, scored by kind, shown without being taken for markup."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_outline import Outline
from report_rows import DIRECT, KEEP, STOP, make_labelled_rows

from clkd_core.errors import DataError
from clkd_core.metrics.texts.published import NotComputed, PublishedScores
from clkd_core.report.layout.markdown import build_markdown
from clkd_core.report.layout.page import build_page
from clkd_core.report.layout.texts import otherwise_rows
from clkd_core.report.scoring.answers import (
    DECISION,
    TextAnswer,
    answers_from_json,
    read_answers,
    write_answers,
)
from clkd_core.report.scoring.published import KeptScores
from clkd_core.report.scoring.scores import RunScores, score_run
from clkd_core.report.scoring.texts import ONLY_TOTALS, choose_examples
from clkd_core.report.scoring.values import compute_metrics
from clkd_core.report.summary import summarize

NASTY = "<script>alert('x')</script> | [a](b) `c` \u2028 *d*"


def said(number: int, kind: str = "perception", **changes: object) -> TextAnswer:
    values = {
        "sample_token": f"token-{number}",
        "scene": f"drive {number // 3}",
        "case_name": "fog" if number % 3 == 2 else "regular",
        "kind": kind,
        "question": "Is the light red ahead?",
        "reference": "Yes, the light is red.",
        "answer": "Yes, the light is red." if number % 2 else "No, it is green.",
    }
    return TextAnswer(**{**values, **changes})  # type: ignore[arg-type]


def decisions() -> list[TextAnswer]:
    """Of the labelled rows of ``report_rows``: what each row answered, in words."""
    return [
        said(
            number,
            DECISION,
            reference=row.label.text if row.label else "",
            answer=row.answer.text if row.answer and number else "KEEP, STRAIGHT, I think",
        )
        for number, row in enumerate(make_labelled_rows())
    ]


class Counting:
    """Published scores that cost nothing and know how often they were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, answers: list[str], references: list[str]) -> PublishedScores | NotComputed:
        self.asked.append(len(answers))
        return PublishedScores(count=len(answers), bleu4=0.25, meteor=0.125, rouge_l=0.5)


def scores_of(answers: list[TextAnswer], publish: Counting | None = None) -> RunScores:
    return score_run(make_labelled_rows(), DIRECT, answers=answers, publish=publish or Counting())


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.tuples(*[texts] * 6, st.none() | texts), max_size=5),
)
def test_answers_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, ...]]
) -> None:
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl"
    written = [
        TextAnswer(sample_token=t, scene=s, case_name=c, kind=k, question=q, reference=r, answer=a)
        for t, s, c, k, q, r, a in values
    ]
    write_answers(path, written)
    assert read_answers(path) == written


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"answers\.jsonl:2: not JSON"),
        ("[" * 100_000, r"answers\.jsonl:2"),
        ("[]", r"answers\.jsonl:2: is no answer"),
        ("{}", r"answers\.jsonl:2: is no answer"),
        (json.dumps({**vars(said(0)), "kind": 3}), r"answers\.jsonl:2: kind is 3, expected text"),
        (json.dumps({**vars(said(0)), "question": None}), r"question is None, expected text"),
    ],
)
def test_damaged_answers_are_named_with_their_line(
    tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "answers.jsonl"
    write_answers(path, [said(0)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        read_answers(path)


def test_truncated_and_missing_answers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write_answers(path, [said(0), said(1)])
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match="truncated"):
        read_answers(path)
    with pytest.raises(DataError, match="cannot read"):
        read_answers(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="task 3"):
        answers_from_json([4], "task 3")


def test_texts_are_scored_by_kind_and_by_case() -> None:
    asked = [said(n) for n in range(6)] + [said(n, "planning") for n in range(4)]
    by_kind = scores_of(asked).texts.by_kind
    assert list(by_kind) == ["all", "perception", "planning"]
    counts = {
        kind: {case: result.ours.count for case, result in cases.items()}
        for kind, cases in by_kind.items()
    }
    assert counts["all"] == {"regular": 7, "corner": 3, "all": 10}
    assert counts["planning"] == {"regular": 3, "corner": 1, "all": 4}
    assert by_kind["all"]["all"].ours.exact.value == pytest.approx(0.5)


def test_published_scores_are_asked_for_totals_and_never_twice_for_the_same() -> None:
    publish = Counting()
    asked = [said(n) for n in range(6)] + [
        said(n, "planning", case_name="regular") for n in range(4)
    ]
    by_kind = scores_of(asked, publish).texts.by_kind
    assert sorted(publish.asked) == [2, 4, 6, 8, 10]
    assert by_kind["perception"]["corner"].published is ONLY_TOTALS
    assert by_kind["planning"]["regular"] is by_kind["planning"]["all"]


def test_a_question_without_an_answer_counts_as_an_empty_one() -> None:
    result = scores_of([said(1), said(3, answer=None)]).texts.by_kind["all"]["all"]
    assert result.unanswered == 1 and result.ours.exact.value == pytest.approx(0.5)
    nothing = scores_of([said(n, answer=None) for n in range(3)]).texts.by_kind["all"]["all"]
    assert nothing.unanswered == 3 and nothing.ours.rouge_l.value == 0.0


def test_written_decisions_are_compared_with_one_pass_and_with_the_public_script() -> None:
    found = scores_of(decisions()).texts.decisions
    assert found is not None
    # Rows 1 to 8 repeat their answer in words; row 0 adds words, row 9 answers nothing.
    assert found.agreement.value == pytest.approx(0.8)
    assert found.senna.readable == 8 and found.senna.hits == 10 - 1
    assert found.ours.frames == 10 and found.reasons


def test_decisions_of_another_run_are_refused() -> None:
    with pytest.raises(DataError, match="9 generated decisions do not belong to the 10"):
        scores_of(decisions()[:-1])
    swapped = [replace(answer, reference=STOP.text) for answer in decisions()]
    assert KEEP.text in {answer.reference for answer in decisions()}
    with pytest.raises(DataError, match="do not belong"):
        scores_of(swapped)


def test_examples_show_every_kind_and_no_more_than_asked_for() -> None:
    asked = [said(n, question=f"And {n}?") for n in range(40)]
    asked += [said(n, "rare") for n in range(2)]
    chosen = choose_examples(asked, 6)
    assert [answer.kind for answer in chosen] == ["perception"] * 4 + ["rare"] * 2
    assert chosen[0] == asked[0] and chosen[3] == asked[39]
    assert choose_examples([], 6) == ()
    assert choose_examples([said(n) for n in range(8)], 6) == (said(0), said(1))
    assert len(choose_examples([said(n, f"kind {n}") for n in range(9)], 4)) == 4


def test_kept_scores_are_computed_once_and_found_again(tmp_path: Path) -> None:
    path, first, again = tmp_path / "published.json", Counting(), Counting()
    kept = KeptScores(path, first)
    assert kept(["a"], ["b"]) == kept(["a"], ["b"]) and first.asked == [1]
    assert KeptScores(path, again)(["a"], ["b"]) == kept(["a"], ["b"]) and again.asked == []
    KeptScores(path, again)(["a"], ["c"])
    assert again.asked == [1]
    path.write_text('{"x": 3}')
    assert KeptScores(path, again)(["a"], ["b"]) == kept(["a"], ["b"]) and again.asked == [1, 1]


def test_what_was_not_computed_is_tried_again_the_next_time(tmp_path: Path) -> None:
    kept = KeptScores(tmp_path / "published.json", lambda *texts: NotComputed("no Java"))
    assert kept(["a"], ["b"]) == NotComputed("no Java")
    assert not (tmp_path / "published.json").exists()


def test_page_and_markdown_show_texts_and_take_nothing_for_markup() -> None:
    asked = [said(n, NASTY, question=NASTY, answer=NASTY, case_name=NASTY) for n in range(3)]
    scores = scores_of([*decisions(), *asked])
    page = build_page(make_labelled_rows(), scores, DIRECT, {}, title=NASTY)
    outline = Outline(page)
    assert "script" not in outline.tags and "<script" not in page
    for shown in ("What does it say?", "BLEU-4", "0.125", "Senna&#x27;s script", "Examples"):
        assert shown in page, shown
    table = build_markdown(scores, DIRECT, title=NASTY)
    assert "<script" not in table and "[a](b)" not in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") >= 3 for line in rows)
    assert len(table.splitlines()) < 100


def test_markdown_has_every_table_with_as_many_cells_as_its_head() -> None:
    scores = scores_of([*decisions(), *(said(n) for n in range(6))])
    table = build_markdown(scores, DIRECT, title="a run")
    head: list[str] = []
    for line in table.splitlines():
        cells = line.replace("\\|", "").split("|")
        if not line.startswith("|"):
            head = []
        elif not head:
            head = cells
        else:
            assert len(cells) == len(head), line
    for shown in ("## Decisions", "## Time", "## Plans", "## Words", "not built", "Student"):
        assert shown in table, shown


def test_metrics_hold_texts_and_decisions_or_words() -> None:
    metrics = compute_metrics(scores_of([*decisions(), said(1)]), DIRECT)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["texts"]["all"]["all"]["published"]["meteor"] == 0.125
    assert metrics["generated_decisions"]["senna_compat"]["accuracy"] == pytest.approx(0.9)
    nothing = compute_metrics(scores_of([]), DIRECT)
    assert nothing["texts"] == "no questions"
    assert nothing["generated_decisions"] == "not generated"


def written_otherwise() -> list[TextAnswer]:
    """Row 0 writes no answer, row 1 another one than its decision; all others their decision."""
    answers = decisions()
    answers[1] = replace(answers[1], answer=STOP.text)
    return answers


def test_agreement_is_counted_among_legal_texts_and_every_other_text_is_listed() -> None:
    written = compute_metrics(scores_of(written_otherwise()), DIRECT)["generated_decisions"]
    # Row 9 has no decision, and wrote no answer: no disagreement, and no legal text.
    assert written["legal_share"] == pytest.approx(8 / 10)
    assert written["agreement_where_legal"]["value"] == pytest.approx(7 / 8)
    first, second = written["otherwise"]
    assert (first["text"], first["decision"]) == (STOP.text, KEEP.text)
    assert first["decision_probability"] == pytest.approx(0.62 if KEEP.index == 0 else 0.02)
    assert first["text_probability"] == pytest.approx(0.62 if STOP.index == 0 else 0.02)
    assert second["text"] == "KEEP, STRAIGHT, I think" and second["text_probability"] is None


def test_run_without_a_legal_text_says_so_in_place_of_an_agreement() -> None:
    answers = [replace(answer, answer="no idea") for answer in decisions()]
    metrics = compute_metrics(scores_of(answers), DIRECT)
    assert metrics["generated_decisions"]["agreement_where_legal"] == "no legal text"
    assert "agreement among them: no legal text | 9 otherwise" in "\n".join(summarize(metrics))


def test_texts_that_are_not_the_decision_are_shown_and_the_longer_list_is_cut() -> None:
    scores = scores_of(written_otherwise())
    page = build_page(make_labelled_rows(), scores, DIRECT, {}, title="a run")
    table = build_markdown(scores, DIRECT, title="a run")
    for shown in ("8 texts are one of the 20 answers", "in 87.5% of these", STOP.text, "I think"):
        assert shown in page and shown in table, shown
    assert "legal texts | agreement among them: 87.50%" in "\n".join(
        summarize(compute_metrics(scores, DIRECT))
    )
    written = scores.texts.decisions
    assert written is not None
    many = otherwise_rows(replace(written, otherwise=written.otherwise * 30))
    assert len(many) == 21 and many[-1][0] == "and 40 more in metrics.json"
