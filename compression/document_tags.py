"""Documents in markup: `<documents><document index="1"><source>…</source><document_content>…`, and its relatives.

A tag counts only at the beginning of a line or beside another such tag, and only when it is closed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .block import Block, Page

_PLURALS = ("documents", "docs", "contexts", "sources", "passages", "search_results", "files", "results")
_WHOLES = ("context", "knowledge", "evidence", "reference")
_HOLDERS = (*_PLURALS, *_WHOLES, "retrieved_documents", "retrieved_context", "retrieved_passages")
_ITEMS = ("document", "doc", "passage", "source", "file", "search_result", "result", "snippet", "chunk", "article")
_TITLES = ("title", "source", "name", "path", "filename", "url", "heading")
_BODIES = ("document_content", "document_contents", "content", "contents", "text", "page_content", "body")
_NAMES = "|".join(sorted({*_HOLDERS, *_ITEMS, *_TITLES, *_BODIES}, key=len, reverse=True))
_TAG = re.compile(rf"<(/?)({_NAMES})(\s[^<>]{{0,1000}})?>")
_ATTRIBUTE = re.compile(r"""(?<!\w)(?:title|name|path|source|src|filename|url)=["']([^"']{1,300})["']""")

_CODE = re.compile(r"\.(?!(?:md|markdown|txt|rst|html?|pdf|docx?|odt|tex|adoc|org|eml)$)\w{1,10}$", re.IGNORECASE)
_DEEPEST = 20  # a file tree in markup is no list of documents


@dataclass(slots=True)
class Element:
    """One closed tag. `start:end` with its tags, `inner:outer` between them."""

    name: str
    title: str
    start: int
    inner: int
    outer: int = 0
    end: int = 0
    children: list[Element] = field(default_factory=list)


def elements(page: Page) -> list[Element]:
    """The outermost document elements in order, each with what is nested in it."""
    top: list[Element] = []
    stack: list[Element] = []
    open_names: dict[str, int] = {}
    for match in _TAG.finditer(page.text) if "</" in page.text else ():
        page.check()
        closing, name, attributes = match.groups()
        if not closing:
            if (attributes or "").endswith("/") or not (stack or _begins_a_line(page, match.start())):
                continue
            if len(stack) == _DEEPEST:
                return []
            found = _ATTRIBUTE.search(attributes or "")
            stack.append(Element(name, found[1] if found else "", match.start(), match.end()))
            open_names[name] = open_names.get(name, 0) + 1
        elif open_names.get(name):
            while True:
                element = stack.pop()
                open_names[element.name] -= 1
                if element.name == name:
                    break
            element.outer, element.end = match.start(), match.end()
            (stack[-1].children if stack else top).append(element)
    # What was opened and never closed holds nothing: its children stand for themselves.
    top += [child for element in stack for child in element.children]
    wanted = (*_HOLDERS, *_ITEMS)
    return sorted((e for e in top if e.name in wanted and _begins_a_line(page, e.start)), key=lambda e: e.start)


def items(element: Element) -> list[Element]:
    """The documents in an element: itself where nothing that is one is nested in it, and it is no mere holder."""
    if element.name in _ITEMS and any(child.name in _BODIES for child in element.children):
        return [element]
    titled = _TITLES if element.name in _ITEMS else ()
    children = [child for child in element.children if child.name not in titled]
    nested = [item for child in children for item in items(child)]
    return nested or ([element] if element.name in _ITEMS else [])


def block(page: Page, element: Element) -> Block | None:
    """The element as one document; None if it says nothing, or is a file of code."""
    titles = [c for c in element.children if c.name in _TITLES and c.outer - c.inner <= 300]
    bodies = [c for c in element.children if c.name in _BODIES]
    start, end = element.inner, element.outer
    if len(bodies) == 1:
        start, end = bodies[0].inner, bodies[0].outer
    elif titles:
        start = max(child.end for child in titles)
    start, end = page.trimmed(start, end)
    title = element.title or (page.text[titles[0].inner : titles[0].outer].strip() if titles else "")
    if start == end or (element.name == "file" and _CODE.search(title)):
        return None
    return Block(element.start, element.end, "tag", title, start, end)


def _begins_a_line(page: Page, offset: int) -> bool:
    first = max(page.start(page.line_of(offset)), offset - 100)
    before = page.text[first:offset].rstrip()
    return before.endswith(">") or (not before and offset - first < 100)
