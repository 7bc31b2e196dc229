"""The format of an access log in Apache's words: "%h %t \\"%r\\" %>s %b %D", read and checked."""

from __future__ import annotations

import re
from typing import NamedTuple

STYLES = ("off", "short", "common", "combined", "json")

# Apache's words, and what is in their braces: NAME = a name is needed, else what it may be.
NAME = "NAME"
WORDS = {
    "%": "", "A": "", "B": "", "D": "", "H": "", "L": "c", "P": "pid", "T": "s ms us", "U": "", "V": "", "X": "",
    "a": "", "b": "", "e": NAME, "h": "", "i": NAME, "k": "", "l": "", "m": "", "o": NAME,
    "p": "canonical local remote", "q": "", "r": "", "s": "", "t": NAME, "u": "", "v": "",
    "x": "connection number request request-id scheme tls",
}  # fmt: skip
NEED_NONE = "LPTpt"  # whose braces may be missing
# gunicorn's, written %(h)s, where they are others.
GUNICORNS = {"a": "%{User-Agent}i", "f": "%{Referer}i", "M": "%{ms}T", "L": "%{s}T", "p": "<%P>"}

TOKEN = re.compile(r"%(?:[<>]?(?:\{([^}]*)\})?([A-Za-z%])|\((?:\{([^}]*)\})?([A-Za-z])\)s)")


class Word(NamedTuple):
    """One of Apache's. name: what stands in its braces."""

    letter: str
    name: str


def read(text: str) -> list[str | Word]:
    """Literals and words. ValueError for what is none."""
    text = re.sub(r"%\(([afMLp])\)s", lambda found: GUNICORNS[found[1]], text)
    parts: list[str | Word] = []
    at = 0
    while at < len(text):
        start = text.find("%", at)
        if start != at:
            parts.append(text[at : start if start >= 0 else len(text)])
            at = start if start >= 0 else len(text)
            continue
        found = TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"{text[at : at + 12]!r} is no word of a format: a % before any other text is written %%")
        parts.append(checked(found[0], Word(found[2] or found[4], found[1] or found[3] or "")))
        at = found.end()
    return parts


def checked(written: str, word: Word) -> Word | str:
    if word.letter not in WORDS:
        raise ValueError(f"unknown word {written}; there are %{' %'.join(WORDS)}")
    names = WORDS[word.letter]
    if names == NAME:
        is_right = bool(word.name) or word.letter in NEED_NONE
    else:
        is_right = word.name in names.split() if word.name else not names or word.letter in NEED_NONE
    if not is_right:
        what = "a name" if names == NAME else f"one of {', '.join(names.split())}" if names else "nothing"
        raise ValueError(f"{written}: takes {what} in braces")
    return "%" if word.letter == "%" else word


def access_format(given: object) -> str:
    """A style, or a format. ValueError."""
    if not isinstance(given, str):
        raise TypeError
    if given not in STYLES:
        if "%" not in given:
            raise TypeError
        read(given)
    return given
