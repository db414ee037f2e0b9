"""The words of an answer as BLEU and ROUGE-L count them, without Java.

Published caption scores count the words that ``pycocoevalcap`` gets from Stanford's PTBTokenizer
(CoreNLP 3.4.1 with ``-lowerCase``), less a list of punctuation. The rules here were found by
giving that program text and looking at what came back. Much that looks odd is meant: a bracket
stays as ``-lrb-`` because the list of punctuation has it in capitals; a comma sticks to a number
behind it (``,1088.3``); a full stop without a space joins two words (``stops.the``); three
numbers in a row are a telephone number and one token.
"""

import re
from collections.abc import Iterator

_AHEAD = 64
"""How far a shape that may turn out not to fit is read ahead, so that time stays linear."""

# A character of a word: letters and digits of any script, the accents that follow them, and the
# hyphens that look like "-" and are not; superscripts and the like stand alone.
_W = r"(?:[^\W_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u218f\u2460-\u24ff]"
_W += r"|[\u0300-\u036f\u2010\u2011])"
_LETTER = rf"(?:(?!\d){_W})"
_WORD = rf"{_W}+(?:_{_W}+)*"
_STOP = r"(?:\.(?=[,;:]))?"  # an odd one: "cars.," keeps its full stop
_PART = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"  # of words with slashes

_STARTERS = (
    "A About According Additionally After An As At But Earlier He Her Here However If In It Last "
    "Many More Now Once One Other Our She Since So Some Such That The Their Then There These "
    "They This We What When While Yet You"
).split()
"""Ahead of these a full stop behind a single letter ends a sentence (``5 m. The car``)."""

_ABBREVIATIONS = (
    "adj adm adv al ala alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif "
    "capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq "
    "est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan "
    "kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt "
    "mtg natl neb nev nov oct okla penn pfc ph plc pres prof pvt rd rep reps rev rt sen sens sep "
    "sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs tue tues univ va vs vt "
    "wed wis wisc wm wyo"
).split()
_ABBREVIATIONS_IN_CAPITALS = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash".split()
_ABBREVIATIONS_OF_NUMBERS = "art ca fig figs no nos op pp prop".split()
"""These keep their full stop only ahead of a number: ``no. 5``, but ``No.`` is an answer."""

_SHAPES: dict[str, str] = {
    # Nothing longer can start with a plain word ahead of a space; first because most are such.
    "plain": r"[A-Za-z]+(?=\s)",
    "tag": (
        rf"<(?:[!?][A-Za-z\-][^>\n]{{0,{_AHEAD}}}|/?[A-Za-z][\w:.\-]*"
        r"(?:\s+[A-Za-z][\w:.\-]*(?:\s*=\s*(?:'[^']{0,64}'|\"[^\"]{0,64}\"))?){0,16}\s*/?)>"
    ),
    "entity": r"&(?:lt|gt|amp|quot|nbsp|#[0-9]{1,7});",
    "address": (
        r"(?i:https?)://[^\s\"<>|()]{1,512}\.[^\s\"<>|()]{0,512}[^\s\"<>|().,!?\-]"
        r"|[A-Za-z0-9][^\s\"<>|()@]{0,64}@[^\s\"<>|()@.]+(?:\.[^\s\"<>|()@.]+)*"
    ),
    "handle": r"@[A-Za-z_]\w*|\#[A-Za-z]+",
    "smiley": r"[<>]?[:;=][\-o*']?[()DPdpO\]\[{@|\\](?!\w)",
    "numbers": (
        r"(?=\(|[+0-9\-]{1,16} )(?:\([0-9]{2,3}\) ?|\+{0,2}(?:[0-9]{2,4}[\- ])?[0-9]{2,4}[\- ])"
        r"[0-9]{3,4}[\- ]?[0-9]{3,5}"
        r"|[0-9]{1,4}[\- ][0-9]{1,4}/[0-9]{1,4}"
    ),
    "slashes": rf"{_PART}(?:/{_PART}){{1,2}}",
    "hyphens": (
        rf"(?:{_W}(?:{_W}|[.,]){{0,{_AHEAD}}}|{_WORD})(?:-(?:(?:[A-Za-z]\.){{2,}}|{_WORD}))+"
        rf"{_STOP}"
    ),
    "acronym": rf"(?:[A-Za-z]\.){{2,}}(?!{_LETTER})",
    "joined": rf"{_LETTER}{_W}*(?:[.!?]{_LETTER}{_W}*)+",
    "last_initial": rf"[A-Za-z](?=\.\s+(?:(?:{'|'.join(_STARTERS)}|THE)\s|M[rs]\.))",
    "abbreviation": (
        rf"(?:(?i:{'|'.join(_ABBREVIATIONS)})|{'|'.join(_ABBREVIATIONS_IN_CAPITALS)}"
        rf"|(?i:{'|'.join(_ABBREVIATIONS_OF_NUMBERS)})(?=\.\s?[0-9]))\.(?!{_LETTER})"
    ),
    "initial": r"[A-Za-z]\.",
    "capitals": r"[A-Z]+(?:[&+][A-Z]+)+|[Cc]\+\+|[CcFf]\#|[A-Z]{1,2}\$",
    "negation": rf"{_W}*[nN]'[tT](?![A-Za-z])",
    "elided": rf"(?i:[dol]'{_LETTER}{{2,}}|ma'am|c'mon|ne'er|e'er|nat'l|y'(?=all))",
    "clitic": (
        rf"'(?:(?i:n'|(?:s|d|m|ll|re|ve|n|cause|til)(?!{_W}))|[eE][mM]|[tT](?=(?i:is|was)\b)"
        rf"|[0-9]0s|[0-9][0-9](?!\S))"
    ),
    "dashes": r"-{2,4}(?!-)",
    "number": r"[\-+]?[0-9]*(?:[.,:][0-9]+)+|[\-+][0-9]+",
    "word": rf"{_WORD}{_STOP}",
    "run": r"[!?]{2,}|\*{2,}|_+|\#{2,}|@{2,}|<<|>>|-{5,}",
    "sign": r"\S",
}
"""What a token can look like; where several fit, the earlier one is the longer one."""

