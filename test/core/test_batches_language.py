"""clkd_core.distill.feed.batches on keyframes of language sets: no plan, one view, object tags."""

from dataclasses import replace

import pytest
import torch
from annotation_files import write_coda, write_drivelm
from tiny_vlm import tiny_model, tiny_t5_model

from clkd_core.data.keyframes import QuestionAnswer
from clkd_core.data.language.merge import MergeConfig, merge
from clkd_core.data.sidecar import load_keyframes
from clkd_core.distill.config import AugmentConfig
from clkd_core.distill.feed.batches import Batch, Look, build_batch, conversation
from clkd_core.distill.feed.samples import SampleSet, load_samples
from clkd_core.errors import DataError
from clkd_core.models.vlm import DrivingVlm


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    root = tmp_path_factory.mktemp("merged")
    write_drivelm(root / "drivelm")
    coda = write_coda(root / "coda", ["Train/val_0001", "Train/val_0002"])
    merge(MergeConfig(out=root / "set", drivelm=(root / "drivelm",), coda_lm=(coda,)))
    keyframes = list(load_keyframes(root / "set", "v1.0", "train"))
    return load_samples(keyframes, (36, 64), workers=1)


def batch_of(
    samples: SampleSet, model: DrivingVlm, questions: int = 2, *, seed: int = 0, **augment: float
) -> Batch:
    looks = [Look(index, (seed, 0, 0, index)) for index in range(len(samples.keyframes))]
    return build_batch(
        samples,
        looks,
        model,
        AugmentConfig(**augment),
        questions_per_sample=questions,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("model", [tiny_model(), tiny_t5_model()], ids=["llama", "t5"])
def test_keyframes_without_a_plan_are_asked_their_questions_alone(
    samples: SampleSet, model: DrivingVlm
) -> None:
    batch = batch_of(samples, model)
    assert batch.is_corner.tolist() == [False, False, True, True, True, True]
    assert batch.text.keep.any(dim=1).all()
    assert batch.present.sum(dim=1).tolist() == [6, 6, 1, 1, 1, 1]


def test_sample_with_a_single_view_never_loses_it(samples: SampleSet) -> None:
    model = tiny_model()
    for seed in range(20):
        present = batch_of(samples, model, seed=seed, drop_views=1.0).present
        assert present.any(dim=1).all()
        assert present[2:].sum(dim=1).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("model", [tiny_model(), tiny_t5_model()], ids=["llama", "t5"])
def test_batch_with_nothing_to_answer_is_refused(samples: SampleSet, model: DrivingVlm) -> None:
    with pytest.raises(DataError, match="none of 6 samples has a plan, questions_per_sample is 0"):
        batch_of(samples, model, questions=0)


def test_mirrored_conversation_moves_the_tags_with_the_objects(samples: SampleSet) -> None:
    asked = QuestionAnswer(
        kind="prediction",
        question="Is <c1,CAM_FRONT_LEFT,1088.3,497.5> left of us?",
        answer="No, <c2,CAM_BACK,0.0,5.0> is.",
    )
    keyframe = replace(samples.keyframes[0], questions=(asked,))
    assert conversation(keyframe, questions=[0], mirror=True) == [
        (
            " Is <c1,CAM_FRONT_RIGHT,511.7,497.5> right of us? Answer:",
            " No, <c2,CAM_BACK,1600.0,5.0> is.",
        )
    ]
    assert conversation(keyframe, questions=[0]) == [
        (f" {asked.question} Answer:", f" {asked.answer}")
    ]
