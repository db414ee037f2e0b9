"""Questions about a frame: many at a time, each answered as if it had been asked alone."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
from tiny_vlm import tiny_model

from clkd_core.data.prompts import turn_text
from clkd_core.evaluation.judging.judge import JudgingEngine
from clkd_core.runtime.engine import QUESTIONS_AT_ONCE
from clkd_core.types import CAMERAS, CameraImage, SurroundFrame


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> JudgingEngine:
    folder = tmp_path_factory.mktemp("student")
    tiny_model(seed=2).save_pretrained(folder)
    loaded = JudgingEngine.from_checkpoint(folder, device="cpu")
    assert isinstance(loaded, JudgingEngine)
    loaded.remembers = True
    return loaded


def noisy_frame(seed: int) -> SurroundFrame:
    rng = np.random.default_rng(seed)
    images = {}
    for camera in CAMERAS:
        _, encoded = cv2.imencode(".png", rng.integers(0, 256, (36, 64, 3)).astype(np.uint8))
        images[camera] = CameraImage(stamp_ns=1, encoded=encoded.tobytes())
    return SurroundFrame(stamp_ns=1, images=images)


def test_more_questions_than_go_together_are_all_answered_each_in_its_place(
    engine: JudgingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, generate, sizes = noisy_frame(0), engine.model.generate, []
    questions = [turn_text("Is the light red? " * (1 + n % 5) + str(n)) for n in range(37)]

    def counted(scene: object, some: Sequence[str], tokens: int) -> list[str]:
        sizes.append(len(some))
        return generate(scene, some, tokens)  # type: ignore[arg-type]

    monkeypatch.setattr(engine.model, "generate", counted)
    together = engine.say(frame, questions, max_new_tokens=5)
    assert sizes == [QUESTIONS_AT_ONCE, QUESTIONS_AT_ONCE, 37 - 2 * QUESTIONS_AT_ONCE]
    alone = [engine.say(frame, [question], max_new_tokens=5)[0] for question in questions]
    same = sum(one == other for one, other in zip(together, alone, strict=True))
    assert len(set(alone)) > 5 and same >= 35  # bfloat16, where it is used, may tie tokens


def test_no_question_needs_no_answer(engine: JudgingEngine) -> None:
    assert engine.say(noisy_frame(1), []) == []
