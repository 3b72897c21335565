"""What in prose no tier may take a word out of: addresses, names, identifiers, numbers with their units, quotations,
negations and limits, questions.

A sentence without "not" says the opposite, and half an identifier says nothing; so where a word may be one of these, it
is. English, German and Chinese are known well, a few words of other languages too. Knows nothing of code, tables or
documents: it is handed prose.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Literal

from .deadline import Deadline
from .sentences import sentences

LiteralKind = Literal["url", "email", "path", "identifier", "number", "name", "quote", "negation", "question"]
Found = tuple[int, int, LiteralKind]

_CHECK_EVERY = 512

# Chinese and Japanese have no spaces: what stands between their characters is looked at by itself.
_TOKEN = re.compile(r"[^\s\u3000-\u9fff\uff00-\uffef]+")
_LEFT, _RIGHT = "([{\"'“‘„«‹<*,;", ".,;:!?)]}\"'”’“»›>*…"
_ENDS = frozenset(".!?:…。！？：\n")
_ASKED = re.compile(r"[?？](?:[\s\"'”’»)」』]|$)|？")

_NUMBER = re.compile(r"[-+±~≈<>≤≥=$€£¥₹§#]{0,3}\d[\d.,:'’/–—−-]*+(?:[%‰°$€£¥₹]|[A-Za-zµΩ°%/²³]{1,6}+)?$")
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{0,20}://|www\.|mailto:", re.IGNORECASE)
_HAN_NEGATION = re.compile(
    "不得|不能|不可|不要|不是|不会|不应|没有|沒有|必须|必須|只能|只有|只是|仅仅|除非|除了|除外|禁止|不|没|沒|无|無|非|"
    "未|别|勿|仅|僅|只|否|至少|至多|最多|最少|以上|以下|超过|少于|如果|ない|なく|ません|ず|だけ|のみ"
)
_QUOTES = re.compile(
    r'"(?:[^"\n]|\n(?!\n)){1,1000}"|“[^“”]{1,1000}”|„[^„“”"]{1,1000}[“”"]|«[^«»]{1,1000}»|‹[^‹›]{1,1000}›|'
    r"「[^「」]{1,1000}」|『[^『』]{1,1000}』|《[^《》]{1,1000}》|`[^`\n]{1,1000}`|(?<!\w)'[^'\n]{1,300}'(?!\w)|‘[^‘’]{1,300}’"
)

_LIMITING_WORDS = (
    "no not never none nobody nothing nowhere neither nor cannot without unless must shall should may might can "
    "could would will need needs required require requires mandatory forbidden prohibited optional only except "
    "excluding exclude excludes exclusively solely merely just hardly barely scarcely rarely seldom instead "
    "rather if until till always all every each any some both either least most less fewer more than above below "
    "under over before after between within beyond up per but however although though despite false true fail "
    "fails failed deny denied refuse refused reject rejected stop avoid avoids lack lacks lacking missing disable "
    "disabled illegal impossible unable non un nicht nichts kein keine keinen keinem keiner keines nie niemals "
    "niemand nirgends weder noch ohne außer ausser ausgenommen muss muß müssen musst müsst darf dürfen darfst "
    "soll sollen sollte sollten kann können könnte nur lediglich ausschließlich allein erst kaum statt anstatt "
    "sondern falls wenn sofern bis mindestens höchstens maximal minimal wenigstens über unter vor nach zwischen "
    "mehr weniger immer alle alles jede jeder jedes keinesfalls keineswegs verboten unmöglich fehlt fehlen aber "
    "jedoch obwohl trotz ne pas jamais rien aucun aucune sans sauf ni seulement doit nunca nada ningún ninguna "
    "ninguno sin salvo excepto solo sólo debe debes mai senza nessun nessuna geen niet nooit zonder não sem nem"
)
_UNIT_WORDS = (
    "percent percentage per cent million millions billion billions trillion thousand hundred dozen mio mrd "
    "prozent dollar dollars usd eur euro euros pound pounds gbp yen yuan cny jpy chf franken rupees cents mm cm m "
    "km kg g mg t ton tons tonnes lb lbs oz ml l litre litres liter liters mile miles ft feet foot inch inches "
    "yard yards metre metres meter meters kilometres kilometers kilometer acres hectares sq square cubic s ms ns "
    "us second seconds minute minutes min hour hours h day days week weeks month months year years century "
    "centuries decade decades sekunden minuten stunden tage tagen wochen monate monaten jahre jahren jahr uhr am "
    "pm a.m p.m bc ad bce ce v. chr hz khz mhz ghz kb mb gb tb kib mib gib bytes byte bits bit w kw mw gw kwh v a "
    "ma mah k c f °c °f celsius fahrenheit degrees degree grad pixel pixels px pt rpm mph kmh km/h people persons "
    "times mal x january february march april may june july august september october november december jan feb "
    "mar apr jun jul aug sep sept oct nov dec januar februar märz mai juni juli oktober dezember no nr fig figure "
    "table section chapter page pages art article equation eq version step line kapitel seite abschnitt abbildung "
    "tabelle st nd rd th"
)
_COMMAND_WORDS = "rm sudo dd mkfs chmod chown kill mv cp git curl drop delete truncate"
_NEGATIONS, _UNITS = frozenset(_LIMITING_WORDS.split()), frozenset(_UNIT_WORDS.split())
_COMMANDS = frozenset(_COMMAND_WORDS.split())


def literals(text: str, deadline: Deadline | None = None) -> list[Found]:
    """(start, end, kind) of what must stay whole, by start; ranges may overlap. Linear in the text.
    Raises OutOfTime."""
    deadline = deadline or Deadline(math.inf)
    found = [*_words(text, deadline), *_matches(_QUOTES, text, "quote")]
    if not text.isascii():
        found += _matches(_HAN_NEGATION, text, "negation")
    deadline.check()
    if "?" in text or "？" in text:
        found += _questions(text)
    return sorted(found)


def _matches(pattern: re.Pattern[str], text: str, kind: LiteralKind) -> Iterator[Found]:
    for match in pattern.finditer(text):
        yield match.start(), match.end(), kind


def _questions(text: str) -> Iterator[Found]:
    for start, end in sentences(text):
        if _ASKED.search(text, start, end):
            yield start, end, "question"


def _words(text: str, deadline: Deadline) -> Iterator[Found]:
    """Word by word; a number takes the units beside it along."""
    words = [*_tokens(text, deadline)]
    kinds: list[LiteralKind | None] = [_kind(text[start:end]) for start, end in words]
    deadline.check()
    names = _names(text, words)
    for at, (start, end) in enumerate(words):
        if kinds[at] is None and _beside_a_number(kinds, at) and text[start:end].casefold().strip(".") in _UNITS:
            kinds[at] = "number"  # so that the next one stays too: "5 million euros"
        kind = kinds[at]
        if kind is not None or at in names:
            yield start, end, kind or "name"


def _tokens(text: str, deadline: Deadline) -> Iterator[tuple[int, int]]:
    """Words without the punctuation around them."""
    for steps, match in enumerate(_TOKEN.finditer(text)):
        if steps % _CHECK_EVERY == 0:
            deadline.check()
        said = match.group()
        left = len(said) - len(said.lstrip(_LEFT))
        right = len(said.rstrip(_RIGHT))
        if left < right:
            yield match.start() + left, match.start() + right


def _beside_a_number(kinds: list[LiteralKind | None], at: int) -> bool:
    return "number" in kinds[max(0, at - 1) : at + 2]


def _kind(word: str) -> LiteralKind | None:
    """What a word is by itself; None: nothing that must stay."""
    if word.isalpha():
        if word.casefold() in _NEGATIONS:
            return "negation"
        return "identifier" if word in _COMMANDS or not _is_plain(word) else None
    if _ADDRESS.match(word):
        return "url"
    if "@" in word:
        return "email"
    if _NUMBER.match(word):
        return "number"
    if "/" in word or "\\" in word:
        return "path"
    folded = word.casefold().replace("’", "'")
    parts = folded.replace("'", "-").split("-")
    if folded.endswith("n't") or not _NEGATIONS.isdisjoint(parts):
        return "negation"
    return None if all(map(_is_word, word.replace("’", "'").replace("'", "-").split("-"))) else "identifier"


def _is_plain(word: str) -> bool:
    """Whether letters are written as words are: small, or with a capital in front."""
    return word[1:].islower() or len(word) == 1 or word.casefold() == word.upper()


def _is_word(part: str) -> bool:
    return part.isalpha() and _is_plain(part)


def _names(text: str, words: list[tuple[int, int]]) -> set[int]:
    """Which words are names: with a capital inside a sentence, or where another one follows, or that are names
    elsewhere in this text. (German nouns are too: to keep one too many costs a token.)"""
    capital = [text[start].isupper() for start, _ in words]
    inside = {at for at in range(1, len(words)) if capital[at] and not _begins(text, words[at - 1], words[at][0])}
    inside |= {at for at in range(len(words) - 1) if capital[at] and at + 1 in inside}
    known = {text[slice(*words[at])] for at in inside}
    return {at for at in range(len(words)) if capital[at] and (at in inside or text[slice(*words[at])] in known)}


def _begins(text: str, before: tuple[int, int], start: int) -> bool:
    """Whether a sentence begins here, by what stands between this word and the one before; a short one with a capital
    (Dr., an initial) ends none."""
    between = text[before[1] : start]
    if between.startswith(".") and before[1] - before[0] <= 3 and text[before[0]].isupper():
        return False
    return not _ENDS.isdisjoint(between)
