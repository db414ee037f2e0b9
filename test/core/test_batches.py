import numpy as np
import pytest
import torch
from tiny_vlm import SQUARES_VERSION, tiny_model, write_squares

from clkd_core.data.prompts import plan_question
from clkd_core.data.sidecar import load_keyframes
from clkd_core.distill.config import AugmentConfig
from clkd_core.distill.feed.batches import (
    Batch,
    Look,
    balance_weights,
    build_batch,
    conversation,
    draw_indices,
    draw_looks,
)
from clkd_core.distill.feed.samples import SampleSet, load_samples
from clkd_core.types import CAMERAS

NOTHING_VARIED = AugmentConfig(
    mirror=0.0, drop_views=0.0, drop_ego=0.0, drop_command=0.0, brightness=0.0, zoom=0.0
)
MODEL = tiny_model()
TOKENIZER = MODEL.tokenizer


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    root = tmp_path_factory.mktemp("squares")
    write_squares(root / "set", train=12, val=2)
    keyframes = load_keyframes(root / "set", SQUARES_VERSION, "train")
    return load_samples(keyframes, (36, 64), workers=2)


def batch_of(
    samples: SampleSet,
    augment: AugmentConfig,
    *,
    step: int = 0,
    count: int = 6,
    rows: slice = slice(None),
) -> Batch:
    """The first samples, each with a look of its own."""
    looks = [Look(index, (1, 0, step, index)) for index in range(count)]
    return build_batch(
        samples,
        looks,
        MODEL,
        augment,
        questions_per_sample=2,
        device=torch.device("cpu"),
        rows=rows,
    )


def test_conversation_asks_for_the_plan_first_and_then_the_questions(samples: SampleSet) -> None:
    keyframe = samples.keyframes[1]
    turns = conversation(keyframe, questions=[1, 0])
    assert keyframe.action is not None
    assert turns == [
        (plan_question(keyframe.ego, keyframe.command), f" {keyframe.action.text}"),
        (" What is to the left? Answer:", " A square."),
        (" Is the light red? Answer:", " No."),
    ]


def test_conversation_of_the_mirror_image_exchanges_sides_everywhere(samples: SampleSet) -> None:
    left = samples.keyframes[2]
    turns = conversation(left, questions=[1], mirror=True, drop_ego=True, drop_command=True)
    assert turns == [
        (plan_question(None, None), " KEEP, RIGHT_TURN"),
        (" What is to the right? Answer:", " A square."),
    ]


def test_encoded_answers_are_what_is_learnt_each_with_its_end() -> None:
    turns = [("Plan:", " KEEP, STRAIGHT"), (" Is it red? Answer:", " No.")]
    text = MODEL.pack([turns, turns[:1]])
    for row, kept in enumerate((turns, turns[:1])):
        targets = text.targets[row][text.keep[row]].tolist()
        expected: list[int] = []
        for _, answer in kept:
            expected += [*TOKENIZER.encode(answer), TOKENIZER.end_id]
        assert targets == expected
        whole = "".join(question + answer for question, answer in kept)
        assert TOKENIZER.decode(text.ids[row].tolist()) == whole


def test_batch_without_variation_holds_the_decoded_pixels(samples: SampleSet) -> None:
    batch = batch_of(samples, NOTHING_VARIED)
    assert torch.equal(batch.views, torch.from_numpy(samples.views[:6]))
    assert batch.present.all()
    assert batch.is_corner.tolist() == [False] * 5 + [True]
    assert batch.sample_tokens == tuple(k.sample_token for k in samples.keyframes[:6])


def test_batch_follows_from_its_seed_alone(samples: SampleSet) -> None:
    first, again, other = (batch_of(samples, AugmentConfig(), step=step) for step in (3, 3, 4))
    assert torch.equal(first.views, again.views)
    assert torch.equal(first.text.ids, again.text.ids)
    assert not torch.equal(first.views, other.views)


def test_building_batches_leaves_the_decoded_views_alone(samples: SampleSet) -> None:
    before = samples.views.copy()
    batch_of(samples, AugmentConfig(mirror=1.0, zoom=0.3))
    assert np.array_equal(before, samples.views)


def test_mirrored_batch_flips_every_view_and_exchanges_the_sides(samples: SampleSet) -> None:
    only_mirror = AugmentConfig(
        mirror=1.0, drop_views=0.0, drop_ego=0.0, drop_command=0.0, brightness=0.0, zoom=0.0
    )
    batch = batch_of(samples, only_mirror)
    left, right = CAMERAS.index("CAM_BACK_LEFT"), CAMERAS.index("CAM_BACK_RIGHT")
    source = torch.from_numpy(samples.views[:6])
    assert torch.equal(batch.views[:, left], source[:, right].flip(-1))
    assert torch.equal(batch.views[:, 0], source[:, 0].flip(-1))


