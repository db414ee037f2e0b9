"""The evaluator's book: what was shown, what was right, what was answered, and when.

Everything is matched by capture stamp, so that nothing depends on the order in which topics
arrive; every latency is the difference of two readings of one clock. Knows no torch and no ROS.

What is remembered is bounded by the labelled keyframes: of answers and plans to other frames only
the newest are kept, because their label may still be on its way.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from clkd_core.metrics.frames import DEADLINE_MS, FrameRow, compute_outcome
from clkd_core.runtime.sync import (
    LABEL_TOLERANCE_NS,
    FrameContext,
    Known,
    SyncConfig,
    match_stamps,
)
from clkd_core.types import (
    Decision,
    EgoState,
    MetaAction,
    Plan,
    PlanMode,
    RouteCommand,
    Trajectory,
)

_IMAGES_KEPT = 600
"""Per camera: a minute at 10 Hz; an answer looks back a few seconds at most."""

_OTHERS_KEPT = 600
"""Answers to frames that have no label (yet): a minute of them. Plans and futures likewise."""

UNLABELLED_KEPT = 20_000
"""The same as long as no label was seen at all: half an hour at 10 Hz, about 40 MB."""

Item = TypeVar("Item")


class _ByStamp(dict[int, Item], Generic[Item]):
    """Items by stamp: those near a label, and of the others the newest."""

    def __init__(self) -> None:
        super().__init__()
        self._others: deque[int] = deque()
        self.forgotten = 0
        """Items that were not kept."""

    def add(self, stamp_ns: int, item: Item, labels_ns: list[int]) -> None:
        """Keep an item; ``labels_ns`` are those seen so far, in ascending order."""
        if stamp_ns not in self:
            self._others.append(stamp_ns)
        self[stamp_ns] = item
        kept = _OTHERS_KEPT if labels_ns else UNLABELLED_KEPT
        while len(self._others) > kept:
            oldest = self._others.popleft()
            if not _is_near(oldest, labels_ns):
                del self[oldest]
                self.forgotten += 1


def _is_near(stamp_ns: int, labels_ns: list[int]) -> bool:
    at = bisect_left(labels_ns, stamp_ns - LABEL_TOLERANCE_NS)
    return at < len(labels_ns) and labels_ns[at] <= stamp_ns + LABEL_TOLERANCE_NS


@dataclass(kw_only=True)
class _Labelled:
    """One labelled keyframe as far as it is known."""

    scene: str
    case_name: str
    action: MetaAction
    seen_ns: int
    known: Known = field(default_factory=Known)


@dataclass(kw_only=True)
class _Answered:
    """One decision and the two clock readings that make its response time."""

    decision: Decision
    seen_ns: int
    node_response_ms: float
    sent_ns: int | None = None
    """When the set's last image was put on the transport; None where no image was seen."""


@dataclass(frozen=True, kw_only=True)
class LedgerCounts:
    """How far a run has come."""

    labels: int
    """Labelled keyframes seen."""
    answered: int
    """Of those, keyframes that a decision belongs to."""
    planned: int
    """Of those, keyframes that a plan belongs to."""


