"""What is asked for differs: who and where, how many and how long, an answer in one word and one as JSON, a language.

Only where both say it plainly: "what is the best way to" and "how do I" ask for the same.
"""

from __future__ import annotations

import unicodedata

from . import lexicon
from .wording import Wording


def _table(rows: str) -> dict[str, str]:
    """Words and what they say, of rows "what: word word | ..."."""
    return {
        word: said.strip()
        for row in rows.split("|")
        for said, _, words in (row.partition(":"),)
        for word in words.split()
    }


_PLAIN = _table(
    """
    who: who whom whose | when: when | where: where | why: why
    """
)
_HOW = _table(
    """
    count: many | amount: much | length: long | age: old | often: often | far: far | tall: tall high | size:
    big large | speed: fast | weight: heavy | depth: deep
    """
)
_WHAT = _table(
    """
    when: time year date day month | why: reason reasons cause causes | where: place city country | who:
    person | count: number | amount: cost price | age: age | far: distance
    """
)
_GO_TOGETHER = (
    frozenset(("who", "where")),
    frozenset(("amount", "count")),
    frozenset(("length", "when")),
    frozenset(("size", "tall")),
)
_OPENERS = lexicon.words(
    """
    what who whom whose which when where why how is are was were do does did can could should would will has
    have many much the a an i you we one to it long old often far tall be of
    """
)
_FORMS = _table(
    """
    json: json | xml: xml | yaml: yaml | csv: csv | table: table tables tabular | list: bullet bullets
    bulleted | essay: essay | poem: poem | haiku: haiku | sonnet: sonnet | limerick: limerick | paragraph:
    paragraph paragraphs | sentence: sentence sentences | markdown: markdown | html: html | summary: summary
    | tweet: tweet | email: email | story: story | song: song | rap: rap | joke: joke | letter: letter |
    word: word words | pdf: pdf | latex: latex | pseudocode: pseudocode | outline: outline | script: script
    """
)
_LENGTHS = _table(
    """
    short: brief briefly concise concisely shortly | long: detailed detail depth elaborate thorough
    thoroughly comprehensive lengthy
    """
)
_CUES = lexicon.words(
    """
    in as into write answer reply respond give format output return using generate create with
    """
)


def asking(asked: Wording, stored: Wording) -> str | None:
    ours, theirs = kinds(asked), kinds(stored)
    if ours == theirs:
        return None
    one, other = ours - _LOOSE, theirs - _LOOSE
    if not one and not other:
        return None
    if one and other:
        if len(one) > 1 or len(other) > 1 or one == other:
            return None
        excused = frozenset((*one, *other)) in _GO_TOGETHER or one <= _said(stored) or other <= _said(asked)
        return None if excused and _rest(asked) != _rest(stored) else "question type"
    if len(one | other) > 1 or (one | other) <= (_said(asked) & _said(stored)) or len(ours | theirs) > 2:
        return None
    return "question type" if _rest(asked) == _rest(stored) else None


def output(asked: Wording, stored: Wording) -> str | None:
    ours, theirs = _forms(asked), _forms(stored)
    if ours != theirs and (
        (ours - theirs and theirs - ours)
        or _ends_with_form(asked, ours - theirs)
        or _ends_with_form(stored, theirs - ours)
    ):
        return "output"
    return None


def language(asked: Wording, stored: Wording) -> str | None:
    plain = asked.text.isascii() and stored.text.isascii()
    scripts = not plain and script(asked.text) != script(stored.text)
    one, other = asked.language, stored.language
    return "language" if scripts or (one is not None and other is not None and one != other) else None


_LOOSE = frozenset(("what", "how"))


def kinds(wording: Wording) -> set[str]:
    """What the question words ask for that stand where one opens a question."""
    words = wording.plain.split()
    found: set[str] = set()
    for at, word in enumerate(words):
        if at > _OPENING and not (found and words[at - 1] in ("and", "or")):
            continue
        if word in _PLAIN:
            found.add(_PLAIN[word])
        elif word == "how":
            after = words[at + 1] if at + 1 < len(words) else ""
            found.add("why" if after == "come" else _HOW.get(after, "how"))
        elif word in ("what", "which"):
            found.add("what")
    if words and words[-1] in _PLAIN:
        found.add(_PLAIN[words[-1]])
    return found


_OPENING = 4  # words before a question word that still opens the question


def _said(wording: Wording) -> set[str]:
    """What is asked for in other words: "what is the reason", "in which year"."""
    return {_WHAT[word] for word in wording.bag & _WHAT.keys()}


def _rest(wording: Wording) -> list[str]:
    return [word for word in wording.plain.split() if word not in _OPENERS]


def _forms(wording: Wording) -> set[str]:
    found = {_FORMS[word] for word in wording.bag & _FORMS.keys()} | {
        _LENGTHS[word] for word in wording.bag & _LENGTHS.keys()
    }
    return found if not found or not _CUES.isdisjoint(wording.bag) else set()


def _ends_with_form(wording: Wording, forms: set[str]) -> bool:
    """Whether the form is asked for at the very end: "... in one word", "... as JSON"."""
    if not forms:
        return False
    tail = wording.plain.split()[-4:]
    return any((_FORMS.get(word) or _LENGTHS.get(word)) in forms for word in tail) and not {
        "in",
        "as",
        "with",
    }.isdisjoint(tail)


def script(text: str) -> str:
    """The script of most letters."""
    counts: dict[str, int] = {}
    for char in text[:400]:
        if char.isalpha():
            name = "LATIN" if char.isascii() else unicodedata.name(char, "?").split()[0]
            counts[name] = counts.get(name, 0) + 1
    if {"HIRAGANA", "KATAKANA"} & counts.keys():
        return "KANA"
    return max(counts, key=lambda name: counts[name]) if counts else ""
