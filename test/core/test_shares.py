"""clkd_core.data.language.shares: splits by scene, the ratio of cases, questions dealt."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clkd_core.data.keyframes import Keyframe, QuestionAnswer
from clkd_core.data.language.shares import assign_splits, balance_cases, deal_questions
from clkd_core.data.language.sources import Source
from clkd_core.errors import ConfigError, DataError
from clkd_core.types import MetaAction, PathAction, SpeedAction

STOP = MetaAction(SpeedAction.STOP, PathAction.STRAIGHT)


def keyframe(token: str, scene: str, questions: int, case: str = "regular") -> Keyframe:
    return Keyframe(
        sample_token=token,
        scene=scene,
        case_name=case,
        stamp_ns=0,
        image_paths={"CAM_FRONT": Path("a.jpg")},
        image_stamps_ns={"CAM_FRONT": 0},
        ego=None,
        command=None,
        future=None,
        action=None,
        agents=(),
        questions=tuple(
            QuestionAnswer(kind="planning", question=f"{token} {n}?", answer="Yes.")
            for n in range(questions)
        ),
    )


def source(name: str, case: str, sizes: Mapping[str, int] | list[int]) -> Source:
    """A keyframe per scene with so many questions."""
    counts = sizes if isinstance(sizes, Mapping) else {str(n): s for n, s in enumerate(sizes)}
    frames = [keyframe(f"{name}{s}", f"{name}-{s}", count, case) for s, count in counts.items()]
    return Source(name=name, keyframes=frames)


def splits_of(sources: list[Source], **changes: object) -> dict[str, str]:
    values = {"val_frac": 0.1, "val_scenes": None, "seed": 1, **changes}
    return assign_splits(sources, **values)  # type: ignore[arg-type]


def questions_of(sources: list[Source], *, corner: bool) -> int:
    return sum(len(k.questions) for s in sources for k in s.keyframes if k.is_corner is corner)


def test_share_of_each_source_is_judged_on_and_the_seed_says_which() -> None:
    sources = [source("a", "regular", [1] * 40), source("b", "cone", [1] * 10)]
    splits = splits_of(sources, val_frac=0.25)
    judged = [scene for scene, split in splits.items() if split == "val"]
    assert len([s for s in judged if s.startswith("a")]) == 10
    assert len([s for s in judged if s.startswith("b")]) == 2
    assert splits == splits_of(sources, val_frac=0.25)
    assert splits != splits_of(sources, val_frac=0.25, seed=2)


def test_two_scenes_give_one_to_judge_on_and_one_gives_none() -> None:
    assert sorted(splits_of([source("a", "regular", [1, 1])]).values()) == ["train", "val"]
    assert splits_of([source("a", "regular", [1])]) == {"a-0": "train"}
    assert set(splits_of([source("a", "regular", [1] * 9)], val_frac=0.0).values()) == {"train"}


def test_scenes_keep_the_split_their_source_gives_them() -> None:
    one = source("a", "cone", [1] * 4)
    one.own_split = {"a-0": "val", "a-1": "train", "a-2": "train"}
    assert splits_of([one]) == {"a-0": "val", "a-1": "train", "a-2": "train", "a-3": "train"}


def test_named_scenes_are_judged_on_and_no_others() -> None:
    sources = [source("a", "regular", [1] * 9), source("b", "cone", [1] * 9)]
    splits = splits_of(sources, val_scenes=("a-3", "b-0"))
    assert [scene for scene, split in splits.items() if split == "val"] == ["a-3", "b-0"]


def test_named_scenes_that_are_not_free_are_an_error() -> None:
    one = source("a", "regular", [1] * 3)
    with pytest.raises(ConfigError, match=r"val names scene b-0 \(1 in all\) that is not there"):
        splits_of([one], val_scenes=("b-0", "a-0"))
    one.own_split = {"a-0": "train"}
    with pytest.raises(ConfigError, match="val names scene a-0"):
        splits_of([one], val_scenes=("a-0",))


def test_scene_of_two_sources_is_refused() -> None:
    two = [source("a", "regular", [1]), replace(source("a", "cone", [1]), name="b")]
    with pytest.raises(DataError, match="scene a-0 of b is in another source, too"):
        splits_of(two)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.lists(st.integers(1, 3), min_size=1, max_size=8),
    st.floats(0.1, 40.0),
)
@settings(max_examples=150, deadline=None)
def test_ratio_is_reached_to_the_nearest_question(
    regular: list[int], corner: list[int], ratio: float
) -> None:
    sources = [source("a", "regular", regular), source("b", "cone", corner)]
    splits = dict.fromkeys((k.scene for s in sources for k in s.keyframes), "train")
    before = {side: questions_of(sources, corner=side) for side in (False, True)}
    left_out = balance_cases(sources, splits, regular_per_corner=ratio, seed=3)
    after = {side: questions_of(sources, corner=side) for side in (False, True)}
    assert left_out == {
        "regular": before[False] - after[False],
        "corner": before[True] - after[True],
    }
    assert min(left_out.values()) == 0, "only the side with too many loses some"
    assert min(after.values()) >= 1
    one_more = abs(after[False] - ratio * after[True])
    assert one_more <= max(0.5, ratio * 0.5) + 1e-9 or 1 in after.values()
    assert all(k.questions for s in sources for k in s.keyframes)


def test_ratio_counts_the_questions_of_train_only_and_leaves_val_alone() -> None:
    sources = [source("a", "regular", [50, 50]), source("b", "cone", [2, 2])]
    splits = {"a-0": "train", "a-1": "val", "b-0": "train", "b-1": "val"}
    left_out = balance_cases(sources, splits, regular_per_corner=17.0, seed=1)
    assert left_out == {"regular": 16, "corner": 0}
    assert [len(k.questions) for k in sources[0].keyframes] == [34, 50]


def test_what_is_left_out_follows_from_the_seed_and_the_order_stays() -> None:
    def left(seed: int) -> list[str]:
        sources = [source("a", "regular", [30]), source("b", "cone", [1])]
        splits = {"a-0": "train", "b-0": "train"}
        balance_cases(sources, splits, regular_per_corner=10.0, seed=seed)
        return [q.question for q in sources[0].keyframes[0].questions]

    assert left(1) == left(1) != left(2)
    numbers = [int(question.split()[1].strip("?")) for question in left(1)]
    assert numbers == sorted(numbers) and len(numbers) == 10


def test_keyframe_that_keeps_no_question_goes_unless_it_has_an_action() -> None:
    sources = [source("a", "regular", [1] * 20), source("b", "cone", [1])]
    sources[0].keyframes[3] = replace(sources[0].keyframes[3], action=STOP)
    splits = dict.fromkeys((k.scene for s in sources for k in s.keyframes), "train")
    balance_cases(sources, splits, regular_per_corner=2.0, seed=1)
    kept = sources[0].keyframes
    assert sum(len(k.questions) for k in kept) == 2
    assert all(k.questions or k.action for k in kept)
    assert any(k.action for k in kept) and len(kept) <= 3


def test_ratio_without_questions_on_a_side_is_an_error() -> None:
    sources = [source("a", "regular", [3])]
    with pytest.raises(DataError, match="train has 3 and 0, expected some of both"):
        balance_cases(sources, {"a-0": "train"}, regular_per_corner=17.0, seed=1)


def test_dealt_questions_come_once_each_in_records_of_at_most_so_many() -> None:
    whole = keyframe("t", "s", 10)
    dealt = list(deal_questions(whole, 4, seed=1))
    assert [len(k.questions) for k in dealt] == [4, 4, 2]
    assert [k.sample_token for k in dealt] == ["t-1", "t-2", "t-3"]
    asked = [q for k in dealt for q in k.questions]
    assert sorted(q.question for q in asked) == sorted(q.question for q in whole.questions)
    assert tuple(asked) != whole.questions, "kinds are to mix"
    assert list(deal_questions(whole, 10, seed=1)) == [whole]
    assert [k.questions for k in deal_questions(whole, 4, seed=1)] == [k.questions for k in dealt]
