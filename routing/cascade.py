"""Was the small model's answer good enough? Checks on the answer itself, and a calibrated deferral score from them.

A check that fails for certain (JSON that was asked for and is none, code that does not parse, a refusal, an endless
repetition, an answer that was cut) defers whatever the score says. The rest is a logistic on the checks' figures and
on what the heads thought of the prompt. Knows no model's name, no policy and no price.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log1p
from typing import Any, Literal

from .arithmetic import numbers, sums
from .schema import conforms

Kind = Literal["free", "json", "code"]

NAMES = (
    "characters",
    "lines",
    "right_sums",
    "wrong_sums",
    "share_right",
    "no_sums",
    "marked_final",
    "final_is_last_result",
    "final_is_whole",
    "final_size",
    "final_in_prompt",
    "results_per_number",
    "prompt_numbers_used",
    "numbers_from_nowhere",
    "hedges",
    "unknowns",
    "fractions",
    "length_for_prompt",
    "repetition",
    "ends_with_a_stop",
    "agreement",
    "has_agreement",
    "log_probability",
    "has_log_probability",
)

_LONGEST = 20_000
_WORD = re.compile(r"\w+")
_REFUSALS = (
    "i cannot",
    "i can't",
    "i can’t",
    "i am unable",
    "i'm unable",
    "i’m unable",
    "i am sorry",
    "i'm sorry",
    "i’m sorry",
    "as an ai",
    "i won't",
    "i don't know",
    "i do not know",
)
_HEDGES = (
    "however",
    "actually",
    "assum",
    "not possible",
    "impossible",
    "not enough",
    "mistake",
    "unclear",
    "can't",
    "cannot",
    "doesn't",
    "not specified",
    "negative",
    "wait",
    "approximately",
)
_FINAL = re.compile(r"####|[Tt]he answer is|[Ff]inal answer|\\boxed|\*\*Answer")
_FENCE = re.compile(r"```([a-zA-Z0-9_+-]{0,20})[^\n]{0,100}\n(.*?)```", re.DOTALL)
_UNKNOWN = re.compile(r"\b[a-z] [=+*-]|\b\d{1,6}[a-z]\b|[Ll]et ")


@dataclass(frozen=True, slots=True)
class Answered:
    """The small model's answer, and what is known beside it.

    `kind`: what was asked for; `schema`: the JSON schema asked for. `cut`: it ended for length. `second`: another draw.
    `mean_logprob`: natural logarithm, per token, of the model's own.
    """

    prompt: str
    text: str
    kind: Kind = "free"
    schema: Mapping[str, Any] | None = None
    cut: bool = False
    second: str | None = None
    mean_logprob: float | None = None


def failed(answer: Answered) -> str | None:
    """The first check that fails for certain, in words for a receipt; None if none does."""
    text = answer.text.strip()
    if not text:
        return "the answer is empty"
    if answer.cut:
        return "the answer was cut"
    if answer.kind == "json":
        return _json_fault(text, answer.schema)
    if refuses(text):
        return "the answer refuses"
    if repetition(text) > 0.6:
        return "the answer repeats itself"
    return code_fault(text) if answer.kind == "code" else None


@dataclass(frozen=True, slots=True)
class Deferral:
    """A logistic on the checks and on the heads' guesses for the small and the large model: `mean` and `spread`
    standardise them, `weights` end with the constant."""

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.spread) == len(self.weights) - 1 == len(NAMES) + 2:
            raise ValueError("a deferral that was fitted on other checks")

    def good(self, figures: Sequence[float], small: float, large: float) -> float:
        """P(the small model's answer is good), now that it is seen. `small`, `large`: what was thought before."""
        logit = self.weights[-1]
        figures = (*figures, small, large)
        for value, mean, spread, weight in zip(figures, self.mean, self.spread, self.weights[:-1], strict=True):
            logit += weight * max(-4.0, min(4.0, (value - mean) / spread))
        return 1 / (1 + exp(-max(-30.0, min(30.0, logit))))

    def score(self, answer: Answered, small: float, large: float) -> float:
        """What the large model would be expected to add, -1 to 1; 1 where a check failed for certain."""
        return 1.0 if failed(answer) else large - self.good(checks(answer), small, large)


def refuses(text: str) -> bool:
    """Whether it begins with a refusal."""
    begin = text[:120].lower()
    return any(phrase in begin for phrase in _REFUSALS)


def repetition(text: str) -> float:
    """The share of the text's runs of six words that occurred before, 0 to 1."""
    words = _WORD.findall(text[:_LONGEST])
    runs = Counter(tuple(words[at : at + 6]) for at in range(len(words) - 5))
    total = sum(runs.values())
    return 1 - len(runs) / total if total >= 20 else 0.0


def code_fault(text: str) -> str | None:
    """What is wrong with the code in the text's fences: only what can be parsed here (Python, JSON) is judged."""
    for language, body in _FENCE.findall(text[:_LONGEST]):
        if language.lower() in ("python", "py", "python3"):
            try:
                ast.parse(body)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return "the code does not parse"
        elif language.lower() == "json" and _json_fault(body, None):
            return "the code does not parse"
    return "the code's fence is not closed" if text.count("```") % 2 else None


def _json_fault(text: str, schema: Mapping[str, Any] | None) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "the answer is not JSON"
    if schema is not None and not conforms(value, schema):
        return "the JSON does not fit its schema"
    return None


def checks(answer: Answered) -> tuple[float, ...]:
    """One figure for each of `NAMES`; all finite."""
    text, prompt = answer.text[:_LONGEST], answer.prompt[:_LONGEST]
    found = sums(text)
    asked = set(numbers(prompt))
    results, used = set(found.results), set(found.numbers)
    tried = found.right + found.wrong
    final = found.final
    lower = text.lower()
    agreement = None if answer.second is None else agree(text, answer.second)
    known = answer.mean_logprob is not None and isfinite(answer.mean_logprob)
    return (
        log1p(len(text)),
        log1p(text.strip().count("\n")),
        log1p(found.right),
        log1p(found.wrong),
        found.right / tried if tried else 0.5,
        float(tried == 0),
        float(_FINAL.search(text) is not None),
        float(final is not None and bool(found.results) and final == found.results[-1]),
        float(final is not None and final == int(final)),
        log1p(final or 0.0),
        float(final in asked),
        log1p(len(results)) - log1p(len(asked)),
        len(asked & used) / len(asked) if asked else 1.0,
        log1p(len(used - asked - results)),
        log1p(sum(phrase in lower for phrase in _HEDGES)),
        log1p(len(_UNKNOWN.findall(text))),
        log1p(sum(number != int(number) for number in found.numbers)),
        log1p(len(text)) - log1p(len(prompt)),
        repetition(text),
        float(text.rstrip()[-1:] in tuple(".!?)}]>*`0123456789")),
        0.0 if agreement is None else agreement - 0.5,
        float(agreement is not None),
        max(-5.0, answer.mean_logprob or 0.0) if known else 0.0,
        float(known),
    )


def agree(first: str, second: str) -> float:
    """How far two draws say the same, 0 to 1: the same final number if both have one, else the words they share."""
    ends = [numbers(text)[-1:] for text in (first[:_LONGEST], second[:_LONGEST])]
    if all(ends):
        return float(ends[0] == ends[1])
    words = [set(_WORD.findall(text[:_LONGEST].lower())) for text in (first, second)]
    union = words[0] | words[1]
    return len(words[0] & words[1]) / len(union) if union else 1.0
