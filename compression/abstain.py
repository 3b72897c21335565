"""When to leave everything: questions that need all of a text, and questions that say too little to choose by.

A false alarm costs a saving, a miss costs an answer, so it would rather leave too much. Knows nothing of scores; that
nothing scored as relevant is for `conformal.relevant` to say.
"""

from __future__ import annotations

import re
from typing import Literal

from .whole_questions import AGGREGATE, EVERYTHING, QUANTIFIED

_WORD = re.compile(r"[^\W_]+")
_WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_LOOKED_AT = 2000  # characters of a long question's beginning, and of its end

_SAY_NOTHING = (
    "a an the and or but so of to in on at by for with from as is are was were be been am do does did have has had "
    "can could will would shall should may might must not no yes ok okay please thanks thank you i me my we us our "
    "your he she it they them his her its their this that these those what which who whom whose when where why how "
    "about more again also go continue tell say explain answer question context documents document following based "
    "using use given der die das ein eine und oder ist sind war bitte danke ja nein ich du er sie es wir ihr was wer "
    "wie wo wann warum welche welcher welches mehr weiter noch mal le la les un une et ou est sont oui non merci je "
    "tu il elle nous vous que qui quoi quel quelle comment pourquoi quand où el los las una y o es son sí gracias yo "
    "tú él ella qué quién cómo cuándo dónde por para más then else well hello"
)
SAY_NOTHING = frozenset(_SAY_NOTHING.split())


Asked = Literal["prose", "passages", "data"]


def everything(query: str, of: Asked = "prose") -> str | None:
    """Why nothing may be left out for this question; None if something may.

    `of`: "data" where it is asked about rows, short records or log lines, "passages" about records with a text in each.
    """
    looked_at = _ends(query)
    if not looked_at.strip():
        return "there is no question"
    if any(pattern.search(looked_at) for pattern in EVERYTHING):
        return "the question asks for everything"
    patterns = {"prose": (), "passages": AGGREGATE, "data": (*AGGREGATE, *QUANTIFIED)}[of]
    if any(pattern.search(looked_at) for pattern in patterns):
        return "the question asks about all the records together"
    if not words(looked_at) and len(_WIDE.findall(looked_at)) < 2:
        return "the question says too little"
    return None


def wants_all(instruction: str) -> str | None:
    """Why nothing may be left out for an instruction that stands beside a question; None if something may."""
    if any(pattern.search(_ends(instruction)) for pattern in EVERYTHING):
        return "the instruction asks for everything"
    return None


def _ends(text: str) -> str:
    return text if len(text) <= 2 * _LOOKED_AT else f"{text[:_LOOKED_AT]}\n{text[-_LOOKED_AT:]}"


def words(text: str) -> list[str]:
    """The words of a text that could be looked for, in lower case: neither glue nor single letters, numbers are."""
    found = (word.lower() for word in _WORD.findall(text))
    return [word for word in found if (len(word) > 2 and word not in SAY_NOTHING) or word.isdigit()]
