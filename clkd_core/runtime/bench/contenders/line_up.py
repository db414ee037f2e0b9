"""Who takes part, in the order of the table; loads no torch, the contenders' processes do."""

from collections.abc import Sequence
from functools import partial

from clkd_core.errors import ConfigError
from clkd_core.runtime.bench.contenders.spec import Answerer, Contender, Setting

ANSWER_TOKENS = 6
"""Tokens of ``KEEP, STRAIGHT`` and its like with T5's pieces."""
TEXT_TOKENS = 20
"""Tokens of an answer in a short sentence."""

PRESETS = ("nano-t5", "t5-small", "senna-smollm2", "senna-3.5b")
"""Files of ``config/train`` whose students are built with random weights."""
OURS, CONTROL = "nano", "control"
EM_TEXT, EM_ACTION = "em-vlm4ad-text", "em-vlm4ad-action"
EM_TORCH, EM_BEST = "em-vlm4ad-torch", "em-vlm4ad-best"
SENNA, SWIN_T5 = "senna-7b", "swin-t5"


def line_up(*, slow_every: int, on_gpu: bool) -> list[Contender]:
    """All contenders, the one that others are compared with first.

    Args:
        slow_every: those that take more than some 100 ms take part in every so many rounds.
        on_gpu: there our engine is fast with every preset.
    """
    return [*_ours(slow_every, on_gpu), *_others(slow_every), control_loop(None)]


def _ours(slow_every: int, on_gpu: bool) -> list[Contender]:
    trained = Contender(
        name=OURS,
        what="our engine, the trained student: 20 answers scored in one pass",
        build=_trained,
        prepare=_prepare_trained,
        kind="ours",
    )
    others = [
        Contender(
            name=preset,
            what=f"our engine, student of config/train/{preset}.yaml, random weights",
            build=partial(_student, preset),
            kind="ours",
            every=1 if on_gpu or preset == "nano-t5" else slow_every,
        )
        for preset in PRESETS
    ]
    return [trained, *others]


def _others(slow_every: int) -> list[Contender]:
    em, senna = "paper/table1-em-vlm4ad-base", "paper/table3-senna"
    rows = (
        (
            EM_TEXT,
            f"EM-VLM4AD-Base's architecture, float32, plain: {TEXT_TOKENS} tokens of text",
            partial(_plain, em, "float32", TEXT_TOKENS),
        ),
        (
            EM_ACTION,
            f"the same generating only a meta-action: {ANSWER_TOKENS} tokens",
            partial(_plain, em, "float32", ANSWER_TOKENS),
        ),
        (
            EM_TORCH,
            "the same with our one pass and our decoding, by torch",
            partial(_best, em, on_torch=True),
        ),
        (
            EM_BEST,
            "the same with all of our engine: one pass, our decoding, our backend",
            partial(_best, em),
        ),
        (
            SENNA,
            f"Senna-VLM's architecture, bfloat16, plain: {ANSWER_TOKENS} tokens",
            partial(_plain, senna, "bfloat16", ANSWER_TOKENS),
        ),
        (
            SWIN_T5,
            f"Swin-T + half T5-small, float32, plain: {ANSWER_TOKENS} tokens",
            partial(_swin_t5, ANSWER_TOKENS),
        ),
    )
    return [
        Contender(name=name, what=what, build=build, every=slow_every)
        for name, what, build in rows
    ]


def control_loop(repeats: int | None) -> Contender:
    """Who tells what the machine does by itself.

    Args:
        repeats: of its work in a frame; None: as many as take as long as the first contender.
    """
    length = "about as long as the first contender" if repeats is None else f"{repeats} rounds"
    return Contender(
        name=CONTROL,
        what=f"no model: square roots on all threads, {length}",
        build=partial(_control, repeats),
        kind="machine",
    )


def choose(contenders: Sequence[Contender], words: Sequence[str]) -> list[Contender]:
    """Those whose names are, or alone begin with, one of the words; all of them without words.

    Raises:
        ConfigError: a word names nobody, or several.
    """
    names = [contender.name for contender in contenders]
    wanted = {_find(word, names) for word in words}
    return [each for each in contenders if not words or each.name in wanted]


def _find(word: str, names: Sequence[str]) -> str:
    found = [name for name in names if name == word] or [
        name for name in names if name.startswith(word)
    ]
    if len(found) != 1:
        meant = f"which may be {', '.join(found)}" if found else f"expected {', '.join(names)}"
        raise ConfigError(f"contender {word!r}, {meant}")
    return found[0]


def _trained(setting: Setting) -> Answerer:
    from clkd_core.runtime.bench.contenders.one_pass import build_trained

    return build_trained(setting)


def _prepare_trained(setting: Setting) -> None:
    from clkd_core.runtime.bench.contenders.one_pass import prepare_trained

    prepare_trained(setting)


def _student(preset: str, setting: Setting) -> Answerer:
    from clkd_core.runtime.bench.contenders.students import build_student

    return build_student(preset, setting)


def _best(config_file: str, setting: Setting, *, on_torch: bool = False) -> Answerer:
    from clkd_core.runtime.bench.contenders.students import build_best

    return build_best(config_file, setting, on_torch=on_torch)


def _plain(config_file: str, dtype: str, tokens: int, setting: Setting) -> Answerer:
    from clkd_core.runtime.bench.contenders.rivals import build_plain

    return build_plain(config_file, dtype, tokens, setting)


def _swin_t5(tokens: int, setting: Setting) -> Answerer:
    from clkd_core.runtime.bench.contenders.rivals import build_swin_t5

    return build_swin_t5(tokens, setting)


def _control(repeats: int | None, setting: Setting) -> Answerer:
    from clkd_core.runtime.bench.contenders.control import build_control

    return build_control(setting, repeats=repeats)
