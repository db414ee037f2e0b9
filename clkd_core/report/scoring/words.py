"""What stands where a number cannot be known: a word, never a zero."""

from clkd_core.report.scoring.scores import RunScores

NOT_LABELLED = "not labelled"
NOT_MEASURED = "not measured"
NO_PLANNER = "no planner"
NO_QUESTIONS = "no questions"
NOT_BUILT = "not built"
NOT_GENERATED = "not generated"


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


def why_no_decisions(scores: RunScores) -> str:
    """For decisions in words that nobody wrote."""
    return NOT_LABELLED if scores.actions is None else NOT_GENERATED
