"""The pipeline's arithmetic: from rows, sightings and processor times to the printed figures.

One frame's time from its last image on the transport to its decision at the evaluator
(``response_ms``) is cut into three stages that sum to it: the transport's, what a frame waits in
its node before the engine is called and after it has answered, and the engine's. Percentiles of
stages do not add up; their means do, and shares are shares of means.

Every percentile is the higher of the two neighbours, so that p99 is a time that was measured. A
frame without a decision, or with one that only repeats an earlier one, took for ever.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clkd_core.metrics.frames import DEADLINE_MS, FrameRow

NEAR_NS = 60_000_000
"""A decision this far from a set's stamp is still that set's: sets span 50 ms at most."""

STAGES = ("transport", "waiting", "inference")
"""Of ``response_ms``; see :func:`split_response`."""

_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Times of one kind [ms]; NaN where there is none, infinite where one never came."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    """Of the finite ones."""
    count: int
    """Finite ones."""


def compute_spread(times_ms: Iterable[float]) -> Spread:
    """Percentiles by the higher neighbour; NaN is left out, infinity is not."""
    times = np.array([value for value in times_ms if not math.isnan(value)], np.float64)
    finite = times[np.isfinite(times)]
    if not times.size:
        return Spread(p50_ms=math.nan, p95_ms=math.nan, p99_ms=math.nan, mean_ms=math.nan, count=0)
    p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99), method="higher"))
    mean = float(finite.mean()) if finite.size else math.nan
    return Spread(p50_ms=p50, p95_ms=p95, p99_ms=p99, mean_ms=mean, count=int(finite.size))


@dataclass(frozen=True, kw_only=True)
class PlayedSets:
    """The camera sets of a bag, told by one camera's images, in the order they are played."""

    stamps_ns: Sequence[int]
    """Capture times."""
    offsets_s: Sequence[float]
    """When each is played at speed 1, since the bag's first message."""
    _by_stamp: list[tuple[int, int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        order = sorted((stamp, number) for number, stamp in enumerate(self.stamps_ns))
        object.__setattr__(self, "_by_stamp", order)

    @property
    def hz(self) -> float:
        """Sets per second at speed 1, by the median of their distances; NaN of fewer than two."""
        gaps = np.diff(np.asarray(self.offsets_s, np.float64))
        return float(1.0 / np.median(gaps)) if gaps.size and np.median(gaps) > 0 else math.nan

    def number_of(self, stamp_ns: int) -> int | None:
        """Which set an answer with this stamp belongs to; None: to none of them."""
        at = bisect_left(self._by_stamp, (stamp_ns, -1))
        near = self._by_stamp[max(0, at - 1) : at + 1]
        stamp, number = min(near, key=lambda entry: abs(entry[0] - stamp_ns), default=(0, -1))
        return number if number >= 0 and abs(stamp - stamp_ns) <= NEAR_NS else None

    def between(self, first_s: float, last_s: float) -> range:
        """Numbers of the sets that are played from ``first_s`` to before ``last_s``."""
        first = bisect_left(self.offsets_s, first_s)
        return range(first, max(first, bisect_left(self.offsets_s, last_s)))


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One decision or plan when a listener outside of all nodes saw it."""

    kind: str
    """``decision`` or ``plan``."""
    stamp_ns: int
    """Of the frame."""
    seen_ns: int
    """Clock of the machine; decisions and plans are read by the same process."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the processes had used at one moment."""

    number: int
    """Newest set that was answered by then."""
    cpu_s: Mapping[str, float]
    """Processor time by process since its start, user and system."""
    resident_bytes: Mapping[str, int]
    """Memory by process."""
    machine_s: float
    """Processor time of everything on this machine since it was started, idling not counted."""
    wall_s: float
    """Monotonic clock."""


@dataclass(frozen=True, kw_only=True)
class ProcessCost:
    """What one process took in the steady part."""

    name: str
    cpu_ms_per_frame: float
    """Processor time over the camera sets that were played meanwhile."""
    resident_mib: float
    """At its end."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One arrangement of the nodes, measured."""

    name: str
    """``composed`` or ``separate``; ``alone`` where the student has no planner."""
    left_out: int
    """Camera sets of the warm-up, which count in nothing below."""
    frames: int
    """Camera sets played in the steady part."""
    decided: int
    """Of them, sets with a decision of their own whose images the evaluator saw."""
    repeated: int
    """Of them, sets that got an earlier decision once more."""
    planned: int
    """Of them, sets with a plan of their own."""
    over_80_ms_frac: float
    """Share of the sets whose decision the evaluator had not seen 80 ms after the last image."""
    response: Spread
    """Last image on the transport -> decision seen by the evaluator; sets without one: never."""
    node_response: Spread
    """Set complete in the node -> decision published."""
    stages: Mapping[str, Spread]
    """By name in :data:`STAGES`."""
    shares: Mapping[str, float]
    """Each stage's mean over the mean response; they sum to 1."""
    plan_inference: Spread
    """Engine called -> trajectory; waiting for a shared engine to encode the images included."""
    plan_response: Spread
    """Last image on the transport -> trajectory seen; of sets with a decision, see
    :func:`compute_plan_responses`."""
    processes: tuple[ProcessCost, ...]
    """Of player, nodes, evaluator, and of the benchmark itself."""
    nodes_cpu_ms_per_frame: float
    """Of the processes with a model alone."""
    others_cpu_frac: float
    """Share of the machine's cores that everything else took meanwhile."""
    dropped: Mapping[str, Mapping[str, int]]
    """By node and reason: inputs without an answer, flagged answers, images in no set. Nodes say
    it once a second, so that it is of the steady part to within a second."""
    player: str
    """What the player said at its end; empty where it was ended early."""


def split_response(row: FrameRow) -> dict[str, float]:
    """The stages of one decision [ms]; they sum to its ``response_ms``.

    transport: from the last image on the transport to the set in the node, and from the decision
    published to the evaluator. waiting: in the node, engine not yet or no longer at work on it.
    inference: in the engine, decoding included.
    """
    return {
        "transport": row.response_ms - row.node_response_ms,
        "waiting": row.node_response_ms - row.inference_ms,
        "inference": row.inference_ms,
    }


def fresh_decisions(
    rows: Iterable[FrameRow], sets: PlayedSets, window: range
) -> tuple[dict[int, FrameRow], int]:
    """Decisions of the window's sets by number, and how many only repeat an earlier one.

    A decision whose images the evaluator never saw has no response time and is left out, too:
    nobody can say that it came in time.
    """
    fresh: dict[int, FrameRow] = {}
    repeated = 0
    for row in rows:
        number = sets.number_of(row.stamp_ns)
        if number is None or number not in window or row.answer is None:
            continue
        repeated += row.stale
        if not row.stale and math.isfinite(row.response_ms):
            fresh.setdefault(number, row)
    return fresh, repeated


def compute_plan_responses(
    decisions: Mapping[int, FrameRow],
    sightings: Iterable[Sighting],
    sets: PlayedSets,
    window: range,
) -> list[float]:
    """Last image on the transport -> trajectory seen [ms], of every set of the window.

    The evaluator times decisions only. What a listener saw of both tells how much later, or
    earlier, the plan came; added to the decision's response that is the plan's. Sets without a
    plan took for ever; of sets with a plan and without a decision nothing is known (NaN).
    """
    first: dict[tuple[str, int], int] = {}
    for sighting in sightings:
        number = sets.number_of(sighting.stamp_ns)
        if number is not None:
            first.setdefault((sighting.kind, number), sighting.seen_ns)
    times = []
    for number in window:
        plan_ns, decision_ns = first.get(("plan", number)), first.get(("decision", number))
        if plan_ns is None:
            times.append(math.inf)
        elif decision_ns is None or number not in decisions:
            times.append(math.nan)
        else:
            times.append(decisions[number].response_ms + (plan_ns - decision_ns) / 1e6)
    return times


def compute_costs(begin: Sample, end: Sample) -> tuple[ProcessCost, ...]:
    """Processor time per camera set between two samples, and memory at the second."""
    frames = max(1, end.number - begin.number)
    return tuple(
        ProcessCost(
            name=name,
            cpu_ms_per_frame=1e3 * (end.cpu_s[name] - begin.cpu_s[name]) / frames,
            resident_mib=end.resident_bytes[name] / _MIB,
        )
        for name in begin.cpu_s
    )


def compute_others(begin: Sample, end: Sample, cores: int) -> float:
    """Share of the cores that went to processes other than the sampled ones, 0..1."""
    ours_s = sum(end.cpu_s[name] - begin.cpu_s[name] for name in begin.cpu_s)
    others_s = end.machine_s - begin.machine_s - ours_s
    return min(1.0, max(0.0, others_s / max(1e-9, cores * (end.wall_s - begin.wall_s))))


def compute_figures(
    *,
    name: str,
    sets: PlayedSets,
    window: range,
    rows: Sequence[FrameRow],
    sightings: Sequence[Sighting],
    samples: tuple[Sample, Sample],
    model_processes: Sequence[str],
    dropped: Mapping[str, Mapping[str, int]],
    player: str,
    cores: int,
) -> Figures:
    """All of one arrangement.

    Args:
        name: of the arrangement.
        sets: what was played.
        window: numbers of the sets that count.
        rows: the evaluator's, one for every set that was answered or planned.
        sightings: of decisions and plans, in the order they came.
        samples: at the window's beginning and end.
        model_processes: names among the samples' that run a model.
        dropped: see :class:`Figures`.
        player: see :class:`Figures`.
        cores: of this machine.
    """
    decisions, repeated = fresh_decisions(rows, sets, window)
    split = [split_response(row) for row in decisions.values()]
    stages = {stage: compute_spread(one[stage] for one in split) for stage in STAGES}
    responses = [row.response_ms for row in decisions.values()]
    whole = compute_spread([*responses, *[math.inf] * (len(window) - len(responses))])
    plans = {
        number: row.plan_inference_ms
        for row in rows
        if row.plan is not None and (number := sets.number_of(row.stamp_ns)) in window
    }
    costs = compute_costs(*samples)
    in_time = sum(response_ms <= DEADLINE_MS for response_ms in responses)
    return Figures(
        name=name,
        left_out=window.start,
        frames=len(window),
        decided=len(decisions),
        repeated=repeated,
        planned=len(plans),
        over_80_ms_frac=1.0 - in_time / max(1, len(window)),
        response=whole,
        node_response=compute_spread(row.node_response_ms for row in decisions.values()),
        stages=stages,
        shares={stage: stages[stage].mean_ms / whole.mean_ms for stage in STAGES},
        plan_inference=compute_spread(plans.values()),
        plan_response=compute_spread(compute_plan_responses(decisions, sightings, sets, window)),
        processes=costs,
        nodes_cpu_ms_per_frame=sum(
            cost.cpu_ms_per_frame for cost in costs if cost.name in model_processes
        ),
        others_cpu_frac=compute_others(*samples, cores),
        dropped=dropped,
        player=player,
    )
