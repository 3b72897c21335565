"""Documents announced by lines: numbered ones (`Document [3] (Title: …)`, `[3] …`, `Passage 3:`), a section under a
heading such as `## Documents`, a `Context:` that a `Question:` follows, chunks between `---`.

Each finder gives blocks, or nothing where it could be read otherwise: what a user asks for must never pass for a
document. So the last document of a run ends at the first blank line, or at a line that begins like a question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from .asides import is_aside, without_asides, without_requests
from .block import CUE, HEADS_DOCUMENTS, TITLE_LINE, Block, BlockKind, Line, Page

_ENDS = ("ask", "rule", "heading", "context")
# `[1] …` may number rules as well as passages: then it takes a word about documents before it, or long passages.
_RULES = re.compile(
    r"(?<!\w)(?:rules?|instructions?|steps?|requirements?|guidelines?|constraints?|tasks?|questions?|todo|examples?|"
    r"regeln?|schritte?|anforderungen?|aufgaben?|fragen?|beispiele?)(?!\w)|规则|步骤|要求|任务|问题|示例",
    re.IGNORECASE,
)
_QUESTION = ("question", "questions", "query", "q", "frage", "问题", "提问")
_INLINE_QUESTION = re.compile(r"(?<!\w)(?:Question|Query|Frage|QUESTION)[:：][ \t]|问题[:：]")
_EXAMPLE = re.compile(r"(?:examples?|e\.g\.|instance|beispiele?|例如|示例|例子)[^\w\n]{0,3}$", re.IGNORECASE)
_BELOW = re.compile(r"(?<!\w)(?:below|following|retrieved|given|unten|folgend\w*)(?!\w)|以下|如下|下面", re.IGNORECASE)
_LONG = 200


def numbered(page: Page, first: int, last: int) -> list[Block]:
    """Documents with rising numbers and one kind of announcement, between two line numbers."""
    out: list[Block] = []
    runs = [*_runs([line for line in page.between(first, last) if line.kind in ("label", "bracket")])]
    for run, after in zip(runs, [*(run[0].at for run in runs[1:]), last], strict=False):
        if _EXAMPLE.search(_lead(page, run[0].at)):
            continue
        made = _numbered_run(page, run, after)
        if run[0].kind == "bracket" and not _are_passages(page, run[0].at, made):
            continue
        if len(made) > 1 or (made and run[0].match["n1"]):
            out += made
    return out


def _runs(lines: list[Line]) -> Iterator[list[Line]]:
    run: list[Line] = []
    for line in lines:
        if run and (_label(line) != _label(run[-1]) or _number(line) <= _number(run[-1])):
            yield run
            run = []
        run.append(line)
    if run:
        yield run


def _label(line: Line) -> str:
    return (line.match["label"] or "").casefold()


def _number(line: Line) -> int:
    return int(line.match["n1"] or line.match["n2"] or line.match["bracket"])


def _numbered_run(page: Page, run: list[Line], last: int) -> list[Block]:
    out: list[Block] = []
    for line, after in zip(run, [*run[1:], None], strict=True):
        page.check()
        limit = last if after is None else after.at
        stop = next((other.at for other in page.between(line.at + 1, limit) if other.kind in ("ask", "rule")), limit)
        if after is None or stop < limit:
            stop = _last_stop(page, line.at, stop, all(b.end <= page.start(page.line_of(b.start) + 1) for b in out))
        else:
            stop = without_asides(page, line.at + 1, stop)
        made = _document(page, line.match.start(), line.match.end(), page.start(stop), "numbered")
        if made is not None:
            out.append(made)
    return out


def _last_stop(page: Page, line: int, last: int, one_line_each: bool) -> int:
    """The line before which the last document of a run ends; there nothing but its own look says so."""
    if one_line_each:
        return line + 1
    stop = next((other.at for other in page.between(line + 1, last) if other.kind in _ENDS), last)
    blank = page.first_blank(line + 1, stop)
    if blank == stop == last and last == len(page.starts):
        return line + 1  # the text ends here, and the last line may be the question
    return max(line + 1, without_requests(page, line + 1, blank))


def _are_passages(page: Page, line: int, made: list[Block]) -> bool:
    before = _before(page, line)
    if len(made) < 2 or _RULES.search(_lead(page, line)):
        return False
    lengths = sorted(block.body_end - block.body_start for block in made)
    return lengths[0] >= _LONG or (lengths[len(lengths) // 2] >= 60 and CUE.search(before) is not None)


def _before(page: Page, line: int) -> str:
    return page.text[max(0, page.start(line) - 300) : page.start(line)].rstrip()


def _lead(page: Page, line: int) -> str:
    """What leads up to a line: the end of the one before it that is not blank."""
    return _before(page, line).rsplit("\n", 1)[-1]


def _document(page: Page, start: int, body: int, end: int, kind: BlockKind) -> Block | None:
    """A document whose announcement ends at `body`; a title in brackets or on a line of its own is part of it."""
    title, body = _bracketed_title(page.text, body, end)
    if not title and (match := TITLE_LINE.match(page.text, *page.trimmed(body, end))) is not None:
        title, body = match[1].strip(), match.end()
    if (asked := _INLINE_QUESTION.search(page.text, body, end)) is not None:
        end = asked.start()
    body, end = page.trimmed(body, end)
    return Block(start, end, kind, title, body, end) if body < end else None


def _bracketed_title(text: str, at: int, end: int) -> tuple[str, int]:
    """`(Title: a name (with brackets)) text`: the title and where the text begins."""
    said = text[at : min(end, at + 400)]
    opened = re.match(r"[ \t]*\((?:title|titel|标题)[:：]?[ \t]*", said, re.IGNORECASE)
    if opened is None:
        return "", at
    depth = 1
    for place in range(opened.end(), len(said)):
        depth += {"(": 1, ")": -1, "\n": 400}.get(said[place], 0)
        if depth == 0:
            return said[opened.end() : place].strip(), at + place + 1
    return "", at


def sections(page: Page, first: int, last: int) -> list[tuple[int, int]]:
    """Line ranges under headings that announce documents, the heading not included.

    Only where a question has its own heading or label: a `# Context` also heads what an author tells the model.
    """
    marked = [line for line in page.between(first, last) if line.kind in ("heading", "ask")]
    questions = [line.at for line in marked if _asks(page, line)]
    headings = [line for line in marked if line.kind == "heading"]
    found: list[tuple[int, int]] = []
    for line, after in zip(headings, _ends(headings, last), strict=True):
        page.check()
        if (found and line.at < found[-1][1]) or HEADS_DOCUMENTS.fullmatch(_heading(page, line)) is None:
            continue
        end = min([after, *(other.at for other in page.between(line.at + 1, after) if other.kind == "ask")])
        if questions and (questions[0] < line.at or questions[-1] >= end):
            found.append((line.at + 1, end))
    return found


def _ends(headings: list[Line], last: int) -> list[int]:
    """Where each heading's section ends: at the next heading that is no deeper."""
    out, open_ = [last] * len(headings), list[int]()
    for place, line in enumerate(headings):
        while open_ and len(headings[open_[-1]].match["heading"]) >= len(line.match["heading"]):
            out[open_.pop()] = line.at
        open_.append(place)
    return out


