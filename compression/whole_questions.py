"""The wordings of questions whose answer is made of everything that was given, by language: patterns only.

Alternatives of words in a row, with a bounded gap at most, so that matching is linear. A space is any white space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PARTS = "documents?|passages?|sections?|files?|rows?|records?|items?|entr(?:y|ies)|articles?|sources?|results?"
_TEXTS = "documents?|texts?|passages?|articles?|files?|papers?|reports?|essays?|contracts?|transcripts?|conversations?"

_ENGLISH = (
    r"summar(?:y|ies|i[sz]e[sd]?|i[sz]ing|i[sz]ation)|tl;?dr|synopsis|abstract of|recap|digest of|(?:an )?overview of",
    r"key (?:points|takeaways|findings|facts|insights|messages)",
    r"main (?:points|ideas|themes|topics|arguments)|takeaways",
    r"outline|gist|highlights of|minutes of|timeline of|chronological(?:ly)?|table of contents",
    r"translat(?:e|es|ion|ing)(?! of the name)|rewrit(?:e|ing)|rephras(?:e|ing)|paraphras(?:e|ing)|reword|reformat",
    r"proof-?read(?:ing)?|copy-?edit|spell-?check|shorten|condense|simplify (?:the|this|it)|polish (?:the|this|my|up)",
    r"(?:fix|correct|check|improve) (?:the |my |this |any )?(?:grammar|spelling|typos|wording|style|text|writing|tone)",
    r"edit (?:the|this|my)|convert (?:\w+ ){0,4}(?:in)?to|turn (?:this|these|it|them|the \w+) into",
    r"list (?:all|every|each|the|out|any|up|them|everything|what|which)|enumerate|name (?:all|every|each)",
    r"give me (?:all|every|each|the (?:full|complete|whole))|show (?:me )?(?:all|every|everything)",
    r"find (?:all|every|any)",
    r"(?:all|each|every one|any) of (?:these|those|them)|every single|collect all|(?:list|tell me|do) everything",
    rf"(?:each|every) (?:{_PARTS})",
    rf"all (?:the |of the )?(?:{_PARTS}|details|information|names|dates|numbers|facts|errors)",
    r"all (?:the )?(?:mentions|occurrences|references|instances)|(?:entire|whole) (?:document|text|article|file)",
    r"extract (?:all|every|each|the|any|from|names|dates|facts|entities|information|data|key)",
    r"(?:compare|comparison of|contrast) (?:all|every|each|the|these|those|them|both)|contradict\w* between",
    rf"how many (?:of (?:these|them|the (?:{_PARTS}))|(?:{_PARTS}))|count (?:the|all|how|every|each|up|number)",
    rf"what (?:is|are|does|do) (?:this|these|the|it) ?(?:{_TEXTS}|all)? ?(?:all )?about(?=\W*$)",
    rf"what does (?:this|the) (?:{_TEXTS}) say(?=\W*$)|sentiment of|in full|verbatim|in common",
    r"(?:analy[sz]e|review|classify|categori[sz]e|describe|explain|annotate|critique|evaluate) "
    r"(?:the|this|these|all|my|each) (?:following |whole |entire )?"
    rf"(?:{_TEXTS}|{_PARTS}|data|code|logs?|table)",
    r"differences? between (?:the|these|them|all)",
    r"(?:merge|combine|sort|rank|order|group|cluster) (?:the|these|all|them|by)",
    r"repeat (?:the|this|everything|back)|quote (?:the (?:whole|entire|full)|all)",
)
_GERMAN = (
    r"zusammenfass(?:en|ung|e|t)|fasse?\b.{0,80}\bzusammen|überblick über|kernaussagen|hauptpunkte|stichpunkte",
    r"übersetz(?:en|e|t|ung)?|umschreiben|umformulier(?:en|e|t)?|korrigier(?:en|e|t)?|lektorier(?:en|e)",
    r"(?:schreib|formulier)e?\b.{0,60}\bum|kürzen? (?:den|die|das|diesen)|vereinfach(?:en|e)",
    r"(?:liste?|zähle?|nenne?)\b.{0,60}\b(?:alle[rns]?|auf|jede[rns]?|sämtliche[rn]?)|auflist(?:en|ung)",
    r"aufzähl(?:en|ung)",
    r"alle (?:dokumente|texte|abschnitte|artikel|einträge|zeilen|namen|zahlen|daten|angaben|informationen|fehler)",
    r"jede[nrs]? (?:dokuments?|abschnitts?|artikels?|eintrags?|zeile)|vergleich(?:en|e|t)? (?:alle|die|diese|beide)",
    r"extrahier(?:en|e|t)|wie viele (?:dokumente|abschnitte|artikel|einträge|zeilen|male)|worum geht",
)
_FRENCH = (
    r"résum(?:e|er|é|ez|és)|synthèse|synthétis(?:e|er|ez)|points (?:clés|principaux)|aperçu",
    r"tradui(?:re|s|sez)|traduction",
    r"réécri(?:re|s|vez)|reformul(?:e|er|ez)|corrig(?:e|er|ez)|list(?:e|er|ez) (?:tou(?:s|tes|t)|les|chaque)",
    r"énumér(?:e|er|ez)|chaque (?:document|passage|section|article|ligne)|tou(?:s|tes) les (?:\w+)",
    r"compar(?:e|er|ez) (?:tous|toutes|les|ces)|extrai(?:re|s|yez) ",
    r"combien de (?:documents|passages|fois|lignes|articles)",
    r"de quoi parle",
)
_SPANISH = (
    r"resum(?:e|en|ir|a|an)|resúme(?:lo|la|los|las|me)|síntesis|sintetiz(?:a|ar|e)|puntos (?:clave|principales)",
    r"traduc(?:e|ir|ción|zca)|tradúce(?:lo|la|me)|reescrib(?:e|ir|a)|reformul(?:a|ar)|parafrase(?:a|ar)",
    r"corrig(?:e|ir|a)|corríge(?:lo|la|me)",
    r"(?:enumera|lista|haz una lista|listar|nombra) (?:de )?(?:tod[oa]s?|l[oa]s|cada)",
    r"tod[oa]s l[oa]s|cada (?:documento|pasaje|sección|artículo|fila)|compar(?:a|ar|e) (?:tod[oa]s|l[oa]s|est[oa]s)",
    r"extra(?:e|er|iga) (?:tod|l[oa]s)|cuánt[oa]s (?:documentos|pasajes|veces|filas|artículos)|de qué trata",
)
_CHINESE_KOREAN_JAPANESE = (
    "总结|總結|概括|概述|摘要|归纳|歸納|综述|要点|要點|梗概|翻译成|翻譯成|译成|譯成|请翻译|改写|改寫|重写|重寫|润色|潤色|校对|校對|纠错",
    "列出|列举|列舉|罗列|枚举|逐一|(?:提取|抽取|摘录)(?:所有|全部|以下|出|下面)|^(?:请)?(?:提取|抽取|摘录)|找出(?:所有|全部)",
    "(?:所有|全部|每个|每一)(?:个|篇|条|段)?(?:文档|文章|段落|记录|结果|文件|信息|内容|条目|项)",
    "比较(?:所有|这些|以下|各)|(?:统计|計數|计数)(?:所有|以下|一下)|多少(?:个|篇|条|次|段|行)(?:文档|文章|段落|记录|结果)",
    "讲了什么|講了什麼|主要内容|主要內容|中心思想|要約して|まとめて|翻訳して|요약해|번역해",
)


def _words(patterns: Sequence[str]) -> re.Pattern[str]:
    joined = "|".join(patterns).replace(" ", r"\s+")
    return re.compile(rf"\b(?:{joined})\b|^\W*(?:please\W+)?extract\b", re.IGNORECASE)


EVERYTHING = (
    _words((*_ENGLISH, *_GERMAN, *_FRENCH, *_SPANISH)),
    re.compile("|".join(_CHINESE_KOREAN_JAPANESE)),
)

# Over rows, records or log lines these need every one of them; in prose they ask for a fact that stands somewhere.
AGGREGATE = (
    _words(
        (
            r"how (?:many|often)|in total|number of|count|total|sum|average|mean|median|maximum|minimum|max|min",
            r"highest|lowest|largest|smallest|biggest|longest|shortest|cheapest|latest|newest|earliest|oldest|top \d+",
            r"best|worst|which of|percent(?:age)?|ratio|distribution|histogram|trend|anomal(?:y|ies|ous)|outliers?",
            r"duplicates?|unique|distinct|sort(?:ed)?|rank(?:ed)?|group(?:ed)? by|compare",
            r"wie viele|anzahl|summe|durchschnitt|mittelwert|höchste\w*|niedrigste\w*|größte\w*|kleinste\w*",
            r"älteste\w*|neueste\w*|billigste\w*",
            r"combien|nombre|somme|moyenne|plus (?:grand|petit|ancien|récent|cher)\w*",
            r"cuánt[oa]s?|número|suma|promedio|máxim[oa]|mínim[oa]|mayor|menor",
        )
    ),
    re.compile("多少|几个|幾個|总共|總共|总数|總數|平均|最大|最小|最多|最少|最高|最低|最新|最早|最便宜|比较|比較"),
)
# These too, where the records are short; where each holds a passage, the passage may say it.
QUANTIFIED = (
    _words(
        (
            r"most|least|first|last|top|bottom|which ones?|any|all|every|each|between|differ(?:s|ences?|ent)?",
            r"without|missing|not|none|never|other than|except|before|after|since|until|till|over|under|above|below",
            r"(?:more|less|fewer|greater|larger|smaller|higher|lower|older|newer|earlier|later|longer|shorter) than",
            r"(?:which|what) (?:\w+ ){0,2}\w+s (?:are|were|have|had|do|did|can|will|need)",
            r"(?:json|csv|yaml|xml|array|table|list|object)s? (?:\w+ ){0,6}(?:for|of|from) (?:the|these|this|my|our)",
            r"at (?:least|most)|up to|exceed(?:s|ed|ing)?|outside|within|only|both|either|neither|recent(?:ly)?",
            r"welche (?:\w+ ){0,2}(?:sind|waren|haben|hatten|gibt|gab)",
            r"(?:vor|nach|seit|bis|über|unter|mehr als|weniger als|mindestens|höchstens|ohne|nur)",
            r"meisten?|wenigsten?|alle|jede\w*|keine?|tous|toutes|más \w+|tod[oa]s",
        )
    ),
    re.compile("哪些|没有|沒有|是否都|都有|以上|以下|之前|之后|之後|超过|超過|低于|高于|至少|大于|小于"),
)
