"""What only a live run has: how it differs from a direct one, and what its nodes said."""

from collections.abc import Mapping
from html import escape

from clkd_core.report.layout.tables import build_table
from clkd_core.report.layout.texts import shorten
from clkd_core.report.provenance import Provenance
from clkd_core.report.scoring.scores import RunScores
from clkd_core.report.scoring.words import why_no_agreement
from clkd_core.runtime.agreement import Agreement, Difference, describe_agreement
from clkd_core.runtime.health import DROPPED, FLAGGED

SHOWN_DIFFERENCES = 100
"""Differing keyframes that are listed; all of them are in ``metrics.json``."""

DIFFERENCE_HEAD = ("keyframe", "drive", "live", "direct", "outcome", "why")

LIVE_WORDS = (
    "The same keyframes were answered by the same student without a transport. A live answer may "
    "differ where it came late or not at all, or where an input did not come in time and the "
    "answer says so; anything else is unexplained."
)


def build_agreement(scores: RunScores, provenance: Provenance) -> str:
    """The sentence, and a table of the keyframes that were answered otherwise; or a word."""
    agreement = scores.agreement
    if agreement is None:
        reason = escape(why_no_agreement(scores, provenance))
        return f'<p class="word">Live against direct: {reason}.</p>'
    rows = [
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for cells in difference_rows(agreement)
    ]
    table = build_table(DIFFERENCE_HEAD, rows) if rows else ""
    return f"<p>{escape(describe_agreement(agreement))}.</p>{table}"


def difference_rows(agreement: Agreement) -> list[list[str]]:
    """Cells under :data:`DIFFERENCE_HEAD`, the unexplained first; at the end how many are left."""
    ordered = sorted(agreement.differences, key=lambda one: (bool(one.explanation), one.stamp_ns))
    rows = [_difference_row(one) for one in ordered[:SHOWN_DIFFERENCES]]
    left = len(ordered) - len(rows)
    return [*rows, [f"and {left} more in metrics.json", *[""] * 5]] if left else rows


def _difference_row(one: Difference) -> list[str]:
    actions = [action.text if action else "none" for action in (one.live, one.direct)]
    why = one.explanation or "unexplained"
    return [str(one.stamp_ns), shorten(one.scene), *actions, one.outcome.value, shorten(why)]


def describe_modes(scores: RunScores) -> str:
    """``following 219 (99.1%), without decision 1 (0.5%), ...``."""
    total = sum(scores.plan_modes.values())
    return ", ".join(
        f"{mode.replace('_', ' ')} {count} ({count / total:.1%})"
        for mode, count in scores.plan_modes.items()
    )


def said_by_nodes(provenance: Provenance) -> dict[str, str]:
    """By node: answers, latency, drops and flags since its start, in one line."""
    return {
        shorten(name): shorten("; ".join(_said(values)))
        for name, values in sorted(provenance.nodes.items())
    }


def _said(values: Mapping[str, str]) -> list[str]:
    latencies = [values.get(f"latency_{name}_ms", "?") for name in ("p50", "p95", "p99")]
    said = [f"{values.get('answered', '?')} answered", f"p50, p95, p99 {', '.join(latencies)} ms"]
    for words, prefix in (("drops", DROPPED), ("flags", FLAGGED), ("images unused", "image ")):
        counts = [
            f"{name.removeprefix(prefix)} {count}"
            for name, count in values.items()
            if name.startswith(prefix)
        ]
        said += [f"{words}: {', '.join(counts)}"] if counts else []
    if "memory_mib" in values:
        said.append(f"memory {values['memory_mib']} MiB")
    return said
