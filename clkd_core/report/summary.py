"""The headline of a run in a few lines of plain text, for a terminal."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clkd_core.report.build import MARKDOWN_FILE, METRICS_FILE, PAGE_FILE
from clkd_core.report.scoring.words import NOT_LIVE

_MODELS = {
    "student": "student",
    "blank": "blank images",
    "shuffled": "shuffled images",
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
        *_live_lines(metrics["live_vs_direct"]),
        f"planner's L2: {_plan_words(metrics['l2_m']['planner'], _metres)}",
        f"planner's collisions: {_plan_words(metrics['collision']['planner'], _percent)}",
        *_text_lines(metrics["texts"]),
        *_generated_lines(metrics["generated_decisions"]),
    ]


def describe_report(run: Path, metrics: Mapping[str, Any]) -> list[str]:
    """The headline, and where the report is."""
    files = ", ".join(str(run / name) for name in (PAGE_FILE, MARKDOWN_FILE, METRICS_FILE))
    return [*summarize(metrics), f"report: {files}"]


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


def _plan_words(value: Any, words: Callable[[float], str]) -> str:
    if isinstance(value, str):
        return value
    scores = value["all"]
    return " | ".join(
        f"{convention} "
        + " / ".join(words(scores[key][horizon]["value"]) for horizon in ("1s", "2s", "3s"))
        + " at 1/2/3 s"
        for key, convention in (
            ("average_vad_st_p3", "average (VAD)"),
            ("at_horizon_uniad", "at horizon (UniAD)"),
        )
    )


def _metres(value: float) -> str:
    return f"{value:.2f} m"


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _live_lines(value: Any) -> list[str]:
    if isinstance(value, str):
        return [] if value == NOT_LIVE else [f"live against direct: {value}"]
    return [value["words"]]


def _text_lines(texts: Any) -> list[str]:
    if isinstance(texts, str):
        return [f"answers in words: {texts}"]
    return [
        f"answers in words, {case}: {scores['questions']} questions | "
        f"BLEU-4 {scores['bleu4']['value']:.3f} | ROUGE-L {scores['rouge_l']['value']:.3f} | "
        f"published: {_published_words(scores['published'])}"
        for case, scores in texts["all"].items()
    ]


def _published_words(value: Any) -> str:
    if isinstance(value, str):
        return value
    return " | ".join(f"{name} {value[name]:.3f}" for name in ("bleu4", "meteor", "rouge_l"))


def _generated_lines(decisions: Any) -> list[str]:
    if isinstance(decisions, str):
        return [f"the decision in words: {decisions}"]
    ours, senna = decisions["ours"], decisions["senna_compat"]
    return [
        f"the decision in words: accuracy {ours['accuracy']['value']:.1%} read strictly, "
        f"{senna['accuracy']:.1%} by Senna's script",
        _one_pass_line(decisions),
    ]


def _one_pass_line(decisions: Any) -> str:
    legal = decisions["legal_share"]
    share = decisions["agreement_where_legal"]
    agreement = share if isinstance(share, str) else f"{share['value']:.2%}"
    return (
        f"greedy text against one pass: {legal:.1%} legal texts | agreement among them: "
        f"{agreement} | {len(decisions['otherwise'])} otherwise"
    )
