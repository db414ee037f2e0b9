"""What the evaluator hears, written into its ledger.

Every function takes the ledger, the message and the reading of the clock when it was seen [ns],
and raises FrameError on a message that cannot be used.
"""

from collections.abc import Callable
from typing import Any

from clkd_core.errors import FrameError
from clkd_core.runtime.ledger import KeyframeLedger
from clkd_ros import convert, messages

Note = Callable[[KeyframeLedger, Any, int], None]
"""What every function here is, once its leading arguments are bound."""


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
    ledger.saw_decision(
        convert.decision_from_msg(msg),
        seen_ns=seen_ns,
        node_response_ms=float(msg.node_response_ms),
    )


def note_plan(ledger: KeyframeLedger, msg: messages.PlannedTrajectory, seen_ns: int) -> None:
    """The fast system answered."""
    ledger.saw_plan(convert.plan_from_msg(msg))
