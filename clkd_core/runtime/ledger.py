"""The evaluator's book: what was shown, what was right, what was answered, and when.

Everything is matched by capture stamp, so that nothing depends on the order in which topics
arrive; every latency is the difference of two readings of one clock. Knows no torch and no ROS.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from clkd_core.metrics.frames import DEADLINE_MS, FrameRow, compute_outcome
from clkd_core.runtime.sync import FrameContext, Known, SyncConfig, match_stamps
from clkd_core.types import Decision, EgoState, MetaAction, Plan, RouteCommand, Trajectory

_IMAGES_KEPT = 600
"""Per camera: a minute at 10 Hz; an answer looks back a few seconds at most."""


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

    Where no label was ever seen there is one row per camera set that the nodes answered.
    """

    tolerance_ns: int
    """Largest difference of stamps between the images of a set."""
    deadline_ms: float = DEADLINE_MS
    """A later answer is called late."""
    ego_max_age_ms: float = SyncConfig.ego_max_age_ms
    """Odometry older than this at a keyframe counts as missing, as it does for the nodes."""
    _images: dict[str, deque[tuple[int, int]]] = field(default_factory=dict)
    _labels: dict[int, _Labelled] = field(default_factory=dict)
    _truths: dict[int, Trajectory] = field(default_factory=dict)
    _answers: dict[int, _Answered] = field(default_factory=dict)
    _plans: dict[int, Plan] = field(default_factory=dict)
    _open_labels: list[int] = field(default_factory=list)
    _open_answers: list[int] = field(default_factory=list)
    _reported: set[int] = field(default_factory=set)
    _last_heard_ns: int | None = None

    def __post_init__(self) -> None:
        self._context = FrameContext(self.ego_max_age_ms)

    def heard(self, seen_ns: int) -> None:
        """Some message came, usable or not."""
        self._last_heard_ns = seen_ns

    def is_over(self, now_ns: int, expected_keyframes: int, idle_timeout_s: float) -> bool:
        """Is the run at its end?

        Args:
            now_ns: the clock of ``heard``.
            expected_keyframes: that many answered and planned end the run; 0: not by count.
            idle_timeout_s: silence after the first message that ends the run; 0: never.
        """
        counts = self.counts()
        if expected_keyframes and min(counts.answered, counts.planned) >= expected_keyframes:
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
            self._open_labels.append(stamp_ns)

    def saw_truth(self, stamp_ns: int, trajectory: Trajectory) -> None:
        """Where the vehicle went from there."""
        self._truths.setdefault(stamp_ns, trajectory)

    def saw_decision(
        self, decision: Decision, *, seen_ns: int, node_response_ms: float = math.nan
    ) -> None:
        """A decision arrived; of two with one stamp the fresh one counts, else the first."""
        self._settle()
        known = self._answers.get(decision.stamp_ns)
        if known is None or (known.decision.stale and not decision.stale):
            self._answers[decision.stamp_ns] = _Answered(
                decision=decision, seen_ns=seen_ns, node_response_ms=node_response_ms
            )
            self._open_answers.append(decision.stamp_ns)

    def saw_plan(self, plan: Plan) -> None:
        """A plan arrived."""
        self._plans.setdefault(plan.stamp_ns, plan)

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
        """Rows of keyframes labelled before then, each handed out once: for publishing."""
        finished = [
            stamp
            for stamp, label in self._labels.items()
            if label.seen_ns < seen_before_ns and stamp not in self._reported
        ]
        self._reported.update(finished)
        return self._rows(finished)

    def _rows(self, stamps_ns: Iterable[int]) -> list[FrameRow]:
        self._settle()
        wanted = sorted(stamps_ns)
        answers = match_stamps(list(self._answers), wanted)
        plans = match_stamps(list(self._plans), wanted)
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
            plan_with_decision=plan is not None and plan.decision_stamp_ns is not None,
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
                response_ms=response_ms,
                inference_ms=decision.inference_ms,
                deadline_ms=self.deadline_ms,
            ),
            stale=decision.stale,
            degraded=bool(decision.degraded),
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


def _elapsed_ms(sent_ns: int | None, seen_ns: int) -> float:
    return math.nan if sent_ns is None else max(0, seen_ns - sent_ns) / 1e6
