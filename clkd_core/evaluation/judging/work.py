"""One task: a scene of a set, or a bag."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from clkd_core.data.bags.topics import BagTopics
from clkd_core.data.keyframes import Keyframe, QuestionAnswer, surround_frame
from clkd_core.data.prompts import plan_question, turn_text
from clkd_core.data.sidecar import Keyframes
from clkd_core.errors import DataError
from clkd_core.evaluation.config import JudgeConfig
from clkd_core.evaluation.judging.judge import Judge, load_judge, with_collisions
from clkd_core.evaluation.judging.outcome import Outcome
from clkd_core.metrics.frames import FrameRow, row_from_keyframe
from clkd_core.report.scoring.answers import DECISION, TextAnswer
from clkd_core.runtime.bag_run import AskedFrame, ReplayConfig, read_asked_frames
from clkd_core.runtime.shuffled_bags import Place, kept_frames, show_instead

_KEYFRAMES = ReplayConfig(keyframes_only=True)


@dataclass(frozen=True, kw_only=True)
class SceneWork:
    """A scene of a set."""

    keyframes: Keyframes
    """N of them."""
    sources: Keyframes
    """(M,) whose images the M labelled ones are shown; empty where there is no other keyframe."""
    agents_known: bool
    """The set says where the others are."""


@dataclass(frozen=True, kw_only=True)
class BagWork:
    """A bag: its labelled keyframes, or all its frames where none is labelled."""

    bag: Path
    names: BagTopics | None = None
    sources: Mapping[int, Place] = field(default_factory=dict)
    """By label stamp: whose images it is shown; empty where there is no other keyframe."""


Work = SceneWork | BagWork


def perform(work: Work, config: JudgeConfig) -> Outcome:
    """Do one task; the same work and config give the same outcome wherever it is done.

    Raises:
        ClkdError: the checkpoint or the input cannot be used.
    """
    judge = load_judge(config)
    torch.set_num_threads(config.threads)  # of this process; another judge may have come between
    torch.manual_seed(config.seed)
    if isinstance(work, SceneWork):
        return _judge_scene(work, judge, config)
    return _judge_bag(work, judge)


def _judge_scene(work: SceneWork, judge: Judge, config: JudgeConfig) -> Outcome:
    rows: list[FrameRow] = []
    blank: list[FrameRow] = []
    shuffled: list[FrameRow] = []
    answers: list[TextAnswer] = []
    sources = iter(work.sources)
    for keyframe in work.keyframes:
        asked = _asked_keyframe(keyframe)
        row = judge.answer(asked)
        rows.append(with_collisions(row, keyframe.agents) if work.agents_known else row)
        answers += _ask(judge, asked, keyframe, _choose_questions(keyframe, config))
        if asked.row.label is not None:
            blank.append(judge.decide(asked, blank=True))
            if len(work.sources):
                shown = _asked_keyframe(next(sources)).frame
                shuffled.append(judge.decide(show_instead(asked, shown)))
    return Outcome(
        rows=tuple(rows), blank=tuple(blank), shuffled=tuple(shuffled), answers=tuple(answers)
    )


def _judge_bag(work: BagWork, judge: Judge) -> Outcome:
    rows: list[FrameRow] = []
    blank: list[FrameRow] = []
    shuffled: list[FrameRow] = []
    answers: list[TextAnswer] = []
    with kept_frames(set(work.sources.values()), work.names) as kept:
        for asked in read_asked_frames(work.bag, config=_KEYFRAMES, names=work.names):
            rows.append(judge.answer(asked))
            if asked.row.label is None:
                continue
            answers += _ask(judge, asked, None, ())
            blank.append(judge.decide(asked, blank=True))
            if work.sources:
                shown = kept.frame(work.sources[asked.row.stamp_ns])
                shuffled.append(judge.decide(show_instead(asked, shown)))
    return Outcome(
        rows=tuple(rows), blank=tuple(blank), shuffled=tuple(shuffled), answers=tuple(answers)
    )


def _asked_keyframe(keyframe: Keyframe) -> AskedFrame:
    """The keyframe with its images; where they cannot be read the row says why."""
    row = row_from_keyframe(keyframe)
    try:
        return AskedFrame(row, surround_frame(keyframe))
    except DataError as err:
        return AskedFrame(replace(row, reason=str(err)), None)


def _ask(
    judge: Judge,
    asked: AskedFrame,
    keyframe: Keyframe | None,
    questions: Sequence[QuestionAnswer],
) -> list[TextAnswer]:
    """The decision in words where the frame is labelled, then the questions about it."""
    row, frame = asked
    turns = [(q.kind, q.question, q.answer, turn_text(q.question)) for q in questions]
    if row.label is not None:
        ego = None if frame is None else frame.ego
        question = plan_question(ego, row.command)
        turns.insert(0, (DECISION, question.strip(), row.label.text, question))
    said = judge.say(frame, [written for *_, written in turns])
    return [
        TextAnswer(
            sample_token=str(row.stamp_ns) if keyframe is None else keyframe.sample_token,
            scene=row.scene,
            case_name=row.case_name,
            kind=kind,
            question=question,
            reference=reference,
            answer=answer,
        )
        for (kind, question, reference, _), answer in zip(turns, said, strict=True)
    ]


def _choose_questions(keyframe: Keyframe, config: JudgeConfig) -> list[QuestionAnswer]:
    """All, or as many as are wanted: which ones follows from the seed and the keyframe alone."""
    questions, limit = keyframe.questions, config.limit_questions
    if limit is None or len(questions) <= limit:
        return list(questions)
    rng = np.random.default_rng((config.seed, zlib.crc32(keyframe.sample_token.encode())))
    return [questions[i] for i in sorted(rng.permutation(len(questions))[:limit])]
