"""BLEU-4 and ROUGE-L: against slow obvious versions, at their edges, beside the published ones."""

import math
import random
import shutil
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
from driving_texts import random_sentences, texts_of_drivelm
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.metrics.intervals import resample_weights
from clkd_core.metrics.texts.published import tokenize_published
from clkd_core.metrics.texts.scores import bleu4, measure_texts, rouge_l, score_texts

needs_package = pytest.mark.skipif(
    find_spec("pycocoevalcap") is None,
    reason="needs pycocoevalcap: pip install clkd-drive[text]",
)
needs_java = pytest.mark.skipif(
    shutil.which("java") is None, reason="needs Java: apt install default-jre-headless"
)

words = st.lists(st.sampled_from("car bus left stops the a at".split()), max_size=12)
texts = words.map(" ".join)
samples = st.lists(
    st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=8
)
Samples = list[tuple[str, list[str]]]


def slow_bleu4(answers: list[str], references: list[list[str]]) -> float:
    """Papineni et al. 2002, section 2, on texts whose words are the tokens.

    With pycocoevalcap's 1e-15 and 1e-9 against dividing by nothing.
    """
    precisions = []
    for n in (1, 2, 3, 4):
        right = total = 0
        for answer, right_texts in zip(answers, references, strict=True):
            grams = [tuple(answer.split()[i : i + n]) for i in range(len(answer.split()) - n + 1)]
            for gram, count in Counter(grams).items():
                most = 0
                for text in right_texts:
                    tokens = text.split()
                    places = range(len(tokens) - n + 1)
                    most = max(most, sum(tuple(tokens[i : i + n]) == gram for i in places))
                right += min(count, most)
            total += len(grams)
        precisions.append((right + 1e-15) / (total + 1e-9))
    length = sum(len(answer.split()) for answer in answers)
    closest = 0
    for answer, right_texts in zip(answers, references, strict=True):
        size = len(answer.split())
        closest += sorted((abs(len(t.split()) - size), len(t.split())) for t in right_texts)[0][1]
    if not length:
        return 0.0
    return min(1.0, math.exp(1 - closest / length)) * math.prod(precisions) ** 0.25


def slow_common(first: list[str], second: list[str]) -> int:
    if not first or not second:
        return 0
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            same = table[i][j] + 1
            table[i + 1][j + 1] = same if one == other else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def slow_rouge_l(answer: str, right_texts: list[str]) -> float:
    tokens = answer.split() or [""]
    pairs = [(slow_common(tokens, t.split() or [""]), len(t.split() or [""])) for t in right_texts]
    precision = max(common / len(tokens) for common, _ in pairs)
    recall = max(common / size for common, size in pairs)
    if not precision or not recall:
        return 0.0
    return (1 + 1.44) * precision * recall / (recall + 1.44 * precision)


@settings(max_examples=100, deadline=None)
@given(samples=samples)
def test_bleu_agrees_with_the_formula_of_its_paper(samples: Samples) -> None:
    answers, references = [a for a, _ in samples], [r for _, r in samples]
    score = bleu4(answers, references)
    assert 0 <= score <= 1
    assert score == pytest.approx(slow_bleu4(answers, references), abs=1e-7)


@settings(max_examples=100, deadline=None)
@given(samples=samples)
def test_rouge_agrees_with_a_table_of_common_subsequences(samples: Samples) -> None:
    measures = measure_texts([a for a, _ in samples], [r for _, r in samples])
    expected = [slow_rouge_l(answer, right) for answer, right in samples]
    np.testing.assert_allclose(measures.rouge_l, expected)
    assert rouge_l(*zip(*samples, strict=True)) == pytest.approx(sum(expected) / len(expected))


@settings(max_examples=50, deadline=None)
@given(samples=samples, data=st.data())
def test_the_order_of_samples_does_not_matter(samples: Samples, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(samples))
    first, second = (measure_texts(*zip(*some, strict=True)) for some in (samples, shuffled))
    np.testing.assert_array_equal(first.bleu_counts.sum(axis=0), second.bleu_counts.sum(axis=0))
    assert bleu4(*zip(*samples, strict=True)) == bleu4(*zip(*shuffled, strict=True))
    assert first.rouge_l.mean() == pytest.approx(second.rouge_l.mean())


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_the_right_answers_score_one(texts: list[str]) -> None:
    texts = [*texts, "the car stops at the sign"]
    scores = score_texts(texts, texts, resamples=5)
    assert scores.bleu4.value == pytest.approx(1, abs=1e-6)
    assert scores.rouge_l.value == pytest.approx(1)
    assert scores.exact.value == 1


@settings(max_examples=50, deadline=None)
@given(samples=samples, extra=texts)
def test_another_right_answer_never_lowers_rouge(samples: Samples, extra: str) -> None:
    answers, references = [a for a, _ in samples], [r for _, r in samples]
    more = [[*right, extra] for right in references]
    assert rouge_l(answers, more) >= rouge_l(answers, references) - 1e-12


def test_an_answer_that_says_nothing_scores_nothing() -> None:
    scores = score_texts(["", " . "], ["the car stops here now", "a bus"], resamples=5)
    assert (scores.bleu4.value, scores.rouge_l.value, scores.exact.value) == (0, 0, 0)


