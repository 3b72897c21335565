"""One wording of a question, read once: its words as written, as compared, and their stems.

Contractions are spelt out, accents and curly quotes folded, and what is only polite is left out. It knows no rule of
what makes two wordings different.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cached_property
from itertools import pairwise

from . import lexicon
from .stems import stem

LONGEST = 20_000  # characters that are read; what is longer is compared as a whole

_DIGIT = re.compile(r"\d")
_TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_QUOTES = str.maketrans(
    {"’": "'", "‘": "'", "`": "`", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "\u00a0": " ", "⁄": "/"}
)
_LANGUAGE = {
    "en": "a the is are was what how do does did can why when where who which of and to in for i you my it with not be",
    "de": "der die das ist sind war wie warum wann wo wer welche und nicht ein eine ich du mein mit zu auf für von den",
    "fr": "le la les est sont était comment pourquoi quand où qui quel quelle et ne pas un une je tu mon avec pour des",
    "es": "el la los es son era cómo por qué cuándo dónde quién cuál y no un una yo mi con para de que en las puedo",
    "it": "il lo la gli è sono come perché quando dove chi quale e non un una io mio con per di che del della",
    "pt": "o a os é são como por que quando onde quem qual e não um uma eu meu para de do da os em",
    "nl": "de het een is zijn hoe waarom wanneer waar wie welke en niet ik je mijn met voor van op te",
}
_STOPS = {name: frozenset(words.split()) for name, words in _LANGUAGE.items()}
_SPELT_OUT = {
    "can't": ("can", "not"), "cannot": ("can", "not"), "won't": ("will", "not"), "shan't": ("shall", "not"),
    "ain't": ("is", "not"), "cant": ("can", "not"), "dont": ("do", "not"), "doesnt": ("does", "not"),
    "didnt": ("did", "not"), "isnt": ("is", "not"), "arent": ("are", "not"), "wasnt": ("was", "not"),
    "wont": ("will", "not"), "wouldnt": ("would", "not"), "shouldnt": ("should", "not"), "couldnt": ("could", "not"),
    "havent": ("have", "not"), "hasnt": ("has", "not"), "werent": ("were", "not"), "hadnt": ("had", "not"),
    "whats": ("what", "is"), "hows": ("how", "is"), "im": ("i", "am"), "ive": ("i", "have"), "let's": ("let", "us"),
    "whos": ("who", "is"), "wheres": ("where", "is"), "thats": ("that", "is"), "gonna": ("going", "to"),
    "wanna": ("want", "to"), "gotta": ("have", "to"), "y'all": ("you", "all"), "mustnt": ("must", "not"),
}  # fmt: skip
_ENDINGS = {"'re": "are", "'ve": "have", "'ll": "will", "'m": "am", "'d": "would"}
_IS = frozenset(("what", "who", "where", "how", "when", "why", "that", "there", "it", "he", "she", "here", "which"))
# Said out of politeness: they open or end a question and ask for nothing.
_POLITE = re.compile(
    r"^(?:(?:hi|hello|hey|dear|good (?:morning|evening|day))(?: (?:there|all|everyone|team))?"
    r"|(?:can|could|would|will) (?:you|someone|anyone|anybody|somebody)(?: (?:please|kindly))?"
    r" (?:tell|explain|help|let|show|give)(?: (?:to me|me))?(?: (?:know|understand|with))?"
    r"|please|kindly|(?:just )?(?:a )?quick question"
    r"|(?:i (?:would|will) (?:like|love)|i want|i am trying|i need) to (?:know|understand|ask|find out)"
    r"|tell me|explain(?: to me)?|let me know|do you know|so|well|ok|okay|excuse me|i wonder|i was wondering(?: if)?) "
)
_THANKS = re.compile(
    r" (?:please(?: help(?: me)?)?|thanks(?: a lot| in advance| so much)?"
    r"|thank you(?: very much| so much| in advance)?|cheers|pls|plz)$"
)

# What a title leaves in small letters, by any of the usual rules and where they are not kept.
_UNTITLED = lexicon.words(
    "a an and are as at be but by do for from i if in into is it its nor of off on or over per s so than that the "
    "their to up via vs was with without you your my we he she they this these can will not no am"
)

_MOST_POLITE = 6  # phrases at either end


class Wording:
    """`raw`: the words as they stand; `words`: in lower case, spelt out; `stems`: of `words`, in order."""

    def __init__(self, text: str) -> None:
        text = text.translate(_QUOTES)
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text).translate(_QUOTES)
        self.text = text
        self.raw: list[str] = _TOKEN.findall(text)
        self.lower = text.lower()
        self.words: list[str] = []
        for word in _TOKEN.findall(self.lower):
            if "'" in word or word in _SPELT_OUT:
                self.words += _spelt_out(word)
            else:
                self.words.append(word)
        self.digital = _DIGIT.search(text) is not None
        self.bag = frozenset(self.words)
        self.stems = [stem(word) for word in self.words]
        self.stem_bag = frozenset(self.stems)

    @cached_property
    def counts(self) -> Counter[str]:
        """How often each stem stands there."""
        return Counter(self.stems)

    @cached_property
    def plain(self) -> str:
        """The words without what is only polite, one space between them."""
        return _impolite(" ".join(self.words))

    @cached_property
    def squeezed(self) -> str:
        """Letters and digits alone, in lower case, without accents."""
        return unaccented("".join(self.words))

    @cached_property
    def couples(self) -> frozenset[str]:
        """Any two neighbours written as one word."""
        return frozenset(map("".join, pairwise(self.words)))

    @cached_property
    def language(self) -> str | None:
        """The language, as far as its commonest words tell it; None where they do not."""
        if len(self.bag & _STOPS["en"]) > 3 and self.text.isascii():
            return "en"
        counted = {name: len(self.bag & stops) for name, stops in _STOPS.items()}
        best = max(counted, key=lambda name: counted[name])
        most = counted.pop(best)
        return best if most >= 2 and most > max(counted.values()) else None

    @cached_property
    def written(self) -> dict[str, int]:
        """Where in `raw` each word stands first, by the word in lower case and without 's."""
        found: dict[str, int] = {}
        for at, word in enumerate(self.raw):
            found.setdefault(word.lower().removesuffix("'s"), at)
        return found

    @cached_property
    def title(self) -> bool:
        """Written with a capital at all words but the smallest: capitals then say nothing. One other word in small
        letters, and the capitals are names'."""
        tall = sum(1 for word in self.raw if word[0].isupper())
        return tall > 2 and all(word in _UNTITLED for word in self.raw if word[0].islower())


def surplus(one: Wording, other: Wording) -> set[str]:
    """The stems that `one` has more often than `other`."""
    if len(one.stems) == len(one.stem_bag):
        return set(one.stem_bag - other.stem_bag)
    return set(one.counts - other.counts)


def unaccented(text: str) -> str:
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _impolite(text: str) -> str:
    for _ in range(_MOST_POLITE):
        cut = _THANKS.sub("", _POLITE.sub("", text, count=1), count=1)
        if cut == text:
            break
        text = cut
    return text


def unthanked(text: str) -> str:
    """The words of a text without the thanks at its end: its beginning may be what is asked about."""
    return _THANKS.sub("", " ".join(Wording(text).words), count=1)


def _spelt_out(word: str) -> tuple[str, ...]:
    if word in _SPELT_OUT:
        return _SPELT_OUT[word]
    head, _, tail = word.partition("'")
    if tail == "t" and head.endswith("n"):
        return (head[:-1], "not")
    if "'" + tail in _ENDINGS:
        return (head, _ENDINGS["'" + tail])
    if tail == "s":
        return (head, "is") if head in _IS else (head,)
    return tuple(part for part in word.split("'") if part)
