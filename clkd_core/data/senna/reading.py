"""Keyframes out of a file in Senna's layout: records of one sample gathered, pictures found."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from clkd_core.data.keyframes import Keyframe, QuestionAnswer
from clkd_core.data.labels import meta_action_from_future
from clkd_core.data.senna.layout import SennaRecord, kind_of
from clkd_core.data.senna.questions import PLAN_WORDS
from clkd_core.errors import DataError
from clkd_core.types import EgoState, MetaAction, RouteCommand, Trajectory

_MICROSECONDS = re.compile(r"__(\d{1,16})\.\w+\Z")
_SPEED = re.compile(r"(-?\d{1,4}) m/s")
_COMMAND = re.compile("'(" + "|".join(command.value for command in RouteCommand) + ")'")
_NS_PER_US = 1000


@dataclass(frozen=True)
class _Drive:
    """What a question about the plan says of the moment it is asked in."""

    speed_mps: int | None
    command: RouteCommand | None


@dataclass
class SennaSample:
    """All records of one sample, as far as they were read."""

    record: SennaRecord
    """The first one; the others say the same of the sample."""
    where: str
    questions: dict[QuestionAnswer, None] = field(default_factory=dict)
    """In the order they came; a dictionary because each counts once."""
    plan: MetaAction | None = None
    drive: _Drive = _Drive(None, None)


@dataclass
class SennaFile:
    """The samples of a file by token, in the order of their first records."""

    samples: dict[str, SennaSample] = field(default_factory=dict)
    repeated: int = 0
    """Questions that came a second time with the same answer and were left out."""

    def add(self, where: str, record: SennaRecord) -> None:
        """Take in one more record.

        Raises:
            DataError: it says something else of its sample than an earlier record, its plan is no
                meta-action, or there are two plans.
        """
        sample = self.samples.setdefault(record.token, SennaSample(record, where))
        _check_same_sample(sample, record, where)
        for question, answer in record.turns:
            asked = QuestionAnswer(
                kind=record.kind or kind_of(question), question=question, answer=answer.strip()
            )
            if asked in sample.questions:
                self.repeated += 1
                continue
            sample.questions[asked] = None
            _take_drive(sample, question, where)
            if PLAN_WORDS in question:
                _take_plan(sample, asked.answer, where)


@dataclass(frozen=True)
class SampleCounts:
    """What the samples of a file came to."""

    samples: int
    labelled: int
    without_future: int
    """Plans that are no label because the record does not say where the car went."""
    contradicted: int
    """Plans that Senna's rule does not make of the record's own future: no label, no future."""
    repeated: int
    kinds: Mapping[str, int]
    """Questions by kind."""


def load_samples(records: Iterable[tuple[str, SennaRecord]]) -> SennaFile:
    """Gather the records of each sample, in whatever order they come.

    Raises:
        DataError: as :meth:`SennaFile.add`, and as the records themselves.
    """
    file = SennaFile()
    for where, record in records:
        file.add(where, record)
    return file


def count_samples(file: SennaFile) -> SampleCounts:
    """Count what :func:`build_keyframe` will make of the samples."""
    verdicts = Counter(_verdict(sample) for sample in file.samples.values())
    return SampleCounts(
        samples=len(file.samples),
        labelled=verdicts["labelled"],
        without_future=verdicts["without future"],
        contradicted=verdicts["contradicted"],
        repeated=file.repeated,
        kinds=Counter(q.kind for s in file.samples.values() for q in s.questions),
    )


def build_keyframe(sample: SennaSample, image_paths: Mapping[str, Path]) -> Keyframe:
    """A keyframe of our form.

    The future is the way of LIDAR_TOP, from which Senna's label follows; the ego frame's origin,
    0.94 m behind it, goes another way in a turn. Speeds are whole m/s as the question says them,
    the rate of turn, which the layout does not hold, reads 0. Agents and history it does not hold
    either. A plan is the label where it follows from the future; see :class:`SampleCounts`.

    Args:
        sample: with all its records.
        image_paths: the pictures that are there, by camera; one at least.

    Raises:
        DataError: a picture's name holds no capture time.
    """
    record, drive = sample.record, sample.drive
    stamps = {c: _stamp_ns(record.images[c], sample.where) for c in image_paths}
    stamp_ns = max(stamps.values())
    lidar = None if _verdict(sample) == "contradicted" else record.lidar_future
    return Keyframe(
        sample_token=record.token,
        scene=record.scene,
        case_name=record.case_name,
        stamp_ns=stamp_ns,
        image_paths=image_paths,
        image_stamps_ns=stamps,
        ego=None
        if drive.speed_mps is None
        else EgoState(stamp_ns=stamp_ns, speed_mps=float(drive.speed_mps)),
        command=drive.command,
        future=None
        if lidar is None
        else Trajectory(xy_m=np.stack([lidar[:, 1], -lidar[:, 0]], axis=1).astype(np.float32)),
        action=None if lidar is None else meta_action_from_future(lidar),
        agents=(),
        questions=tuple(sample.questions),
        lidar_future=lidar,
    )


def _verdict(sample: SennaSample) -> str:
    future = sample.record.lidar_future
    if future is None:
        return "unlabelled" if sample.plan is None else "without future"
    if sample.plan not in (None, meta_action_from_future(future)):
        return "contradicted"
    return "labelled"


def _check_same_sample(sample: SennaSample, record: SennaRecord, where: str) -> None:
    first = sample.record
    for name in ("scene", "images", "case_name"):
        if getattr(first, name) != getattr(record, name):
            raise DataError(
                f"{where}: {name} of sample {record.token[:60]!r} is another one than in "
                f"{sample.where}"
            )
    if not np.array_equal(_numbers(first), _numbers(record)):
        raise DataError(
            f"{where}: ego_fut_trajs of sample {record.token[:60]!r} is another one than in "
            f"{sample.where}"
        )


def _numbers(record: SennaRecord) -> list[list[float]]:
    return [] if record.lidar_future is None else record.lidar_future.tolist()


def _take_drive(sample: SennaSample, question: str, where: str) -> None:
    """Speed and navigation command of a question that is asked for the plan, or names both.

    Raises:
        DataError: another question of the sample says something else.
    """
    command, speed = _COMMAND.search(question), _SPEED.search(question)
    if PLAN_WORDS not in question and (command is None or speed is None):
        return
    said = _Drive(
        None if speed is None else int(speed[1]),
        None if command is None else RouteCommand(command[1]),
    )
    for name in ("speed_mps", "command"):
        old, new = getattr(sample.drive, name), getattr(said, name)
        if None not in (old, new) and old != new:
            raise DataError(
                f"{where}: {name} of sample {sample.record.token[:60]!r} is {new}, in another "
                f"question it is {old}"
            )
    sample.drive = _Drive(
        said.speed_mps if sample.drive.speed_mps is None else sample.drive.speed_mps,
        sample.drive.command or said.command,
    )


def _take_plan(sample: SennaSample, answer: str, where: str) -> None:
    try:
        plan = MetaAction.from_text(answer)
    except ValueError as err:
        raise DataError(f"{where}: {err}") from err
    if sample.plan not in (None, plan):
        raise DataError(f"{where}: sample {sample.record.token[:60]!r} has a second, other plan")
    sample.plan = plan


def _stamp_ns(name: str, where: str) -> int:
    found = _MICROSECONDS.search(name)
    stamp_ns = int(found[1]) * _NS_PER_US if found else -1
    if not 0 <= stamp_ns < 2**63:
        raise DataError(
            f"{where}: picture {name[:120]!r} has no capture time, expected a name that ends like "
            "nuScenes' with __MICROSECONDS.jpg"
        )
    return stamp_ns


class PictureFolder:
    """Finds pictures below one folder by the paths of a file that was written elsewhere.

    A path's leading folders (the converter's ``./data/nuscenes``, say, or an absolute root) are
    dropped until the rest is there; so no path leads out of the folder.
    """

    def __init__(self, root: Path) -> None:
        """Look below ``root``.

        Raises:
            DataError: it is no folder.
        """
        if not root.is_dir():
            raise DataError(f"{root}: no such folder, expected the pictures")
        self.root = root
        self._dropped = 0

    def find(self, name: str, camera: str, where: str) -> PurePosixPath | None:
        """The picture's path relative to the root; None where it is not there or empty.

        Args:
            name: a path as the file has it.
            camera: which the path has to name still when folders are dropped.
            where: for the message.

        Raises:
            DataError: the path climbs by ``..`` below its first named folder.
        """
        parts = _named_parts(name, where)
        for dropped in _first_guess(self._dropped, len(parts)):
            relative = PurePosixPath(*parts[dropped:])
            if camera in str(relative) and _is_filled(self.root / relative):
                self._dropped = dropped
                return relative
        return None


def _named_parts(name: str, where: str) -> tuple[str, ...]:
    """A path's parts without its anchor and without ``..`` at its beginning."""
    parts = tuple(part for part in PurePosixPath(name).parts if part.strip("/"))
    start = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    if ".." in parts[start:] or "\0" in name:
        raise DataError(
            f"{where}: picture {name[:120]!r} leaves its folder, expected a plain path"
        )
    return parts[start:]


def _first_guess(guess: int, count: int) -> Iterator[int]:
    """How many folders to drop: what fitted the picture before, then every other number."""
    if guess < count:
        yield guess
    yield from (dropped for dropped in range(count) if dropped != guess)


def _is_filled(path: Path) -> bool:
    try:
        return os.path.isfile(path) and os.stat(path).st_size > 0
    except (OSError, ValueError):
        return False
