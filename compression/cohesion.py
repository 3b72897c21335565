"""Words that tie a sentence to others or make it one that must not be lost: pronouns, warnings, negations, names."""

from __future__ import annotations

import re

# At the beginning of a sentence, these point at what was said before it.
_BACK = (
    "it its this these that those he she they him her his their theirs them such both neither either another others "
    "here there thus therefore hence however moreover furthermore consequently instead otherwise also then afterward "
    "afterwards later but so and or yet nevertheless nonetheless similarly likewise "
    "er sie es dies dieser dieses diesem diesen diese jener jenes jene ihr ihre ihrer ihren ihrem sein seine seiner "
    "seinen seinem solche solcher solches dort damit dabei dadurch daher darum deshalb danach dann außerdem jedoch "
    "allerdings beide letztere letzterer erstere ersterer hier somit ferner "
    "il elle ils elles ce cet cette ces cela ceci son sa ses leur leurs celui-ci celle-ci cependant ainsi donc "
    "él ella ellos ellas este esta esto estos estas ese esa eso su sus dicho dicha además así"
)
_BACK_PHRASES = (
    r"the (?:former|latter|same|other|others|second|above)|in (?:addition|contrast|turn|this|that|these|such)"
    r"|as (?:a result|such)|for (?:this|that|these)|because of this|sin embargo"
)
# At the beginning of a sentence, these point at what was said before it.
_ANAPHOR = re.compile(
    rf"[\s\"'“‘«(\[*_-]*(?:(?:{'|'.join(_BACK.split())}|{_BACK_PHRASES})\b"
    r"|它|他|她|这|這|那|此|其|该|該|两者|前者|后者|後者|因此|所以|但是|然而|另外|同时|之后|随后)",
    re.IGNORECASE,
)
_WARNING = re.compile(
    r"\b(?:error|errors|warn|warning|warnings|fatal|critical|exception|traceback|panic|failed|failure|fail|denied"
    r"|refused|timed out|timeout|unauthori[sz]ed|forbidden|deprecated|fehler|warnung|erreur|avertissement|错误|警告)\b"
    r"|(?:Error|Exception)\b|错误|警告|失败",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r'"(?:error|errors|warning|warnings|exception|failure|failed)"\s*:\s*(?:null|false|0|""|\[\]|\{\})'
)
_POLARITY = re.compile(
    r"\b(?:not|no|never|none|neither|nor|cannot|without|except|unless|only|must|shall|may|should|required|mandatory"
    r"|optional|prohibited|forbidden|allowed|permitted|(?:do|does|did|is|are|was|were|can|could|wo|would|should|must|has"
    r"|have|had)n['’]t|nicht|kein|keine[rsmn]?|nie|niemals|ohne|außer|nur|muss|müssen|darf|dürfen|soll|sollen|verboten"
    r"|erlaubt|pas|jamais|aucun|aucune|sans|sauf|seulement|doit|doivent|interdit|nunca|ningún|ninguna|sin|salvo|solo"
    r"|debe|deben|prohibido)\b|不|没|沒|无|無|非|未|别|必须|必須|禁止|只|除",
    re.IGNORECASE,
)
_NAME = re.compile(r"\b[A-ZÀ-ÖØ-ÞΑ-ΩА-Я][\w'’-]*(?: [A-ZÀ-ÖØ-ÞΑ-ΩА-Я][\w'’-]*)*")
_NUMBER = re.compile(r"\d[\d.,:/-]*\d|\d")
_QUOTED = re.compile(r'["“„«「『]([^"“”„»«」』\n]{2,80})["”“»」』]')


def leans_back(text: str) -> bool:
    """Whether a sentence begins with a word that only the one before it explains."""
    return _ANAPHOR.match(text) is not None


def warns(text: str) -> bool:
    """Whether something went wrong here; `"error": null` says that nothing did."""
    if _WARNING.search(text) is None:
        return False
    return _WARNING.search(_HARMLESS.sub("", text)) is not None


def polar(text: str) -> frozenset[str]:
    """The negations and modal words in a text, in lower case."""
    return frozenset(word.lower() for word in _POLARITY.findall(text))


def names(text: str) -> list[str]:
    """What a text names: runs of capitalised words, numbers of two digits or more, what stands in quotes."""
    found = [name for match in _NAME.finditer(text) if len(name := match.group().strip()) > 2]
    found += [number for number in _NUMBER.findall(text) if len(number) > 1]
    return list(dict.fromkeys([*found, *_QUOTED.findall(text)]))


def normal(text: str) -> str:
    """A text by which repetitions are known: only white space is no difference, for `p < 0.05` is not `p > 0.05`."""
    return " ".join(text.split())
