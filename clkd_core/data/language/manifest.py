"""``manifest.json`` beside a merged set: what is in it, where it came from, what was left out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.language.sources import Source
from clkd_core.data.sidecar import SPLITS
from clkd_core.files import sha256_of

MANIFEST = "manifest.json"
FORMAT = 1

SPLIT_RULE = (
    "by scene: CODA-LM's Train is train, its Val, Test and Mini are val; of the other scenes of "
    "each source those of rules.val_scenes, else the share rules.val_frac drawn by rules.seed"
)


def build_manifest(
    sources: Sequence[Source],
    splits: Mapping[str, str],
    *,
    version: str,
    rules: Mapping[str, Any],
    thinned: Mapping[str, int] | None,
    sidecar: Path,
    records: int,
) -> dict[str, Any]:
    """What is written to the file.

    Args:
        sources: with the keyframes that the set has.
        splits: by scene.
        version: name of the set's folder.
        rules: values that decided what is in it.
        thinned: questions left out for the ratio, by side.
        sidecar: the file as written.
        records: its lines.

    Raises:
        DataError: a file cannot be read.
    """
    keyframes = [k for source in sources for k in source.keyframes]
    scenes = Counter(splits[scene] for scene in {k.scene for k in keyframes})
    return {
        "format": FORMAT,
        "version": version,
        "rules": dict(rules),
        "split": {"rule": SPLIT_RULE, "scenes": {split: scenes[split] for split in SPLITS}},
        "ratio": {
            split: count_ratio([k for k in keyframes if splits[k.scene] == split])
            for split in SPLITS
        },
        "left_out_for_ratio": thinned,
        "sources": {source.name: count_source(source, splits) for source in sources},
        "sidecar": {"path": sidecar.name, "records": records, "sha256": sha256_of(sidecar)},
        "inputs": hash_inputs(path for source in sources for path in source.inputs),
    }


def count_source(source: Source, splits: Mapping[str, str]) -> dict[str, Any]:
    """A source's part of the manifest.

    Args:
        source: with the keyframes that were written.
        splits: by scene.
    """
    counts: dict[str, Any] = {"keyframes": {}, "questions": {}, "cases": {}}
    for split in SPLITS:
        chosen = [k for k in source.keyframes if splits[k.scene] == split]
        counts["keyframes"][split] = len(chosen)
        counts["questions"][split] = _sorted(Counter(q.kind for k in chosen for q in k.questions))
        counts["cases"][split] = _sorted(Counter(k.case_name for k in chosen))
    return {**counts, "left_out": _sorted(source.skips.counts), **source.notes}


def count_ratio(keyframes: Sequence[Keyframe]) -> dict[str, Any]:
    """Regular and corner keyframes and questions, and how many of the one per one of the other.

    Where there is no corner case the ratios are None.
    """
    sides = {"regular": (0, 0), "corner": (0, 0)}
    for keyframe in keyframes:
        side = "corner" if keyframe.is_corner else "regular"
        sides[side] = (sides[side][0] + 1, sides[side][1] + len(keyframe.questions))
    units = ("keyframes", "questions")
    per = [
        round(regular / corner, 4) if corner else None
        for regular, corner in zip(sides["regular"], sides["corner"], strict=True)
    ]
    counts = {side: dict(zip(units, values, strict=True)) for side, values in sides.items()}
    return {**counts, "regular_per_corner": dict(zip(units, per, strict=True))}


def hash_inputs(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Name, size and SHA-256 of every input file.

    Raises:
        DataError: a file cannot be read.
    """
    return [
        {"path": str(path), "sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in paths
    ]


def describe_manifest(manifest: Mapping[str, Any]) -> list[str]:
    """Counts, questions by kind and ratios in a few lines."""
    lines = []
    for name, source in manifest["sources"].items():
        for split in SPLITS:
            questions = source["questions"][split]
            kinds = ", ".join(f"{kind} {count}" for kind, count in questions.items())
            lines.append(
                f"{name}, {split}: {source['keyframes'][split]} keyframes, "
                f"{sum(questions.values())} questions" + (f" ({kinds})" if kinds else "")
            )
    for split in SPLITS:
        per = manifest["ratio"][split]["regular_per_corner"]
        lines.append(
            f"regular per corner, {split}: {_ratio(per['questions'])} by questions, "
            f"{_ratio(per['keyframes'])} by keyframes"
        )
    return lines


def _ratio(value: float | None) -> str:
    return "no corner case" if value is None else f"{value:.2f}"


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))
