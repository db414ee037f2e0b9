"""For people who would rather look than read: a contact sheet, and shares in a few lines."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from clkd_core.data.keyframes import Keyframe
from clkd_core.data.world.frames import encode_jpeg
from clkd_core.files import write_bytes_atomic
from clkd_core.types import SpeedAction

_GRID = (
    ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"),
    ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"),
)
_VIEW = (240, 135)  # width, height of a view on the sheet
_STANDS_MPS = 0.5


def whole_scenes(keyframes: Iterable[Keyframe]) -> list[Keyframe]:
    """Without the twins whose questions are about a part of a view: each instant once."""
    return [k for k in keyframes if k.region is None]


def write_overview(keyframes: Sequence[Keyframe], path: Path, tiles: int = 12) -> None:
    """A picture of keyframes from several drives, six views each, labelled.

    Corner cases come first, then drives spread over the set.
    """
    chosen = _choose(keyframes, tiles)
    columns = 2
    blank = np.zeros_like(_tile(chosen[0]))
    pictures = [_tile(k) for k in chosen] + [blank] * (-len(chosen) % columns)
    rows = [np.hstack(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]
    write_bytes_atomic(path, encode_jpeg(np.vstack(rows), 88))


def _choose(keyframes: Sequence[Keyframe], tiles: int) -> list[Keyframe]:
    by_scene: dict[str, list[Keyframe]] = {}
    for keyframe in whole_scenes(keyframes):
        by_scene.setdefault(keyframe.scene, []).append(keyframe)
    scenes = list(by_scene.values())
    corner = [s for s in scenes if s[0].is_corner][: tiles // 2]
    regular = [s for s in scenes if not s[0].is_corner]
    step = max(1, len(regular) // max(1, tiles - len(corner)))
    drives = (corner + regular[::step])[:tiles]
    return [drive[(3 + 7 * i) % len(drive)] for i, drive in enumerate(drives)]


def _tile(keyframe: Keyframe) -> NDArray[np.uint8]:
    """(2 * 135 + 24, 3 * 240, 3) RGB."""
    views = np.vstack([np.hstack([_view(keyframe, c) for c in row]) for row in _GRID])
    strip = np.full((24, views.shape[1], 3), 20, np.uint8)
    speed = keyframe.ego.speed_mps if keyframe.ego else float("nan")
    command = keyframe.command.value if keyframe.command else "no route"
    action = keyframe.action.text if keyframe.action else "no label"
    text = f"{keyframe.scene} {keyframe.case_name} | {speed:.1f} m/s, {command} -> {action}"
    cv2.putText(
        strip, text, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 220, 60), 1, cv2.LINE_AA
    )
    return np.vstack([strip, views])


def _view(keyframe: Keyframe, camera: str) -> NDArray[np.uint8]:
    image = cv2.imread(str(keyframe.image_paths[camera]), cv2.IMREAD_COLOR)
    if image is None:
        return np.zeros((_VIEW[1], _VIEW[0], 3), np.uint8)
    rgb = cv2.cvtColor(cv2.resize(image, _VIEW, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    return np.asarray(rgb, dtype=np.uint8)


def share_lines(keyframes: Sequence[Keyframe]) -> list[str]:
    """Label statistics: shares of actions and cases, of standing starts, and what is asked."""
    instants = whole_scenes(keyframes)
    labelled = [k for k in instants if k.action is not None]
    speed = Counter(k.action.speed.name for k in labelled if k.action)
    path = Counter(k.action.path.name for k in labelled if k.action)
    case = Counter(k.case_name for k in instants)
    kinds = Counter(q.kind for k in keyframes for q in k.questions)
    stand = [k for k in labelled if k.ego and k.ego.speed_mps < _STANDS_MPS]
    starts = sum(1 for k in stand if k.action and k.action.speed != SpeedAction.STOP)
    return [
        f"speed: {_shares(speed)}",
        f"path: {_shares(path)}",
        f"case: {_shares(case)}",
        f"standing: {len(stand)} keyframes, {starts / max(1, len(stand)):.0%} about to start",
        f"questions: {', '.join(f'{kind} {n}' for kind, n in kinds.items())}",
    ]


def _shares(counts: Counter[str]) -> str:
    total = max(1, sum(counts.values()))
    return ", ".join(f"{name} {n / total:.1%}" for name, n in counts.most_common())
