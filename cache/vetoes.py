"""Differences that make two wordings different questions, whatever their vectors say. One file for each kind.

A veto is a small, sure sign: it says nothing about two wordings that it lets pass, which a verifier then compares.
Vetoes see no vector, no tenant and no answer. Pure; the order of the two never matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .veto_antonyms import antonym
from .veto_asking import asking, language, output
from .veto_code import code
from .veto_entities import entity
from .veto_named import named
from .veto_negation import negation
from .veto_numbers import numbers
from .veto_order import role
from .veto_template import template
from .veto_things import thing
from .veto_units import units
from .wording import LONGEST, Wording

# The cheapest and commonest first.
VETOES: tuple[Callable[[Wording, Wording], str | None], ...] = (
    template,
    numbers,
    negation,
    units,
    language,
    code,
    antonym,
    entity,
    named,
    role,
    thing,
    asking,
    output,
)


def veto(asked: str, stored: str) -> str | None:
    """The first difference, as a stable word for headers and counts ("number", "negation", "antonym" ...), or None.

    Linear in the length; texts of more than 20,000 characters must be equal.
    """
    return each(asked, [stored])[0]


def each(asked: str, stored: Sequence[str]) -> list[str | None]:
    """The same for each of several stored texts; the asked one is read once."""
    wording: Wording | None = None
    found: list[str | None] = []
    for text in stored:
        if text == asked:
            found.append(None)
        elif max(len(asked), len(text)) > LONGEST:
            found.append("template")
        else:
            wording = wording or Wording(asked)
            found.append(differ(wording, Wording(text)))
    return found


def load() -> None:
    """Read the word lists, which takes a tenth of a second and 15 MB: before the first question, not with it."""
    for kind in VETOES:
        kind(Wording("How do I buy 2 kg of tea?"), Wording("How do I sell 3 km of Foo?"))
    thing(Wording("tune a guitar"), Wording("tune a piano"))


def differ(asked: Wording, stored: Wording) -> str | None:
    """The same for wordings that were read before."""
    for kind in VETOES:
        found = kind(asked, stored)
        if found is not None:
            return found
    return None
