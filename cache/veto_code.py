"""Quoted text, code, paths, addresses, versions and operators: what one wording has must be somewhere in the other.

Case is not compared, so that a question typed in lower case keeps its meaning; everything else is.
"""

from __future__ import annotations

import re

from . import lexicon
from .wording import Wording

_QUOTED = re.compile(r'"([^"\n]{1,300})"|`([^`]{1,2000})`')
_SOLID = re.compile(r"\S+")
_INSIDE = re.compile(
    r"[^\W\d_][.:_/@\\][^\W_]|[~/\\]\w|\w::?\w|\d\.\d|@\w|^--?\w|^\.\w|^[#$]\w|\w[#+]|\w\(\)|^<\w|\w_|_\w|://"
)
_HEX = re.compile(r"\b(?=[0-9a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,64}\b|\b0x[0-9a-f]+\b")
_NAME_AND_NUMBER = re.compile(r"\b(?=\w*\d)(?=\w*[a-z])[a-z0-9]+(?:-[a-z0-9]+)*\b")
_OPERATOR = re.compile(r"(?<=[\s\d`(a-z])(?:[+*=<>&|^~!%]{1,3}|//?|-{1,2}>?)(?=[\s\d`(a-z])")
_SIGNS = re.compile(
    r"[&|^~=<>*+]{1,3}|(?<=\d)\s?[-/×÷·%]\s?(?=\d)|!=|(?<=\s)[%](?=\s)|->|(?<=\b[a-z] )[-/](?= [a-z]\b)|--"
)
# A sum of money as it is typed: numbers and units are compared elsewhere.
_SUM = re.compile(r"(?:rs\.?|inr|usd|eur|us\$)?\d[\d,.]*(?:rs|inr|usd|eur|/-)?")
_EDGES = "\"'`.,;:?!()[]{}<>*"
_PLAIN_SLASH = re.compile(r"[^\W\d_]+(?:/[^\W\d_]+)+$")  # and/or, his/her
_SENTENCES = re.compile(r"[a-z]{2,}[.?!][a-z]{2,}$")
_ENDINGS = lexicon.words(
    """
    py js ts c h cpp hpp cs java rb rs go php pl sh txt md json xml yaml yml csv html css sql com org net io dev
    edu gov log conf cfg ini toml exe dll so zip tar gz pdf doc docx xls xlsx ppt png jpg jpeg gif mp3 mp4 app
    ai co uk de in join path append format load dump split read write
    """
)


def code(asked: Wording, stored: Wording) -> str | None:
    if _missing(asked, stored) or _missing(stored, asked) or _hyphenated(asked, stored):
        return "code"
    return "code" if _operators(asked) != _operators(stored) else None


def _missing(wording: Wording, other: Wording) -> bool:
    """Whether a quotation or a piece of code of the one is not in the other."""
    text = wording.lower
    quoted = '"' in text or "`" in text
    if quoted:
        for double, back in _QUOTED.findall(text):
            if not _holds(other, double or back):
                return True
    if wording.digital or any(map(text.__contains__, "._/@\\:#$-~<+(")):
        for piece in _SOLID.findall(text):
            if not piece.isalnum() and not piece[:-1].isalnum() and _is_code(piece) and not _holds(other, piece):
                return True
        return any(mixed not in other.lower for mixed in _mixed(text)) if wording.digital else False
    return False


_HYPHENS = re.compile(r"\b[a-z0-9]{2,}(?:-[a-z0-9]{2,})+\b")


def _hyphenated(asked: Wording, stored: Wording) -> bool:
    """Whether each has a word with a hyphen that the other lacks, and the two share their beginning or their end."""
    if "-" not in asked.text or "-" not in stored.text:
        return False
    ours = [word.split("-") for word in _HYPHENS.findall(asked.lower) if word.replace("-", "") not in stored.squeezed]
    theirs = [word.split("-") for word in _HYPHENS.findall(stored.lower) if word.replace("-", "") not in asked.squeezed]
    return any(one[0] == other[0] or one[-1] == other[-1] for one in ours[:50] for other in theirs[:50])


def _mixed(text: str) -> list[str]:
    return [found for found in _HEX.findall(text) if len(found) > 3]


def _is_code(piece: str) -> bool:
    core = piece.strip(_EDGES) if not piece.startswith(("-", ".", "#")) else piece.rstrip(_EDGES)
    core = core if core else piece
    if not _INSIDE.search(core) or _PLAIN_SLASH.match(core):
        return False
    if "." in core and core.replace(".", "").isalpha() and not any(c in core for c in "_/@:\\"):
        head, _, tail = core.rpartition(".")
        return bool(head) and len(head) > 1 and len(tail) > 1 and (tail in _ENDINGS or core.count(".") > 1)
    if _SUM.fullmatch(core) and core.count(".") < 2:
        return False
    if core[0] in "#$" and core[1:].replace(",", "").replace(".", "").isdigit():
        return False
    return not (core[0] in "-" and core[1:].isdigit())


def _holds(other: Wording, piece: str) -> bool:
    """Whether the other wording has it, spaces, quotes and the marks around it aside."""
    solid = piece.strip(_EDGES)
    if not solid:
        return True
    if any(map(str.isspace, solid)):
        return "".join(solid.split()) in "".join(other.lower.split()) or _loose(piece, other)
    return _whole(solid, other.lower) or _loose(piece, other)


def _whole(solid: str, text: str) -> bool:
    """Whether it stands there and is no part of something longer, as load is of loads."""
    at = text.find(solid)
    while at >= 0:
        around = text[max(0, at - 1) : at] + text[at + len(solid) : at + len(solid) + 1]
        if not any(c.isalnum() or c == "_" for c in around):
            return True
        at = text.find(solid, at + 1)
    return False


def _loose(piece: str, other: Wording) -> bool:
    """The same letters in words: node.js and nodejs, "smoke and mirrors" and smoke & mirrors."""
    if any(c in piece for c in "/@\\_") or piece.startswith("-"):
        return False
    letters = "".join(c for c in piece if c.isalnum())
    if len(letters) < 2 or letters not in other.squeezed or any(map(str.isdigit, letters)):
        return False
    words = other.words
    return " " in piece or any(letters == "".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words)))


def _operators(wording: Wording) -> list[str]:
    text = wording.lower
    if not any(map(text.__contains__, "&|^~=<>*+!%-/×÷")):
        return []
    return sorted(
        "".join(sign.split()) for sign in _SIGNS.findall(text.replace(" & ", " and ").replace("&amp;", "and"))
    )
