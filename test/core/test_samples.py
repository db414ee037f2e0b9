from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_vlm import SQUARES_VERSION, tiny_tokenizer, write_squares

from clkd_core.data.keyframes import load_keyframes
from clkd_core.data.prompts import plan_question
from clkd_core.distill.config import AugmentConfig
from clkd_core.distill.samples import (
    SampleSet,
    balance_weights,
    build_batch,
    conversation,
    draw_indices,
    encode_conversations,
    load_samples,
)
from clkd_core.errors import DataError
from clkd_core.types import CAMERAS

NOTHING_VARIED = AugmentConfig(
    mirror=0.0, drop_views=0.0, drop_ego=0.0, drop_command=0.0, brightness=0.0, zoom=0.0
)
TOKENIZER = tiny_tokenizer()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleSet:
    root = tmp_path_factory.mktemp("squares")
    write_squares(root / "set", train=12, val=2)
    keyframes = load_keyframes(root / "set", SQUARES_VERSION, "train")
    return load_samples(keyframes, (36, 64), workers=2)


def batch_of(samples: SampleSet, augment: AugmentConfig, *, step: int = 0, count: int = 6):
    return build_batch(
        samples,
        range(count),
        TOKENIZER,
        augment,
        questions_per_sample=2,
        seed=(1, 0, step),
        device=torch.device("cpu"),
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
    text = encode_conversations([turns, turns[:1]], TOKENIZER)
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


def test_cached_views_are_read_back_and_renewed_when_an_image_changes(tmp_path: Path) -> None:
    write_squares(tmp_path / "set", train=2, val=1)
    keyframes = load_keyframes(tmp_path / "set", SQUARES_VERSION, "train")
    cache = tmp_path / "cache"
    first = load_samples(keyframes, (36, 64), workers=1, cache=cache)
    assert len(list(cache.iterdir())) == 1
    again = load_samples(keyframes, (36, 64), workers=1, cache=cache)
    assert np.array_equal(first.views, again.views)
    front, back = (keyframes[0].image_paths[c] for c in ("CAM_FRONT", "CAM_BACK"))
    front.write_bytes(back.read_bytes())
    changed = load_samples(keyframes, (36, 64), workers=1, cache=cache)
    assert np.array_equal(changed.views[0, 0], changed.views[0, CAMERAS.index("CAM_BACK")])


def test_damaged_image_is_named_with_its_keyframe(tmp_path: Path) -> None:
    write_squares(tmp_path / "set", train=2, val=1)
    keyframes = load_keyframes(tmp_path / "set", SQUARES_VERSION, "train")
    keyframes[1].image_paths["CAM_BACK"].write_bytes(b"no image")
    with pytest.raises(DataError, match="keyframe token-001: CAM_BACK"):
        load_samples(keyframes, (36, 64), workers=2)