_TOKEN = re.compile("|".join(f"(?P<{name}>{shape})" for name, shape in _SHAPES.items()))

_SPLIT = {
    "cannot": ("can", "not"),
    "gimme": ("gim", "me"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "lemme": ("lem", "me"),
    "wanna": ("wan", "na"),
}
_ENTITIES = {
    "&lt;": "<",
    "&gt;": ">",
    "&amp;": "&",
    "&quot;": '"',
    "&nbsp;": "",
}
_BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}
_PUNCTUATION = frozenset("'`\".?!,:;-") | {"--", "---", "----", ""}

_CLEAN = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201b\u2039\u203a", "'"),
        **dict.fromkeys("\u201c\u201d\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2013\u2014\u2015", " -- "),
        **dict.fromkeys("\u20ac\u00a4\u20a0", " $ "),
        "\u00a2": " cents ",
        "\u00a3": " # ",
        "\u00ad": "",  # the hyphen that shows only at the end of a line
        "\u00bc": " 1/4 ",
        "\u00bd": " 1/2 ",
        "\u00be": " 3/4 ",
        "\u2153": " 1/3 ",
        "\u2154": " 2/3 ",
        "\u2026": " ... ",
    }
)
_NO_TOKEN = re.compile(  # controls, marks of direction, private use and all of emoji
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f"
    "\ufeff\ud800-\uf8ff\U00010000-\U0010ffff]"
)


def tokenize(text: str) -> list[str]:
    """Split into lower-case tokens without punctuation; line breaks are white space.

    A token of several words (``<ego car>``, a telephone number) has no-break spaces in it. The
    published ROUGE-L counts it as one, the published BLEU as several.

    Takes time in proportion to the length, whatever the text.
    """
    return [token for token in _all_tokens(text) if token not in _PUNCTUATION]


def _all_tokens(text: str) -> Iterator[str]:
    plain = text.replace("''", '"').replace("&apos;", "'").translate(_CLEAN)
    for match in _TOKEN.finditer(_NO_TOKEN.sub(" ", plain)):
        shape, token = match.lastgroup, match.group().lower()
        if shape in ("plain", "word"):
            yield from _SPLIT.get(token, (token,))
        elif shape == "negation":
            yield from (token[:-3], token[-3:])
        elif shape == "entity":
            yield _ENTITIES.get(token, token)
        elif shape == "sign":
            yield _BRACKETS.get(token, token)
        elif shape in ("smiley", "numbers"):
            yield token.replace("(", "-lrb-").replace(")", "-rrb-").replace(" ", "\u00a0")
        else:
            yield "\u00a0".join(token.split())