def test_samples_that_lose_views_keep_one_at_least(samples: SampleSet) -> None:
    drop = AugmentConfig(drop_views=1.0)
    kept = torch.cat([batch_of(samples, drop, step=step).present for step in range(40)])
    assert kept.any(dim=1).all()
    assert not kept.all()
    assert (kept.sum(dim=1) == 1).any()


def test_pixels_stay_in_their_range(samples: SampleSet) -> None:
    views = batch_of(samples, AugmentConfig(brightness=1.0)).views
    assert float(views.min()) >= 0.0
    assert float(views.max()) <= 255.0


def test_balance_weights_draw_every_action_equally_often_at_one(samples: SampleSet) -> None:
    weights = balance_weights(samples.keyframes, 1.0)
    by_action: dict[str, float] = {}
    for keyframe, weight in zip(samples.keyframes, weights, strict=True):
        assert keyframe.action is not None
        by_action[keyframe.action.text] = by_action.get(keyframe.action.text, 0.0) + weight
    assert list(by_action.values()) == pytest.approx([1.0] * len(by_action))
    assert balance_weights(samples.keyframes, 0.0).tolist() == [1.0] * 12


def test_draw_indices_repeats_none_while_there_are_enough() -> None:
    weights = np.ones(10)
    assert sorted(draw_indices(weights, 10, seed=(1, 0, 0)).tolist()) == list(range(10))
    assert len(draw_indices(weights, 25, seed=(1, 0, 0))) == 25


def test_rows_of_a_process_are_those_of_the_whole_batch(samples: SampleSet) -> None:
    whole = batch_of(samples, AugmentConfig(), step=5)
    parts = [batch_of(samples, AugmentConfig(), step=5, rows=slice(i, i + 2)) for i in (0, 2, 4)]
    for name in ("views", "present", "is_corner"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(whole, name))
    for name in ("ids", "answer_at", "keep"):
        joined = torch.cat([getattr(p.text, name) for p in parts])
        assert torch.equal(joined, getattr(whole.text, name))
    assert sum((p.sample_tokens for p in parts), ()) == whole.sample_tokens


def test_epochs_show_every_sample_once(samples: SampleSet) -> None:
    drawn: list[int] = []
    for step in range(6):  # 6 x 4 are two epochs of 12
        looks = draw_looks(samples.keyframes, np.ones(12), 4, seed=(1, 0, step), looks=None)
        drawn += [look.index for look in looks]
    assert sorted(drawn[:12]) == sorted(drawn[12:]) == list(range(12))
    assert drawn[:12] != drawn[12:]


def test_an_epoch_may_end_within_a_batch(samples: SampleSet) -> None:
    drawn: list[int] = []
    for step in range(12):  # 12 x 5 are five epochs of 12
        looks = draw_looks(samples.keyframes, np.ones(12), 5, seed=(1, 0, step), looks=None)
        drawn += [look.index for look in looks]
    assert all(sorted(drawn[i : i + 12]) == list(range(12)) for i in range(0, 60, 12))


def test_limited_looks_come_again_with_the_same_key_and_content(samples: SampleSet) -> None:
    seen: dict[str, list[Look]] = {}
    for step in range(30):
        for look in draw_looks(samples.keyframes, np.ones(12), 12, seed=(1, 0, step), looks=2):
            assert look.key is not None
            seen.setdefault(look.key, []).append(look)
    assert len(seen) == 24
    assert all(len(set(looks)) == 1 for looks in seen.values())
    keys = {
        look.key
        for step in (0, 1)
        for look in draw_looks(samples.keyframes, np.ones(12), 12, seed=(1, 1, step), looks=2)
    }
    assert keys <= set(seen)  # another stage sees the same looks, so that both share a store


def test_a_look_that_returns_is_the_same_in_a_set_and_in_its_subsets(samples: SampleSet) -> None:
    subset = samples.subset(range(5, 12))
    seeds: dict[str, tuple[int, ...]] = {}
    for part in (samples, subset):
        for step in range(20):
            weights = np.ones(len(part.keyframes))
            for look in draw_looks(part.keyframes, weights, 6, seed=(1, 0, step), looks=2):
                assert look.key is not None
                assert seeds.setdefault(look.key, look.seed) == look.seed
    assert len(seeds) == 24
