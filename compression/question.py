"""The question that a text asks, where it stands among documents and instructions. Knows no messages."""

from __future__ import annotations

import re

from .abstain import words

_LONGEST = 2000  # characters of a question that are used: where it begins, and more of where it ends
_MARGIN = r"^[ \t#>*_]{0,8}"  # what may stand before a label
_COLON = r"[ \t*_]{0,4}[:：]"
_WHOSE = r"(?:(?:user|the|my|your|current|final) )?"
_ASKED = r"(?:questions?|query|user query|frage|pregunta|domanda|问题|問題|提问|查询|質問)"
_ANSWERED = r"(?:(?:final|helpful|your|the|short) )?(?:answers?|response|antwort|respuesta|réponse|答案|回答)"
_LABEL = re.compile(rf"{_MARGIN}{_WHOSE}{_ASKED}{_COLON}[ \t*_]*", re.IGNORECASE | re.MULTILINE)
_ANSWER = re.compile(rf"{_MARGIN}{_ANSWERED}{_COLON}", re.IGNORECASE | re.MULTILINE)
_HEADING = re.compile(rf"^[ \t]*#{{1,6}}[ \t]+\**{_WHOSE}{_ASKED}[ \t*]*$", re.IGNORECASE | re.MULTILINE)
_TAG = re.compile(r"<(question|query|user_query|user_question)>", re.IGNORECASE)
# A question with one of these speaks of what was asked before it.
_EARLIER = re.compile(
    r"^\W*(?:and|but|what about|how about|und|aber|et|mais|y|pero)\b"
    r"|\b(?:he|she|it|they|him|her|his|its|their|them|this|these|those|er|sie|ihn|ihm|ihr|ihre|il|elle|ils|elles|leur"
    r"|él|ella|ellos|ellas|eso|esto)\b"
    r"|他|她|它|这|那|呢",
    re.IGNORECASE,
)


def question(text: str) -> str:
    """The question in a text outside its documents: what a label or a tag announces as one, else all of it."""
    if len(text) > 10 * _LONGEST:
        text = f"{text[: 2 * _LONGEST]}\n{text[-8 * _LONGEST :]}"
    found = _tagged(text) or _labelled(text) or _headed(text) or text
    return shortened(found.strip())


def shortened(text: str) -> str:
    """A question of a length that can be scored: the beginning and the end of a long one."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 4]}\n{text[-3 * _LONGEST // 4 :]}"


def follows_up(asked: str) -> bool:
    """Whether a question is short and points at something named before it."""
    return len(words(asked)) < 8 and _EARLIER.search(asked) is not None


def _tagged(text: str) -> str | None:
    opened = list(_TAG.finditer(text))
    if not opened:
        return None
    last = opened[-1]
    end = text.find(f"</{last[1]}>", last.end())
    return text[last.end() : end] if end >= 0 and text[last.end() : end].strip() else None


def _labelled(text: str) -> str | None:
    labels = list(_LABEL.finditer(text))
    if not labels:
        return None
    rest = text[labels[-1].end() :]
    answer = _ANSWER.search(rest)
    said = rest[: answer.start()] if answer else rest
    return said if said.strip() else None


def _headed(text: str) -> str | None:
    headings = list(_HEADING.finditer(text))
    if not headings:
        return None
    rest = text[headings[-1].end() :]
    said = rest[:at] if (at := rest.find("\n#")) >= 0 else rest
    return said if said.strip() else None
