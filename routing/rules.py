"""Rules that an operator writes down: this tag, this header, this phrase goes to that model, whatever a score says.

A phrase may hold `*`, which stands for any characters. It is matched piece by piece, from left to right, without
backtracking, so a prompt is read once however it was made. There are no regular expressions: they are an operator's
only until a client's text is run through them. Knows no models.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_READ = 20_000


@dataclass(frozen=True, slots=True)
class Rule:
    """All that is set must hold. `header`: a name, and the value it must have; `prompt`: phrases, one of which must be
    in it, without regard to case. `goes`: `small`, `large` or the name of a model; `only`: and to nobody else."""

    goes: str
    name: str = ""
    tag: str | None = None
    header: tuple[str, str] | None = None
    prompt: tuple[str, ...] = ()
    only: bool = False

    def __post_init__(self) -> None:
        if self.tag is None and self.header is None and not self.prompt:
            raise ValueError("a rule needs a tag, a header or a prompt to go by")
        if any(not phrase.strip("* ") for phrase in self.prompt):
            raise ValueError("a rule's prompt holds at least one character that is not *")


def first(rules: Sequence[Rule], tags: Collection[str], headers: Mapping[str, str], prompt: str) -> Rule | None:
    """The first rule that holds. `headers` by lower-case name. Of a long prompt the first 20,000 characters are read,
    and the last."""
    if not rules:
        return None
    text = (prompt if len(prompt) <= 2 * _READ else f"{prompt[:_READ]}\n{prompt[-_READ:]}").lower()
    return next((rule for rule in rules if _holds(rule, tags, headers, text)), None)


def _holds(rule: Rule, tags: Collection[str], headers: Mapping[str, str], text: str) -> bool:
    if rule.tag is not None and rule.tag not in tags:
        return False
    if rule.header is not None and headers.get(rule.header[0].lower()) != rule.header[1]:
        return False
    return not rule.prompt or any(_within(phrase.lower(), text) for phrase in rule.prompt)


def _within(phrase: str, text: str) -> bool:
    """Whether the phrase's pieces occur in this order. The leftmost place of each leaves most room for the next."""
    at = 0
    for piece in filter(None, phrase.split("*")):
        found = text.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True
