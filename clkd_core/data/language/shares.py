"""Which scenes are judged on, how many regular cases there are per corner case, who asks what."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.language.sources import Source
from clkd_core.errors import ConfigError, DataError


def assign_splits(
    sources: Sequence[Source], *, val_frac: float, val_scenes: Sequence[str] | None, seed: int
) -> dict[str, str]:
    """``train`` or ``val`` for every scene.

    A scene keeps the split that its source gives it. The rest goes to ``val`` if named, or a
    share of each source, rounded, and one scene at least where there are two; which ones follows
    from the seed and the scenes' names alone.

    Args:
        sources: whose scenes are to have a split.
        val_frac: share of the scenes without a split of their own, 0 <= share < 1.
        val_scenes: names in place of the share.
        seed: other seeds choose other scenes.

    Raises:
        ConfigError: a scene of ``val_scenes`` is not there, or has a split of its own.
        DataError: two sources name a scene alike.
    """
    splits: dict[str, str] = {}
    free: set[str] = set()
    for source in sources:
        scenes = list(dict.fromkeys(k.scene for k in source.keyframes))
        twice = sorted(set(scenes) & set(splits))
        if twice:
            raise DataError(f"scene {twice[0]} of {source.name} is in another source, too")
        loose = [scene for scene in scenes if scene not in source.own_split]
        free |= set(loose)
        chosen = val_scenes if val_scenes is not None else _drawn(loose, val_frac, seed)
        judged = set(chosen)
        splits |= {s: source.own_split.get(s, "val" if s in judged else "train") for s in scenes}
    unknown = [scene for scene in val_scenes or () if scene not in free]
    if unknown:
        raise ConfigError(
            f"val names scene {unknown[0]} ({len(unknown)} in all) that is not there or has a "
            "split of its own"
        )
    return splits


def balance_cases(
    sources: Sequence[Source], splits: Mapping[str, str], *, regular_per_corner: float, seed: int
) -> dict[str, int]:
    """Leave out questions of ``train`` until there are so many regular ones per corner one.

    The side that has too many loses some, drawn evenly; its keyframes that keep neither question
    nor action go, too. Questions count and not keyframes: DriveLM asks about 90 on a keyframe and
    CODA-LM one or two, so the paper's 17 : 1 can be one of questions only.

    Returns:
        by side how many questions were left out.

    Raises:
        DataError: one of the sides has no question.
    """
    trained = [k for s in sources for k in s.keyframes if splits[k.scene] == "train"]
    regular = sum(len(k.questions) for k in trained if not k.is_corner)
    corner = sum(len(k.questions) for k in trained if k.is_corner)
    if not regular or not corner:
        raise DataError(
            f"{regular_per_corner:g} regular questions per corner question are wanted, train has "
            f"{regular} and {corner}, expected some of both"
        )
    keep_regular = min(regular, round(corner * regular_per_corner) or 1)
    keep_corner = min(corner, round(regular / regular_per_corner) or 1)
    if keep_regular < regular:
        keep_corner = corner
    for is_corner, keep in ((False, keep_regular), (True, keep_corner)):
        _thin_out(sources, splits, is_corner=is_corner, keep=keep, seed=seed)
    return {"regular": regular - keep_regular, "corner": corner - keep_corner}


def deal_questions(keyframe: Keyframe, most: int, seed: int) -> Iterator[Keyframe]:
    """The keyframe as several of the same images, each with at most so many of its questions.

    They are shuffled, so that kinds mix; ``-1``, ``-2`` is added to the token.
    """
    if len(keyframe.questions) <= most:
        yield keyframe
        return
    rng = np.random.default_rng((seed, zlib.crc32(keyframe.sample_token.encode())))
    order = rng.permutation(len(keyframe.questions))
    for number, start in enumerate(range(0, len(order), most), 1):
        yield replace(
            keyframe,
            sample_token=f"{keyframe.sample_token}-{number}",
            questions=tuple(keyframe.questions[i] for i in order[start : start + most]),
        )


def _drawn(scenes: Sequence[str], share: float, seed: int) -> list[str]:
    count = round(share * len(scenes))
    if share > 0 and len(scenes) > 1:
        count = max(1, count)

    def place(scene: str) -> bytes:
        return hashlib.sha256(f"{seed}/{scene}".encode()).digest()

    return sorted(scenes, key=place)[:count]


def _thin_out(
    sources: Sequence[Source],
    splits: Mapping[str, str],
    *,
    is_corner: bool,
    keep: int,
    seed: int,
) -> None:
    """Keep so many questions of one side of ``train``."""

    def concerned(keyframe: Keyframe) -> bool:
        return keyframe.is_corner is is_corner and splits[keyframe.scene] == "train"

    keyframes = [k for source in sources for k in source.keyframes if concerned(k)]
    places = [(k.sample_token, i) for k in keyframes for i in range(len(k.questions))]
    drawn = np.random.default_rng((seed, int(is_corner))).permutation(len(places))[:keep]
    kept = {places[index] for index in drawn}
    for source in sources:
        source.keyframes = [
            thinned
            for keyframe in source.keyframes
            if (thinned := _keeping(keyframe, kept) if concerned(keyframe) else keyframe).questions
            or thinned.action is not None
        ]


def _keeping(keyframe: Keyframe, kept: set[tuple[str, int]]) -> Keyframe:
    asked = enumerate(keyframe.questions)
    return replace(
        keyframe, questions=tuple(q for i, q in asked if (keyframe.sample_token, i) in kept)
    )