def _heading(page: Page, line: Line) -> str:
    return page.says(line.at)[:100].strip("# \t\r\n*:：")


def _asks(page: Page, line: Line) -> bool:
    word = line.match["ask"] or _heading(page, line)
    return word.casefold().removeprefix("user ").removeprefix("the ") in _QUESTION


def contexts(page: Page, first: int, last: int) -> list[tuple[int, int, int]]:
    """(line of the label, character where its text begins, line where it ends) of a `Context:` with its `Question:`.

    One at most: several of them are examples, and only the last one's text is there to be read for this answer.
    """
    marked = [line for line in page.between(first, last) if line.kind in ("context", "ask")]
    for label, ask in reversed([*pairwise(marked)]):
        if label.kind == "context" and ask.kind == "ask" and _asks(page, ask):
            return [(label.at, label.match.end(), ask.at)]
    for question, label, answer in zip(marked, marked[1:], marked[2:], strict=False):
        if (question.kind, label.kind, answer.kind) == ("ask", "context", "ask") and _asks(page, question):
            return [(label.at, label.match.end(), answer.at)]
    return []


def chunks(page: Page, first: int, last: int) -> list[Block]:
    """What stands between `---` lines; the caller knows that these are documents."""
    rules = [line.at for line in page.between(first, last) if line.kind == "rule"]
    edges = [first - 1, *rules, last]
    if len(edges) < 3:
        return []
    ends = [(page.start(a + 1), page.start(without_asides(page, a + 1, b))) for a, b in pairwise(edges)]
    made = [_document(page, start, start, end, "chunk") for start, end in ends if not is_aside(page, start, end)]
    return [block for block in made if block is not None]


def announced_chunks(page: Page, first: int, last: int) -> list[Block]:
    """Chunks between the first and the last `---`, where the line before the first one announces documents."""
    rules = [line.at for line in page.between(first, last) if line.kind == "rule"]
    if len(rules) < 3 or rules[0] == first:
        return []
    lead = _lead(page, rules[0])
    if not lead.endswith((":", "：")) or CUE.search(lead) is None or _RULES.search(lead):
        return []
    return chunks(page, rules[0] + 1, rules[-1])


def ruled_off(page: Page, first: int, last: int) -> list[tuple[int, int]]:
    """The line range between two rules of the same kind, where the line before says that a context is below, and a
    question has its label behind them: `Context information is below.`"""
    rules = [line for line in page.between(first, last) if line.kind == "rule"]
    asks = [line.at for line in page.between(first, last) if line.kind == "ask" and _asks(page, line)]
    if len(rules) != 2 or rules[0].at == first or page.says(rules[0].at).strip() != page.says(rules[1].at).strip():
        return []
    lead = _lead(page, rules[0].at)
    announced = lead.endswith((".", ":", "：", "。")) and CUE.search(lead) and _BELOW.search(lead)
    behind = not asks or asks[-1] > rules[1].at
    return [(rules[0].at + 1, rules[1].at)] if announced and asks and behind and not _RULES.search(lead) else []
