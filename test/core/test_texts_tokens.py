"""Tokens of driving answers: by hand, under hostile input, and beside the published program."""

import shutil
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from driving_texts import random_sentences, texts_of_drivelm
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.metrics.texts.published import tokenize_published
from clkd_core.metrics.texts.tokens import tokenize

needs_java = pytest.mark.skipif(
    shutil.which("java") is None or find_spec("pycocoevalcap") is None,
    reason="needs Java and pycocoevalcap: apt install default-jre-headless, "
    "pip install clkd-drive[text]",
)

HAND_MADE = {
    "The car's stopping; it isn't moving.": "the car 's stopping it is n't moving",
    "I'll stop, you've passed and they'd go.": "i 'll stop you 've passed and they 'd go",
    "Don't turn: the drivers' view won't do.": "do n't turn the drivers view wo n't do",
    "It cannot stop. We\u2019re by the bus\u2019s.": "it can not stop we 're by the bus 's",
    "Gonna brake, 'cause it's 'bout time.": "gon na brake 'cause it 's bout time",
    "<c1,CAM_BACK,1088.3,497.5> is moving.": "< c1 cam_back ,1088.3,497.5 > is moving",
    "See <c12,CAM_FRONT_LEFT,836.0,398>.": "see < c12 cam_front_left ,836.0,398 >",
    "<c1, CAM_BACK, 1088.3, 497.5>": "< c1 cam_back 1088.3 497.5 >",
    "The <ego car> and the <image>": "the <ego~car> and the <image>",
    "&lt;c1&gt; &amp; more": "< c1 > & more",
    "It is 3.5m away, at 50 km/h (13.9 m/s).": "it is 3.5 m away at 50 km/h -lrb- 13.9 m/s -rrb-",
    "At 50km/h in 20m, 3-5 s, 10%.": "at 50km/h in 20m 3-5 s 10 %",
    "1,200 m, -5.2 degrees, 1.5-2.5 m": "1,200 m -5.2 degrees 1.5-2 .5 m",
    "1/2 of the 3/4-mile road, 12:30": "1/2 of the 3/4-mile road 12:30",
    "1 1/2 lanes, 12 345, 100 2000m": "1~1/2 lanes 12 345 100 2000m",
    "At 120 340 560 or 1-22 333 4444.": "at 120~340~560 or 1-22 333 4444",
    "call (555) 555-1234": "call -lrb-555-rrb-~555-1234",
    "A two-wheeler at a T-junction, front-left.": "a two-wheeler at a t-junction front-left",
    "left/right and stop/go/slow/turn": "left/right and stop/go/slow / turn",
    "[a] {b} (c) *d* **e** _f_ `g`": (
        "-lsb- a -rsb- -lcb- b -rcb- -lrb- c -rrb- * d * ** e ** _ f _ g"
    ),
    "\"Stop\" and 'go', “left” and \u2018right\u2019": "stop and go left and right",
    "It stops.The bus goes. Yes!No?": "it stops.the bus goes yes!no",
    "Signs, cones, etc. e.g. here at 5 p.m.": "signs cones etc. e.g. here at 5 p.m.",
    "Mr. X on St. James St. in the U.S. today": "mr. x on st. james st. in the u.s. today",
    "Is it no. 5? No. It is approx. right.": "is it no. 5 no it is approx right",
    "Within 5 m. The car stops.": "within 5 m the car stops",
    "Within 5 m. we stop": "within 5 m. we stop",
    "KEEP, STRAIGHT\nSTOP": "keep straight stop",
    "Wait -- go - now… then—stop... ok": "wait go now then stop ok",
    "Go!! Why?! ¿Qué? café naïve 東京": "go !! why ?! ¿ qué café naïve 東京",
    "30°C, 5 m², ½ lane, £5, €3, 🚗 ok": "30 ° c 5 m ² 1/2 lane # 5 $ 3 ok",
    "non-U.S. cars, AT&T, C++, a@b.com": "non-u.s. cars at&t c++ a@b.com",
    "https://a.bc/d?e=1, see www.a.bc :)": "https://a.bc/d?e=1 see www.a.bc :-rrb-",
    "": "",
    " \t\n": "",
    ". , ; : ? ! - ' \"": "",
}


def share_that_differs(texts: list[str]) -> float:
    """Each text is followed by a plain one: the program lets some texts see the next one."""
    apart = [line for text in texts for line in (text, "and")]
    published = tokenize_published(apart)[::2]
    return sum(tokenize(t) != p for t, p in zip(texts, published, strict=True)) / len(texts)


@pytest.mark.parametrize(("text", "tokens"), HAND_MADE.items())
def test_driving_english_becomes_these_tokens(text: str, tokens: str) -> None:
    assert tokenize(text) == [token.replace("~", "\u00a0") for token in tokens.split()]


@needs_java
def test_hand_made_sentences_have_the_published_tokens() -> None:
    assert share_that_differs(list(HAND_MADE)) == 0


@needs_java
def test_random_driving_sentences_have_the_published_tokens_but_for_two_in_a_thousand() -> None:
    assert share_that_differs(random_sentences(seed=1, count=4000)) <= 0.002


@needs_java
def test_all_questions_and_answers_of_drivelm_have_the_published_tokens(shared_data: Path) -> None:
    texts = texts_of_drivelm(shared_data)
    assert len(texts) == 2 * 790
    assert share_that_differs(texts) == 0


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=200))
def test_tokens_of_any_text_are_lower_case_and_hold_no_space(text: str) -> None:
    for token in tokenize(text):
        assert token and token == token.lower() and not set(token) & set(" \t\n")
        assert token not in set("'`\".?!,:;-")


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.sampled_from(["car", "bus", "left", "turns", "12", "m/s", "can't"])))
def test_white_space_between_words_does_not_matter(words: list[str]) -> None:
    assert tokenize(" ".join(words)) == tokenize("\n\t ".join(["", *words, ""]))


@pytest.mark.parametrize(
    "piece",
    ["a,", "a ", "a-", "a.", "<a ", "<!a", "http://", "_a", "'", "é,", "1,", "@a", "+-", "🚗"],
)
def test_a_hostile_answer_takes_time_in_proportion_to_its_length(piece: str) -> None:
    started = time.process_time()
    tokenize(piece * (100_000 // len(piece)))
    assert time.process_time() - started < 10  # a quadratic one takes a minute
