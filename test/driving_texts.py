"""Driving English for the tests of text scores: made at random, and DriveLM's own."""

import json
import random
from pathlib import Path

VEHICLES = "car cars truck bus pedestrian cyclist two-wheeler vehicle vehicles' driver's".split()
OTHERS = (
    "the a is are moving turning left right front-left stopped isn't don't can't it's I'll and/or "
    "ahead CAM_FRONT T-junction Yes No No. e.g. km/h etc. approx. priority U.S. a.m. St. ego"
).split()


def random_word(rng: random.Random) -> str:
    """A word, a measure or an object tag, now and then in brackets or ahead of a sign."""
    kind = rng.random()
    if kind < 0.3:
        word = rng.choice(VEHICLES)
    elif kind < 0.8:
        word = rng.choice(OTHERS)
    elif kind < 0.9:
        word = rng.choice(["{:.1f}", "-{:.2f}", "{:.0f}m", "{:.1f}m", "{:.0f}%", "{:.0f}"]).format(
            rng.random() * 1600
        )
    else:
        word = f"<c{rng.randrange(9)},CAM_BACK,{rng.random() * 1600:.1f},{rng.random() * 900:.1f}>"
    around = rng.choice(["({})", '"{}"', "'{}'", "[{}]", "“{}”", "**{}**"])
    word = around.format(word) if rng.random() < 0.15 else word
    return word + (rng.choice(".,;:?!%") if rng.random() < 0.15 else "")


def random_sentences(seed: int, count: int) -> list[str]:
    """Words in any order, with all the signs that answers about driving have."""
    rng = random.Random(seed)
    sentences = (
        " ".join(random_word(rng) for _ in range(rng.randint(1, 15))) for _ in range(count)
    )
    return [sentence[0].upper() + sentence[1:] + "." for sentence in sentences]


def texts_of_drivelm(shared_data: Path) -> list[str]:
    """Question, answer, question, answer ... of the real pieces of DriveLM."""
    scenes = json.loads((shared_data / "drivelm" / "train_sample.json").read_text())
    return [
        text
        for scene in scenes.values()
        for frame in scene["key_frames"].values()
        for questions in frame["QA"].values()
        for question in questions
        for text in (question["Q"], question["A"])
    ]
