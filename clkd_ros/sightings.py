"""What the evaluator hears, written into its ledger.

Every function takes the ledger, the message and the reading of the clock when it was seen [ns],
and raises FrameError on a message that cannot be used.
"""

import math
from collections.abc import Callable
from typing import Any

from clkd_core.errors import FrameError
from clkd_core.runtime.health import DROPPED, FLAGGED
from clkd_core.runtime.ledger import KeyframeLedger
from clkd_ros import convert, messages

Note = Callable[[KeyframeLedger, Any, int], None]
"""What every function here is, once its leading arguments are bound."""

_OURS = {"rate_hz", "answered", "latency_p50_ms"}
"""What ``convert.health_to_msg`` always says; other statuses on ``/diagnostics`` are not ours."""
_NUMBERS = ("rate_hz", "answered", "latency_", DROPPED, FLAGGED, "image ", "memory_")
"""What the names of numbers among it begin with."""
_MOST_NODES, _MOST_VALUES, _MOST_CHARACTERS = 32, 128, 300
"""What is taken of what anybody may say."""


def note_image(
    camera: str, sent_ns: int | None, ledger: KeyframeLedger, cdr: bytes, seen_ns: int
) -> None:
    """An image passed; only its stamp is read."""
    stamp_ns = convert.stamp_ns_from_cdr(cdr)
    ledger.saw_image(camera, stamp_ns, sent_ns=sent_ns, seen_ns=seen_ns)


def note_odometry(ledger: KeyframeLedger, msg: messages.Odometry, seen_ns: int) -> None:
    """An odometry sample passed."""
    try:
        ledger.saw_ego(convert.ego_state_from_msg(msg))
    except FrameError as err:
        ledger.saw_ego_fault(convert.stamp_ns_from_msg(msg.header.stamp), str(err))
        raise


def note_command(ledger: KeyframeLedger, msg: messages.String, seen_ns: int) -> None:
    """The route command from now on."""
    try:
        ledger.saw_command(convert.route_command_from_msg(msg))
    except FrameError as err:
        ledger.saw_command_fault(str(err))
        raise


def note_label(ledger: KeyframeLedger, msg: messages.MetaAction, seen_ns: int) -> None:
    """A keyframe is to be answered."""
    ledger.saw_label(
        convert.stamp_ns_from_msg(msg.header.stamp),
        convert.action_from_msg(msg),
        scene=msg.scene,
        case_name=msg.case_name,
        seen_ns=seen_ns,
    )


def note_truth(ledger: KeyframeLedger, msg: messages.PlannedTrajectory, seen_ns: int) -> None:
    """Where the vehicle went from a keyframe."""
    stamp_ns = convert.stamp_ns_from_msg(msg.header.stamp)
    ledger.saw_truth(stamp_ns, convert.trajectory_from_msg(msg))


def note_decision(ledger: KeyframeLedger, msg: messages.MetaAction, seen_ns: int) -> None:
    """The slow system answered."""
    response_ms = float(msg.node_response_ms)
    if response_ms < 0:
        raise FrameError(f"decision has node_response_ms {response_ms}, expected 0 or more")
    decision = convert.decision_from_msg(msg)
    ledger.saw_decision(decision, seen_ns=seen_ns, node_response_ms=response_ms)


def note_plan(ledger: KeyframeLedger, msg: messages.PlannedTrajectory, seen_ns: int) -> None:
    """The fast system answered."""
    ledger.saw_plan(convert.plan_from_msg(msg))


def note_diagnostics(ledger: KeyframeLedger, msg: messages.DiagnosticArray, seen_ns: int) -> None:
    """Nodes said how they are; of each the last word counts, and of it what can be used."""
    bad: list[str] = []
    for status in msg.status:
        said = {value.key: value.value for value in status.values[:_MOST_VALUES]}
        if not said.keys() >= _OURS:
            continue
        name = status.name[:_MOST_CHARACTERS]
        wrong = [key for key, text in said.items() if not _is_usable(key, text)]
        bad += [f"{name} {key[:60]} {said.pop(key)[:60]!r}" for key in wrong]
        if name in ledger.nodes or len(ledger.nodes) < _MOST_NODES:
            ledger.nodes[name] = said
    if bad:
        raise FrameError(f"diagnostics not usable: {'; '.join(bad[:3])}, {len(bad)} in all")


def _is_usable(key: str, text: str) -> bool:
    if max(len(key), len(text)) > _MOST_CHARACTERS:
        return False
    if not key.startswith(_NUMBERS):
        return True
    try:
        number = float(text)
    except ValueError:
        return False
    return number >= 0 or (math.isnan(number) and key.startswith("latency_"))
