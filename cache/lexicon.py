"""The words that the guards know, read once from cache/words when the first question asks for them.

A list is one entry a line; a line that starts with `#` is a comment. What the lists are for is said at their head.
This module knows no question and no rule.
"""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("words")


def row(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


def words(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


def lines(name: str) -> list[str]:
    """The entries of one list."""
    path = FOLDER / name
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@cache
def common() -> frozenset[str]:
    """English words that are no names."""
    return frozenset(lines("common.txt.gz")) | frozenset(lines("everyday.txt"))


@cache
def names() -> frozenset[str]:
    """Names that are no English word, in lower case."""
    return frozenset(lines("names.txt.gz")) | frozenset(lines("brands.txt"))


@cache
def light() -> frozenset[str]:
    """Words that say nothing of what a question is about."""
    return frozenset(lines("light_words.txt"))


@cache
def aliases() -> dict[str, str]:
    """One name for each of the names that mean the same thing or its people."""
    return {name: row.split()[0] for row in lines("aliases.txt") for name in row.split()}


@cache
def irregular() -> dict[str, str]:
    """Irregular forms and what they are forms of."""
    return {form: row.split()[0] for row in lines("irregular.txt") for form in row.split()[1:]}
