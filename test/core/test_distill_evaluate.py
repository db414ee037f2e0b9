"""clkd_core.distill.evaluate: models judged in training beside every baseline."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_vlm import SQUARES_VERSION, tiny_model, write_squares

from clkd_core.data.sidecar import load_keyframes
from clkd_core.distill.evaluate import decide_all, judge
from clkd_core.distill.feed.samples import SampleSet, load_samples
from clkd_core.metrics.baselines.ego_status import fit_ego_status_baseline
from clkd_core.types import META_ACTIONS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    root = tmp_path_factory.mktemp("squares") / "set"
    write_squares(root, train=1, val=12)
    return load_samples(load_keyframes(root, SQUARES_VERSION, "val"), (36, 64), workers=1)


def test_every_model_is_judged_with_its_own_no_and_others_images(samples: SampleSet) -> None:
    baseline = fit_ego_status_baseline([None], [None], [META_ACTIONS[3]], seed=0)
    table = judge(
        {"student": tiny_model()}, samples, train_labels=[META_ACTIONS[7]],
        ego_baseline=baseline, device=CPU, bf16=False,
    )  # fmt: skip
    assert [row.name for row in table if row.cases == "all"] == [
        "student",
        "student, blank images",
        "student, shuffled images",
        f"always {META_ACTIONS[7].text}",
        "ego status only",
    ]
    assert {row.scores.frames for row in table if row.cases == "all"} == {12}
    assert {row.cases for row in table} == {"all", "regular", "corner"}


class Looking:
    """A tiny model that keeps what it was shown, as one number a keyframe."""

    def __init__(self) -> None:
        self._model = tiny_model()
        self.shown: list[float] = []

    def encode_views(self, views: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        self.shown += views.double().mean(dim=(1, 2, 3, 4)).tolist()
        return self._model.encode_views(views, present)

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)


def test_blank_views_are_black_and_shuffled_ones_are_those_of_the_sources(
    samples: SampleSet,
) -> None:
    own, blank, turned = Looking(), Looking(), Looking()
    places = np.roll(np.arange(12), 5)
    decide_all(own, samples, device=CPU, bf16=False)
    decide_all(blank, samples, device=CPU, bf16=False, blank=True)
    decide_all(turned, samples, device=CPU, bf16=False, sources=places)
    assert len(set(own.shown)) == 12 and set(blank.shown) == {0.0}
    assert turned.shown == [own.shown[place] for place in places]


def test_without_training_labels_the_samples_own_majority_answers(samples: SampleSet) -> None:
    table = judge({}, samples, train_labels=[], ego_baseline=None, device=CPU, bf16=False)
    assert len({row.name for row in table}) == 1 and table[0].name.startswith("always ")


def test_samples_without_a_label_are_told_in_words_and_not_judged(
    samples: SampleSet, caplog: pytest.LogCaptureFixture
) -> None:
    bare = [replace(k, action=None, future=None) for k in samples.keyframes]
    unlabelled = replace(samples, keyframes=bare)
    with caplog.at_level(logging.INFO, logger="clkd_core"):
        table = judge(
            {"student": tiny_model()}, unlabelled, train_labels=[META_ACTIONS[0]],
            ego_baseline=None, device=CPU, bf16=False,
        )  # fmt: skip
    assert table == [] and "not labelled" in caplog.text