@dataclass(kw_only=True)
class KeyframeLedger:
    """Collect sightings in any order, hand out one row per labelled keyframe.

    Where no label was ever seen there is one row per camera set that the nodes answered, for the
    newest :data:`UNLABELLED_KEPT` of them.
    """

    tolerance_ns: int
    """Largest difference of stamps between the images of a set."""
    deadline_ms: float = DEADLINE_MS
    """A later answer is called late."""
    ego_max_age_ms: float = SyncConfig.ego_max_age_ms
    """Odometry older than this at a keyframe counts as missing, as it does for the nodes."""
    _images: dict[str, deque[tuple[int, int]]] = field(default_factory=dict)
    _labels: dict[int, _Labelled] = field(default_factory=dict)
    _label_stamps: list[int] = field(default_factory=list)
    _truths: _ByStamp[Trajectory] = field(default_factory=_ByStamp)
    _answers: _ByStamp[_Answered] = field(default_factory=_ByStamp)
    _plans: _ByStamp[Plan] = field(default_factory=_ByStamp)
    _open_labels: list[int] = field(default_factory=list)
    _open_answers: list[int] = field(default_factory=list)
    _unreported: list[tuple[int, int]] = field(default_factory=list)
    """(seen_ns, stamp_ns) of keyframes, or of answers as long as no label was seen."""
    _last_heard_ns: int | None = None
    blind_stops: int = 0
    """Stops that the planner published without a frame; they are no frame's plan."""
    nodes: dict[str, dict[str, str]] = field(default_factory=dict)
    """By node: what it said of itself last."""

    def __post_init__(self) -> None:
        self._context = FrameContext(self.ego_max_age_ms)

    @property
    def began(self) -> bool:
        """Something of a drive was :meth:`heard`."""
        return self._last_heard_ns is not None

    @property
    def forgotten(self) -> int:
        """Answers of an unlabelled run that were too many to be kept."""
        return 0 if self._labels else self._answers.forgotten

    def heard(self, seen_ns: int) -> None:
        """Something of the drive came, usable or not: an image, odometry, a label.

        Not what the nodes say, or a node that goes on alone would keep a run alive for ever; nor
        a latched message, which may come long before the drive begins.
        """
        self._last_heard_ns = seen_ns

    def is_over(self, now_ns: int, expected_keyframes: int, idle_timeout_s: float) -> bool:
        """Is the run at its end?

        Args:
            now_ns: the clock of ``heard``.
            expected_keyframes: that many answered and planned end the run; 0: not by count.
            idle_timeout_s: silence after something was ``heard`` that ends the run; 0: never.
        """
        if expected_keyframes:
            counts = self.counts()
            if min(counts.answered, counts.planned) >= expected_keyframes:
                return True
        if self._last_heard_ns is None or not idle_timeout_s:
            return False
        return now_ns - self._last_heard_ns > idle_timeout_s * 1e9

    def saw_image(self, camera: str, stamp_ns: int, *, sent_ns: int | None, seen_ns: int) -> None:
        """An image passed.

        Args:
            camera: its topic or name.
            stamp_ns: capture time.
            sent_ns: source stamp on the transport; ignored where it is missing or in the future.
            seen_ns: first sight here, taken where there is no usable source stamp.
        """
        usable = sent_ns is not None and 0 < sent_ns <= seen_ns
        images = self._images.setdefault(camera, deque(maxlen=_IMAGES_KEPT))
        images.append((stamp_ns, sent_ns if usable and sent_ns is not None else seen_ns))
        self._context.push_image_stamp(stamp_ns)

    def saw_ego(self, ego: EgoState) -> None:
        """An odometry sample passed."""
        self._context.push_ego(ego)

    def saw_ego_fault(self, stamp_ns: int, reason: str) -> None:
        """Odometry passed that nobody can use."""
        self._context.push_ego_fault(stamp_ns, reason)

    def saw_command(self, command: RouteCommand) -> None:
        """A route command passed; it holds from the next image on."""
        self._context.push_command(command)

    def saw_command_fault(self, reason: str) -> None:
        """A route command passed that is none of the five phrases."""
        self._context.push_command_fault(reason)

    def saw_label(
        self, stamp_ns: int, action: MetaAction, *, scene: str, case_name: str, seen_ns: int
    ) -> None:
        """A keyframe is to be answered; the same stamp a second time (a bag loop) is ignored."""
        self._settle()
        if stamp_ns not in self._labels:
            self._labels[stamp_ns] = _Labelled(
                scene=scene, case_name=case_name, action=action, seen_ns=seen_ns
            )
            if len(self._labels) == 1:
                self._unreported.clear()
            self._unreported.append((seen_ns, stamp_ns))
            insort(self._label_stamps, stamp_ns)
            self._open_labels.append(stamp_ns)

    def saw_truth(self, stamp_ns: int, trajectory: Trajectory) -> None:
        """Where the vehicle went from there."""
        if stamp_ns not in self._truths:
            self._truths.add(stamp_ns, trajectory, self._label_stamps)

    def saw_decision(
        self, decision: Decision, *, seen_ns: int, node_response_ms: float = math.nan
    ) -> None:
        """A decision arrived; of two with one stamp the one that repeats nothing counts, else the
        first: a late answer takes the place of the stale one that came before it, and is late.
        """
        self._settle()
        known = self._answers.get(decision.stamp_ns)
        if known is None or (known.decision.stale and not decision.stale):
            answer = _Answered(
                decision=decision, seen_ns=seen_ns, node_response_ms=node_response_ms
            )
            if known is None and not self._labels:
                self._unreported.append((seen_ns, decision.stamp_ns))
            self._answers.add(decision.stamp_ns, answer, self._label_stamps)
            self._open_answers.append(decision.stamp_ns)

    def saw_plan(self, plan: Plan) -> None:
        """A plan arrived; a stop without a frame has the stamp of no frame, and is counted."""
        if plan.mode is PlanMode.STOPPING and math.isnan(plan.inference_ms):
            self.blind_stops += 1
        elif plan.stamp_ns not in self._plans:
            self._plans.add(plan.stamp_ns, plan, self._label_stamps)

    def counts(self) -> LedgerCounts:
        """How far the run has come; only answers under the keyframe's very stamp are counted."""
        return LedgerCounts(
            labels=len(self._labels),
            answered=len(self._labels.keys() & self._answers.keys()),
            planned=len(self._labels.keys() & self._plans.keys()),
        )

    def rows(self) -> list[FrameRow]:
        """One row per labelled keyframe by stamp, or per answered set where none is labelled."""
        return self._rows(self._labels or (self._answers.keys() | self._plans.keys()))

    def take_finished(self, *, seen_before_ns: int) -> list[FrameRow]:
        """Rows of keyframes labelled before then, each handed out once; by stamp.

        Where no label was ever seen: rows of sets answered before then.
        """
        finished = [stamp for seen_ns, stamp in self._unreported if seen_ns < seen_before_ns]
        self._unreported = [
            (seen_ns, stamp) for seen_ns, stamp in self._unreported if seen_ns >= seen_before_ns
        ]
        return self._rows(finished) if finished else []

    def _rows(self, stamps_ns: Iterable[int]) -> list[FrameRow]:
        self._settle()
        wanted = sorted(stamps_ns)
        answers, plans = (_match(known, wanted) for known in (self._answers, self._plans))
        return [self._row(stamp, answers.get(stamp), plans.get(stamp)) for stamp in wanted]

    def _row(
        self, stamp_ns: int, answer_stamp_ns: int | None, plan_stamp_ns: int | None
    ) -> FrameRow:
        label = self._labels.get(stamp_ns)
        plan = None if plan_stamp_ns is None else self._plans[plan_stamp_ns]
        ego, command, _ = label.known if label else Known()
        row = FrameRow(
            scene=label.scene if label else "",
            case_name=label.case_name if label else "",
            stamp_ns=stamp_ns,
            label=label.action if label else None,
            reason="no decision carries this stamp",
            speed_mps=ego.speed_mps if ego else math.nan,
            yaw_rate_radps=ego.yaw_rate_radps if ego else math.nan,
            command=command,
            plan=plan.trajectory if plan else None,
            truth=self._truths.get(stamp_ns),
            plan_inference_ms=plan.inference_ms if plan else math.nan,
            plan_with_decision=plan is not None and plan.mode is PlanMode.FOLLOWING,
            plan_mode=plan.mode if plan else None,
        )
        if answer_stamp_ns is None:
            return row
        return self._answered_row(row, self._answers[answer_stamp_ns])

    def _answered_row(self, row: FrameRow, answer: _Answered) -> FrameRow:
        decision = answer.decision
        response_ms = _elapsed_ms(answer.sent_ns, answer.seen_ns)
        return replace(
            row,
            answer=decision.action,
            outcome=compute_outcome(
                answered=True,
                stale=decision.stale,
                late=decision.late,
                response_ms=response_ms,
                inference_ms=decision.inference_ms,
                deadline_ms=self.deadline_ms,
            ),
            stale=decision.stale,
            late=decision.late,
            degraded=bool(decision.degraded) and not decision.stale,
            reason="; ".join(decision.degraded),
            probabilities=tuple(decision.probabilities.tolist()),
            inference_ms=decision.inference_ms,
            node_response_ms=answer.node_response_ms,
            response_ms=response_ms,
        )

    def _settle(self) -> None:
        """Look up what earlier sightings refer to.

        Done one sighting later, because topics overtake each other: the image or the odometry
        sample may be handled after the decision or label that belongs to it.
        """
        for stamp_ns in self._open_answers:
            self._answers[stamp_ns].sent_ns = self._last_sent_ns(stamp_ns)
        self._open_answers.clear()
        for stamp_ns in self._open_labels:
            self._labels[stamp_ns].known = self._context.at(stamp_ns)
        self._open_labels.clear()

    def _last_sent_ns(self, stamp_ns: int) -> int | None:
        """When the last image of the set with this stamp was sent."""
        sent_ns = (
            sent_ns
            for images in self._images.values()
            for image_stamp_ns, sent_ns in images
            if 0 <= stamp_ns - image_stamp_ns <= self.tolerance_ns
        )
        return max(sent_ns, default=None)


def _match(known: Iterable[int], wanted: list[int]) -> dict[int, int]:
    """:func:`match_stamps` without the many that are far from all that is wanted."""
    if not wanted:
        return {}
    first, last = wanted[0] - LABEL_TOLERANCE_NS, wanted[-1] + LABEL_TOLERANCE_NS
    return match_stamps([stamp for stamp in known if first <= stamp <= last], wanted)


def _elapsed_ms(sent_ns: int | None, seen_ns: int) -> float:
    return math.nan if sent_ns is None else max(0, seen_ns - sent_ns) / 1e6
