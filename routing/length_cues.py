"""What a prompt says about the length of its answer: counts that it asks for, words for short and long, kinds of work.

Pure functions of the text. They know no model and no embedding; `length.py` weighs them. A text is read by its first
and last few thousand characters only, word by word, so that a long or hostile prompt costs no more than a short one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

READ = 2_000  # characters read from the beginning, and as many from the end
TOKENS_PER = {"word": 1.35, "sentence": 26.0, "paragraph": 110.0, "line": 13.0, "page": 600.0, "item": 42.0}
_SAID = 99_999

_TOKEN = re.compile(r"[a-zà-öø-ÿ']{1,24}|\d{1,6}|[?\n]|```")
_NUMBERS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "fifty": 50, "hundred": 100,
    "ein": 1, "eine": 1, "einem": 1, "zwei": 2, "drei": 3, "vier": 4, "fünf": 5, "sechs": 6, "zehn": 10, "zwanzig": 20,
    "un": 1, "une": 1, "uno": 1, "una": 1, "deux": 2, "trois": 3, "quatre": 4, "cinq": 5, "dix": 10,
    "dos": 2, "tres": 3, "cuatro": 4, "cinco": 5, "diez": 10,
}  # fmt: skip
_UNITS = {
    "word": ("word", "words", "wort", "wörter", "wörtern", "worte", "worten", "mot", "mots", "palabra", "palabras",
             "parola", "parole"),
    "sentence": ("sentence", "sentences", "satz", "sätze", "sätzen", "phrase", "phrases", "oración", "oraciones",
                 "frase", "frases", "frasi"),
    "paragraph": ("paragraph", "paragraphs", "absatz", "absätze", "absätzen", "paragraphe", "paragraphes", "párrafo",
                  "párrafos", "stanza", "stanzas"),
    "line": ("line", "lines", "zeile", "zeilen", "ligne", "lignes", "línea", "líneas"),
    "page": ("page", "pages", "seite", "seiten", "página", "páginas"),
    "item": ("item", "items", "idea", "ideas", "tip", "tips", "way", "ways", "example", "examples", "reason", "reasons",
             "step", "steps", "point", "points", "bullet", "bullets", "thing", "things", "name", "names", "question",
             "questions", "option", "options", "suggestion", "suggestions", "fact", "facts", "titles", "quotes",
             "recipes", "books", "movies", "games", "activities", "benefits", "differences", "features", "factors",
             "beispiele", "ideen", "gründe", "punkte", "tipps", "exemples", "idées", "raisons", "ejemplos", "ideas",
             "razones"),
}  # fmt: skip
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words}

# What a word says; each group is one cue. The hand-made prior gives each its factor.
_WORDS: dict[str, tuple[float, str]] = {
    "brief": (0.45, "brief briefly short shortly concise concisely succinct succinctly tldr terse quick quickly kurz "
                    "knapp brièvement bref breve brevemente"),
    "detailed": (1.7, "detailed detail details thorough thoroughly comprehensive comprehensively depth elaborate "
                      "complete extensive ausführlich détaillé detallado detalladamente"),
    "story": (1.7, "story essay article blog report speech script novel tale chapter screenplay fanfic geschichte "
                   "histoire historia cuento monologue scene"),
    "letter": (1.1, "email letter mail memo post cover message announcement brief review description bio"),
    "verse": (0.75, "poem song lyrics rap haiku limerick sonnet verse gedicht poème poema tweet caption joke riddle"),
    "code": (1.25, "code function script program python javascript java html css sql algorithm class implement bash "
                   "react api regex rust typescript"),
    "recipe": (1.25, "recipe cook bake make cooking ingredients dish"),
    "plan": (1.55, "plan itinerary guide curriculum schedule outline strategy proposal tutorial agenda course workout"),
    "table": (1.15, "table spreadsheet csv column columns markdown"),
    "list": (1.05, "list lists liste enumerate bullet bullets ideas tips ways suggestions examples"),
    "explain": (1.15, "explain describe discuss analyse analyze compare contrast evaluate erkläre beschreibe explique "
                      "explica describa"),
    "steps": (1.25, "step steps process instructions procedure"),
    "translate": (0.5, "translate translation übersetze traduire traduis traduce traducir"),
    "rewrite": (0.55, "rewrite rephrase paraphrase edit correct fix convert change shorten grammar improve revise"),
    "choose": (0.2, "classify categorize label sentiment identify choose select true false positive negative detect "
                    "determine rate multiple-choice correct"),
    "extract": (0.3, "extract count compute calculate solve sum how-many name answer"),
    "summary": (0.5, "summarize summarise summary zusammenfassung résume resume resumen"),
    "json": (0.5, "json xml yaml output format"),
    "personal": (1.0, "i my me i'm we our"),
    "polite": (1.0, "please can could would"),
    "pretend": (1.0, "you act pretend imagine role assistant"),
    "superlative": (0.7, "who when where which whose year born capital first name famous"),
    "cause": (1.1, "why cause reason because impact effect importance"),
}  # fmt: skip
_GROUP_OF: dict[str, tuple[str, ...]] = {}
for _name, (_, _text) in _WORDS.items():
    for _word in _text.split():
        _GROUP_OF[_word] = (*_GROUP_OF.get(_word, ()), _name)

_OPENINGS: dict[str, tuple[float, str]] = {
    "ask_how": (1.15, "how comment wie cómo"),
    "ask_what": (0.8, "what what's was que qué quel quelle"),
    "ask_fact": (0.45, "who when where which whose wer wann wo welche qui quand où quién cuándo dónde"),
    "ask_why": (1.1, "why warum pourquoi por"),
    "ask_closed": (0.6, "is are do does did was were has have will can could should am"),
    "told_write": (1.35, "write create compose draft generate develop design make build schreibe écris escribe"),
    "told_list": (0.95, "list name give provide suggest tell find show"),
    "talk": (0.45, "hi hello hey thanks thank ok okay good"),
}
_OPENING_OF = {word: name for name, (_, words) in _OPENINGS.items() for word in words.split()}

NAMES = (
    "log_chars", "log_words", "lines", "questions", "sentences", "digits", "not_ascii", "fences", "colon_end",
    "quoted", "log_given", "log_asked", "asked", "one_word", *_WORDS, *_OPENINGS,
)  # fmt: skip


_PULLS = tuple((NAMES.index(name), math.log(factor)) for name, (factor, _) in {**_WORDS, **_OPENINGS}.items())
_TRANSLATE, _REWRITE, _LOG_CHARS = (NAMES.index(name) for name in ("translate", "rewrite", "log_chars"))


class Cues(NamedTuple):
    """`values` in the order of NAMES. `asked`: tokens that an explicit count amounts to, None where there is none;
    `at_most`: whether it is a bound ("under 50 words") or one word, line or choice."""

    values: tuple[float, ...]
    asked: float | None
    at_most: bool


def read(text: str) -> Cues:
    """The cues of the turn that is to be answered. Never raises; any text will do, the empty one included."""
    size = len(text)
    seen = text if size <= 2 * READ else f"{text[:READ]}\n{text[-READ:]}"
    lower = seen.lower()
    words = _TOKEN.findall(lower)
    asked, at_most = _asked(words)
    groups = dict.fromkeys(_WORDS, 0.0)
    for word in words:
        for name in _GROUP_OF.get(word, ()):
            groups[name] = 1.0
    opening = _OPENING_OF.get(next((word for word in words if word[0].isalpha()), ""), "")
    first = seen.find("\n")
    given = len(seen) - first if first >= 0 else 0
    plain = (
        math.log1p(size),
        math.log1p(len(words)),
        math.log1p(lower.count("\n")),
        min(lower.count("?"), 4) / 2,
        math.log1p(lower.count(". ")),
        min(sum(word.isdigit() for word in words), 10) / 10,
        1 - len(seen.encode("ascii", "ignore")) / max(1, len(seen)),
        float("```" in lower),
        float(lower.rstrip().endswith(":")),
        float('"' in lower or "“" in lower),
        math.log1p(given),
        math.log1p(asked or 0.0),
        float(asked is not None),
        float(asked is not None and asked <= TOKENS_PER["word"] * 3),
    )
    return Cues((*plain, *groups.values(), *(float(opening == name) for name in _OPENINGS)), asked, at_most)


def hand_made(cues: Cues, max_tokens: int | None = None) -> float:
    """Tokens of the middle answer by rule alone: what is known before any answer was seen.

    An explicit count is believed; otherwise each cue multiplies a middle answer of 260 tokens, damped, since cues
    that come together say the same thing.
    """
    if cues.asked is not None:
        guess = max(2.0, cues.asked * (0.8 if cues.at_most else 1.05))
    else:
        values = cues.values
        guess = 260.0 * math.exp(0.75 * sum([weight for at, weight in _PULLS if values[at]]))
        if values[_TRANSLATE] or values[_REWRITE]:
            guess = min(guess, max(20.0, math.exp(values[_LOG_CHARS]) / 3.5))
    guess = min(max(guess, 2.0), 4_000.0)
    return guess if max_tokens is None else min(guess, float(max_tokens))


def _asked(words: Sequence[str]) -> tuple[float | None, bool]:
    """Tokens asked for by an explicit count, and whether it is an upper bound.

    The smallest bound counts; counts without a unit that is known ("3 apples") do not.
    """
    found: list[tuple[float, bool]] = []
    for at, word in enumerate(words):
        number = _number(word)
        if number is None:
            continue
        unit = _unit_after(words, at)
        if unit is None or (unit == "item" and not 2 <= number <= 60):
            continue
        before = words[max(0, at - 3) : at]
        bound = bool({"under", "most", "maximum", "max", "than", "within", "only", "just", "höchstens"} & set(before))
        single = number == 1 and unit in ("word", "sentence", "line", "paragraph")
        # "a one page summary of the 300 words above": a count of what is given, not of what is asked.
        if number == 1 and not single and not bound:
            continue
        found.append((number * TOKENS_PER[unit], bound or single))
    if not found:
        return None, False
    bounds = [tokens for tokens, bound in found if bound]
    tokens = min(bounds) if bounds else max(tokens for tokens, _ in found)
    return min(tokens, float(_SAID)), bool(bounds)


def _number(word: str) -> int | None:
    return int(word) if word.isdigit() else _NUMBERS.get(word)


def _unit_after(words: Sequence[str], at: int) -> str | None:
    """The unit up to three words after a number ("five creative, cheap ideas"), in the same line."""
    for word in words[at + 1 : at + 4]:
        if word in ("\n", "?") or _number(word) is not None:
            return None
        if word in _UNIT_OF:
            return _UNIT_OF[word]
    return None


def log_guess(cues: Cues) -> float:
    """The rule's guess as a number around 0: its logarithm, less that of the middle answer."""
    return math.log(hand_made(cues) / 260.0)
