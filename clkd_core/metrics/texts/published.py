"""BLEU-4, METEOR and ROUGE-L as papers publish them: by ``pycocoevalcap`` and its Java programs.

The package's own BLEU and ROUGE-L, and the two programs it ships: Stanford's PTBTokenizer and
METEOR 1.5 (Denkowski and Lavie 2014). The programs are started here and not by the package's
wrappers, which know no time limit, write into their installation folder, and lose track of which
line belongs to which answer when a text holds a line break of a kind they do not look for.
"""

import math
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from clkd_core.errors import ClkdError
from clkd_core.metrics.texts.scores import References

MAX_TEXT_CHARS = 10_000
"""Longest text that is scored. METEOR's search takes more than quadratic time: 30 s for a pair of
texts of 1,600 words on one core."""

TIME_LIMIT_S = 600.0
"""Per Java program. METEOR loads for 10 to 20 s and then scores some 1,000 answers a second."""

_LINE_BREAK = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


@dataclass(frozen=True, kw_only=True)
class PublishedScores:
    """Of N answers; every number 0..1, higher is better."""

    count: int
    """N."""
    bleu4: float
    meteor: float
    rouge_l: float


@dataclass(frozen=True)
class NotComputed:
    """There is no number, and why."""

    reason: str
    """With the package to install where one is missing."""


class PublishedError(ClkdError):
    """A published program is missing or did not do its work; the message says which and why."""


def published_scores(
    answers: Sequence[str], references: References, *, time_limit_s: float = TIME_LIMIT_S
) -> PublishedScores | NotComputed:
    """Score answers with the published programs, or say why that cannot be done.

    Args:
        answers: (N,) N >= 1.
        references: for each answer one text or several, at least one.
        time_limit_s: for each of the two Java programs, which is killed when it has passed.

    Raises:
        ValueError: no answer, a sample without a reference, or lengths that disagree.
    """
    groups = [[given] if isinstance(given, str) else list(given) for given in references]
    if not answers or len(answers) != len(groups) or not all(groups):
        raise ValueError(
            f"{len(answers)} answers to {len(groups)} references, expected equally many, "
            "and at least one reference to each"
        )
    try:
        return _score(answers, groups, time_limit_s)
    except PublishedError as err:
        return NotComputed(str(err))


def tokenize_published(
    texts: Sequence[str], *, time_limit_s: float = TIME_LIMIT_S
) -> list[list[str]]:
    """The tokens that the published scores count, punctuation left out, by PTBTokenizer.

    Line breaks are white space. One thing is the program's and not ours: a text that ends in a
    single letter or ``no.`` is read together with the first word of the next one.

    Raises:
        PublishedError: Java or the package is missing, or the program failed or took too long.
    """
    folder = _package_folder() / "tokenizer"
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    program = ["-cp", str(folder / STANFORD_CORENLP_3_4_1_JAR)]
    program += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    with tempfile.TemporaryDirectory(prefix="clkd-texts-") as scratch:
        file = Path(scratch) / "texts.txt"
        _write_lines(file, texts)
        output = _run_java([*program, str(file)], "PTBTokenizer", time_limit_s)
    lines = output.removesuffix("\n").split("\n")
    if len(lines) != len(texts):
        raise PublishedError(f"PTBTokenizer gave {len(lines)} lines for {len(texts)} texts")
    return [
        [token for token in line.split(" ") if token and token not in PUNCTUATIONS]
        for line in lines
    ]


def _score(
    answers: Sequence[str], groups: Sequence[Sequence[str]], time_limit_s: float
) -> PublishedScores:
    folder = _package_folder()
    _check_lengths(answers, groups)
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    # METEOR reads equally many references to every answer; one of them twice changes no score.
    most = max(map(len, groups))
    padded = [text for group in groups for text in [*group, *[group[0]] * (most - len(group))]]
    tokens = tokenize_published([*answers, *padded], time_limit_s=time_limit_s)
    lines = [" ".join(words) for words in tokens]
    found, right = lines[: len(answers)], lines[len(answers) :]
    result = {number: [text] for number, text in enumerate(found)}
    truth = {number: right[number * most : (number + 1) * most] for number in result}
    return PublishedScores(
        count=len(answers),
        bleu4=float(Bleu(4).compute_score(truth, result, verbose=0)[0][3]),
        meteor=_run_meteor(folder, found, right, time_limit_s),
        rouge_l=float(Rouge().compute_score(truth, result)[0]),
    )


