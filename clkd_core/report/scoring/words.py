"""What stands where a number cannot be known: a word, never a zero."""

from clkd_core.report.provenance import Provenance
from clkd_core.report.scoring.scores import RunScores

NOT_LABELLED = "not labelled"
NOT_MEASURED = "not measured"
NO_PLANNER = "no planner"
NO_QUESTIONS = "no questions"
NOT_BUILT = "not built"
NOT_GENERATED = "not generated"
NOT_LIVE = "not live"
NO_LEGAL_TEXT = "no legal text"

MODELS = {
    "student": "Student",
    "blank": "Same student, blank images",
    "shuffled": "Same student, another scene's images",
    "ego_status": "Ego status only, no images",
    "majority": "Majority answer",
}
"""In the order they are shown."""

DIRECT = "direct"
"""In ``Provenance.not_built``: the direct answers that a live run is compared with."""


def why_no_l2(scores: RunScores, model: str) -> str:
    """For a model that is not in ``plans.l2``."""
    if model == "ego_status":
        return NOT_BUILT
    if not scores.has_truth:
        return NOT_LABELLED
    return NO_PLANNER if model == "planner" and not scores.has_plans else NOT_MEASURED


def why_no_collisions(scores: RunScores, model: str) -> str:
    """For a model that is not in ``plans.collisions``."""
    if model == "ego_status":
        return NOT_BUILT
    return NO_PLANNER if model == "planner" and not scores.has_plans else NOT_MEASURED


def why_no_rsdr(scores: RunScores) -> str:
    """For a latency whose RSDR is None."""
    return NOT_LABELLED if scores.actions is None else NOT_MEASURED


def why_not_built(scores: RunScores, provenance: Provenance) -> dict[str, str]:
    """By name: ``not built`` with the reason, of all that stands beside a labelled run."""
    if scores.actions is None:
        return {}
    absent = [model for model in MODELS if model not in scores.actions]
    if provenance.mode == "live" and scores.agreement is None:
        absent.append(DIRECT)
    return {
        name: ": ".join(filter(None, (NOT_BUILT, provenance.not_built.get(name))))
        for name in absent
    }


def why_no_agreement(scores: RunScores, provenance: Provenance) -> str:
    """For a run that is compared with no direct answers."""
    if provenance.mode != "live":
        return NOT_LIVE
    return why_not_built(scores, provenance).get(DIRECT, NOT_LABELLED)


def why_no_decisions(scores: RunScores) -> str:
    """For decisions in words that nobody wrote."""
    return NOT_LABELLED if scores.actions is None else NOT_GENERATED
