"""The headline of a run in a few lines of plain text, for a terminal."""

from collections.abc import Mapping
from typing import Any

_MODELS = {
    "student": "student",
    "blank": "blank images",
    "ego_status": "ego status only",
    "majority": "majority answer",
}


def summarize(metrics: Mapping[str, Any]) -> list[str]:
    """Lines from what ``metrics.json`` holds; a word where a number cannot be known."""
    return [
        _frames_line(metrics),
        *_action_lines(metrics["actions"]),
        *(
            f"rsdr at 80 ms ({name}): {_rsdr_words(value)}"
            for name, value in metrics["rsdr"].items()
        ),
        *(
            f"{name}: {_latency_words(value)}"
            for name, value in metrics["latency"].items()
            if name in ("inference_ms", "response_ms")
        ),
        f"planner's L2: {_l2_words(metrics['l2_m']['planner'])}",
    ]


def _frames_line(metrics: Mapping[str, Any]) -> str:
    frames = metrics["frames"]
    kind = "labelled keyframes" if frames["labelled"] else "frames, not labelled"
    return (
        f"frames: {frames['frames']} {kind} | answered {frames['answered']} "
        f"| late {frames['late']} | dropped {frames['dropped']} "
        f"| degraded {frames['degraded']}"
    )


def _action_lines(actions: Any) -> list[str]:
    if isinstance(actions, str):
        return [f"accuracy and macro-F1: {actions}"]
    return [
        f"{_MODELS[model]:>15}: "
        + " | ".join(
            f"{case} accuracy {cases[case]['accuracy']['value']:.1%}, "
            f"macro-F1 {cases[case]['macro_f1']['value']:.3f}"
            for case in ("regular", "corner", "all")
            if case in cases
        )
        for model in _MODELS
        if (cases := actions.get(model))
    ]


def _rsdr_words(value: Any) -> str:
    if isinstance(value, str):
        return value
    student, majority = (value[model]["all"]["80"] for model in ("student", "majority"))
    return (
        f"{student['value']:.1%} [{student['low']:.1%}, {student['high']:.1%}], "
        f"majority answer {majority['value']:.1%}"
    )


def _latency_words(value: Any) -> str:
    if isinstance(value, str):
        return value
    return " | ".join(f"{name} {value[name]:.1f}" for name in ("p50", "p95", "p99"))


def _l2_words(value: Any) -> str:
    if isinstance(value, str):
        return value
    scores = value["all"]
    return " | ".join(
        f"{words} "
        + " / ".join(f"{scores[key][horizon]['value']:.2f}" for horizon in ("1s", "2s", "3s"))
        + " m at 1/2/3 s"
        for key, words in (
            ("average_vad_st_p3", "average (VAD)"),
            ("at_horizon_uniad", "at horizon (UniAD)"),
        )
    )