def test_short_answers_alone_have_next_to_no_bleu_however_right() -> None:
    assert bleu4(["Yes."], ["Yes."]) < 1e-3  # as published: there is no 4-gram to find
    assert bleu4(["The car stops."], ["The car stops."]) == pytest.approx(1e-6**0.25, rel=1e-3)
    assert rouge_l(["Yes."], ["Yes."]) == pytest.approx(1)


def test_the_shorter_of_two_equally_close_references_counts() -> None:
    counts = measure_texts(["a b c d"], [["a b c", "a b c d e"]]).bleu_counts
    assert counts[0, -1] == 3
    assert measure_texts(["a b c d"], [["a b c d e f", "a b c d e"]]).bleu_counts[0, -1] == 5


def test_only_white_space_may_differ_in_an_exact_answer() -> None:
    answers = ["The  car\nstops. ", "the car stops.", "The car stops"]
    scores = score_texts(answers, [["No.", "The car stops."]] * 3, resamples=5)
    assert scores.exact.value == pytest.approx(1 / 3)


def test_intervals_are_those_of_scoring_each_replicate_by_itself() -> None:
    rng = random.Random(2)
    answers = random_sentences(seed=3, count=40)
    references = [" ".join(w for w in text.split() if rng.random() < 0.8) for text in answers]
    clusters = [number // 5 for number in range(40)]
    scores = score_texts(answers, references, clusters=clusters, seed=7, resamples=60)
    weights = resample_weights(clusters, seed=7, resamples=60).astype(int)
    drawn = [np.repeat(np.arange(40), row) for row in weights]
    bleus = [bleu4([answers[i] for i in row], [references[i] for i in row]) for row in drawn]
    assert scores.bleu4.low == pytest.approx(np.quantile(bleus, 0.025))
    assert scores.bleu4.high == pytest.approx(np.quantile(bleus, 0.975))
    assert scores.bleu4.low < scores.bleu4.value < scores.bleu4.high
    rouges = [rouge_l([answers[i] for i in row], [references[i] for i in row]) for row in drawn]
    assert scores.rouge_l.low == pytest.approx(np.quantile(rouges, 0.025))


def test_the_same_seed_gives_the_same_scores_and_another_one_others() -> None:
    answers, references = random_sentences(4, 20), random_sentences(5, 20)
    first, again, other = (score_texts(answers, references, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first.rouge_l != other.rouge_l


@pytest.mark.parametrize(
    ("answers", "references"), [([], []), (["a"], []), (["a"], [[]]), (["a"], ["b", "c"])]
)
def test_samples_that_do_not_fit_are_refused(answers: list[str], references: list[str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        score_texts(answers, references)


def test_clusters_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 clusters"):
        score_texts(["a"], ["a"], clusters=["x", "y"])


@pytest.mark.slow
def test_an_answer_of_a_million_tokens_is_scored() -> None:
    scores = score_texts(["the car " * 500_000], ["the car stops"], resamples=5)
    assert max(scores.bleu4.value, scores.rouge_l.value) < 1e-4


def changed(texts: list[str], seed: int) -> list[str]:
    """Answers that are mostly right: some words left out, exchanged, or said twice."""
    rng = random.Random(seed)
    pool = [word for text in texts for word in text.split()]
    return [
        " ".join(
            rng.choice([word, word, word, word, "", rng.choice(pool), f"{word} {word}"])
            for word in text.split()
        )
        for text in texts
    ]


def published_bleu_and_rouge(answers: list[str], references: list[list[str]]) -> list[float]:
    """By pycocoevalcap, on texts that are tokenized already."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    said, right = dict(enumerate([a] for a in answers)), dict(enumerate(references))
    bleu = Bleu(4).compute_score(right, said, verbose=0)[0][3]
    return [bleu, float(Rouge().compute_score(right, said)[0])]


@needs_package
@settings(max_examples=100, deadline=None)
@given(samples=samples)
def test_scores_are_the_packages_own_on_the_same_tokens(samples: Samples) -> None:
    answers, references = [a for a, _ in samples], [r for _, r in samples]
    ours = [bleu4(answers, references), rouge_l(answers, references)]
    assert ours == pytest.approx(published_bleu_and_rouge(answers, references), abs=1e-12)


@needs_package
@needs_java
@pytest.mark.parametrize("source", ["random", "drivelm"])
def test_scores_are_the_published_ones_on_driving_answers(
    source: str, request: pytest.FixtureRequest
) -> None:
    if source == "random":
        references = random_sentences(seed=6, count=1000)
    else:
        references = texts_of_drivelm(request.getfixturevalue("shared_data"))[1::2]
    answers = changed(references, seed=8)
    # A plain text behind each: the program lets some texts see the next one.
    apart = [line for text in [*answers, *references] for line in (text, "and")]
    tokens = [" ".join(words) for words in tokenize_published(apart)[::2]]
    count = len(references)
    expected = published_bleu_and_rouge(tokens[:count], [[text] for text in tokens[count:]])
    assert [bleu4(answers, references), rouge_l(answers, references)] == pytest.approx(
        expected, abs=1e-6
    )
    assert 0.2 < min(expected) <= max(expected) < 0.95