def _check_lengths(answers: Sequence[str], groups: Sequence[Sequence[str]]) -> None:
    for number, (answer, group) in enumerate(zip(answers, groups, strict=True)):
        longest = max(map(len, [answer, *group]))
        if longest > MAX_TEXT_CHARS:
            raise PublishedError(
                f"sample {number} has a text of {longest} characters, METEOR takes hours on it: "
                f"at most {MAX_TEXT_CHARS} are scored"
            )


def _package_folder() -> Path:
    """Where ``pycocoevalcap`` is installed; an error names everything that is missing."""
    spec = None
    with suppress(ModuleNotFoundError):  # from the parts of the dotted name
        spec = find_spec("pycocoevalcap.bleu.bleu")
    missing = []
    if spec is None or spec.origin is None:
        missing.append("pycocoevalcap (pip install clkd-drive[text])")
    if shutil.which("java") is None:
        missing.append("Java (apt install default-jre-headless)")
    if spec is None or spec.origin is None or missing:
        raise PublishedError(f"needs {' and '.join(missing)}")
    return Path(spec.origin).parents[1]


def _run_meteor(
    folder: Path, answers: Sequence[str], references: Sequence[str], time_limit_s: float
) -> float:
    """METEOR of the whole set, in its file mode: ``|||`` in a text has no meaning there."""
    program = ["-Xmx2G", "-jar", str(folder / "meteor" / "meteor-1.5.jar")]
    options = ["-l", "en", "-norm", "-q", "-r", str(len(references) // len(answers))]
    with tempfile.TemporaryDirectory(prefix="clkd-texts-") as scratch:
        files = [Path(scratch) / name for name in ("answers.txt", "references.txt")]
        for file, lines in zip(files, (answers, references), strict=True):
            _write_lines(file, lines)
        command = [*program, *map(str, files), *options]
        output = _run_java(command, "METEOR", time_limit_s)
    try:
        return float(output)
    except ValueError as err:
        raise PublishedError(f"METEOR answered {output[:80]!r}, expected a number") from err


def _write_lines(file: Path, texts: Sequence[str]) -> None:
    lines = [_LINE_BREAK.sub(" ", text) for text in texts]
    # "replace": half of a surrogate pair, as broken JSON may hold, is no UTF-8.
    file.write_bytes("".join(f"{line}\n" for line in lines).encode(errors="replace"))


def _run_java(arguments: Sequence[str], name: str, time_limit_s: float) -> str:
    """What the program wrote; it does not outlive this call, or its share of processor time."""
    command = ["java", "-Dfile.encoding=UTF-8", *arguments]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    except OSError as err:
        raise PublishedError(f"Java cannot be started: {err.strerror}") from err
    with process:
        _limit_processor_time(process.pid, time_limit_s)
        try:
            output, complaint = process.communicate(timeout=time_limit_s)
        except subprocess.TimeoutExpired as err:
            raise PublishedError(f"{name} did not end within {time_limit_s:g} s") from err
        finally:
            process.kill()  # on Ctrl-C as well; nothing happens where it has ended
    if process.returncode:
        words = complaint.decode(errors="replace").split()
        raise PublishedError(f"{name} ended with {process.returncode}: {' '.join(words)[:200]}")
    return output.decode(errors="replace")


def _limit_processor_time(pid: int, time_limit_s: float) -> None:
    """The kernel's own limit, which holds even where this process is killed outright."""
    if hasattr(resource, "prlimit"):  # Linux
        limit_s = math.ceil(time_limit_s) * (os.cpu_count() or 1)
        with suppress(OSError):  # it has ended already
            resource.prlimit(pid, resource.RLIMIT_CPU, (limit_s, limit_s))
