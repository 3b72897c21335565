"""What kind of answer a question asks for, and what a sentence holds that could be one: names, years, numbers, places.

Words of English, German, Chinese and a few of French, Spanish and Italian; in another language every question is
"other", and digits and capitals still count. Every pattern is bounded, so a text costs no more than its length.
"""

from __future__ import annotations

import re
from collections.abc import Set

_FLAGS = re.IGNORECASE
QUESTIONS = {
    "who": re.compile(r"\b(?:who|whose|whom|wer|wem|wen|wessen|qui|quién|quien|chi)\b|谁|何人|哪位", _FLAGS),
    "when": re.compile(
        r"\b(?:when|(?:what|which) (?:year|date|day|month|century|decade|time)|wann|quand|cuándo|cuando|quando"
        r"|welche[mnrs]? (?:jahr|datum|tag|monat|jahrhundert|jahrzehnt))\b"
        r"|什么时候|何时|哪一?年|哪一?天|几月|时间|日期|哪个世纪|年份",
        _FLAGS,
    ),
    "where": re.compile(
        r"\b(?:where|(?:what|which) (?:city|country|state|place|town|location)|wo|wohin|woher|où|dónde|donde|dove"
        r"|welche[mnrs]? (?:stadt|land|ort|staat))\b|哪里|哪儿|何处|什么地方|哪个(?:国家|城市|地方)|在哪",
        _FLAGS,
    ),
    "many": re.compile(
        r"\b(?:how (?:many|much|long|old|far|big|tall|high|large|often|fast|deep)|combien|cuánt[oa]s?|quanti"
        r"|what (?:percentage|percent|number|age|size)|wieviele?|prozent\w{0,20}|anzahl"
        r"|wie (?:viele?|lange|alt|hoch|groß|oft|weit|schnell|tief))\b|多少|几个|多大|多长|多久|多高|百分之几|比例",
        _FLAGS,
    ),
    "why": re.compile(
        r"\b(?:why|how (?:do|does|did|is|are|was|were|can)|warum|weshalb|wieso|wie|pourquoi|por qué)\b"
        r"|为什么|为何|怎么|如何",
        _FLAGS,
    ),
    "what": re.compile(
        r"\b(?:what (?:is|are|was|does)|define|meaning|was (?:ist|sind|bedeutet))\b|是什么|什么是", _FLAGS
    ),
    "which": re.compile(r"\b(?:name|called|named|which|welche[mnrs]?|heißt|nannte)\b|哪|叫|名", _FLAGS),
}
KINDS = (*QUESTIONS, "other")

_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-ZÄÖÜÉ][\w'’-]{1,40}")
_FULL_NAME = re.compile(
    r"\b[A-ZÄÖÜÉ][\w'’-]{1,40} (?:[A-Z]\. ?|[A-Z]\w{1,40} |von |van |de |of )?[A-ZÄÖÜÉ][\w'’-]{1,40}|\w·\w"
)
_YEAR = re.compile(r"(?<!\d)(?:1\d{3}|20\d\d)(?!\d)|\b\d{1,2}(?:st|nd|rd|th) century|Jahrhundert|世纪|\d\s?年|\d月")
_DATE = re.compile(
    r"\b(?:in|since|until|by|im Jahr|seit|on|am) (?:\w{1,20} )?(?:\d{1,2},? )?(?:1\d{3}|20\d\d)\b"
    r"|\b\d{1,2}\.? [A-Z]\w{1,20} (?:1\d{3}|20\d\d)|[A-Z]\w{1,20} \d{1,2}, (?:1\d{3}|20\d\d)|\d{4}\s?年"
)
_NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|hundred|thousand|million"
    r"|billion|half|third|zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|hundert|tausend|millionen|milliarden|mio|mrd)\b"
    r"|[一二三四五六七八九十百千万亿两](?=[个年月日人次种位名座条])",
    _FLAGS,
)
_FIGURE = re.compile(r"\d[\d.,]{0,40}")
_PLACE = re.compile(
    r"\b(?:in|at|from|near|to|of|on|aus|bei|nach|nahe) (?:the |der |den |dem )?[A-ZÄÖÜ]\w|在|位于|城|省|州|国"
)
_BY = re.compile(r'\b(?:by|von|durch|par|por) [A-ZÄÖÜ"]|由|被')
_BEING = re.compile(
    r"\b(?:is|was|are|were|ist|war|sind|waren|means|refers|called|known|heißt|genannt|bezeichnet)\b|是|称为|叫", _FLAGS
)
_CAUSE = re.compile(
    r"\b(?:because|due|since|therefore|caused?|result|so that|in order|reason|by|weil|da|wegen|aufgrund|durch|um|damit"
    r"|führt\w{0,10})\b|因为|由于|因此|以便|为了|通过",
    _FLAGS,
)
_PRONOUN = re.compile(
    r"\W{0,3}(?:(?:He|She|It|They|His|Her|Its|Their|This|These|That|Er|Sie|Es|Ihr|Sein|Dies\w{0,2})\b|他|她|它|其|这)"
)
WORD = re.compile(r"[^\W_]+")
_READ = 2000  # characters of a unit that are looked at

CUES = ("name", "full_name", "year", "date", "number", "figure", "place", "by", "being", "cause")


def kinds(question: str) -> tuple[bool, ...]:
    """Which of KINDS a question is; it may be of several."""
    found = [pattern.search(question) is not None for pattern in QUESTIONS.values()]
    return (*found, not any(found))


def words(text: str) -> frozenset[str]:
    return frozenset(word.lower() for word in WORD.findall(text))


class Held:
    """What one unit holds, whatever is asked."""

    __slots__ = ("always", "figures", "full_names", "names", "pronoun")

    def __init__(self, text: str) -> None:
        text = text[:_READ]
        self.names = frozenset(name.lower() for name in _NAME.findall(text))
        self.full_names = [words(name) for name in _FULL_NAME.findall(text)]
        self.figures = [figure.strip(".,") for figure in _FIGURE.findall(text)]
        patterns = (_YEAR, _DATE, _NUMBER, _PLACE, _BY, _BEING, _CAUSE)
        self.always = tuple(pattern.search(text) is not None for pattern in patterns)
        self.pronoun = _PRONOUN.match(text) is not None

    def beyond(self, question: str, said: Set[str]) -> tuple[float, ...]:
        """How many names, full names and figures are new: `said` are the words of the question and the heading."""
        return (
            min(len(self.names - said), 5),
            sum(not name <= said for name in self.full_names),
            sum(figure not in question for figure in self.figures),
        )
