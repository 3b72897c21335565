"""Contexts to find evidence in: the passage that answers a question among nineteen that look as if they did.

Reads JSON lines (plain or gzipped) with `question`, `answers`, `passage`, and `title` or `answer_start` where there are
any. The nineteen are the best by BM25 of the question among the other passages of the same file that do not contain an
answer; the order of the twenty depends on nothing but the texts.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.compression import bm25
from trimtab.compression.units import Unit, units
from trimtab.protocol import tokens

DOCUMENTS = 20
FOLDS = 20  # parts that a file is split into, by articles or passages
MODEL = "gpt-4o"  # whose tokens are counted, where its vocabulary is on disk


@dataclass(frozen=True)
class Context:
    """A question, its documents, and which units of them hold the answer.

    `evidence` are sets of units: the answer survives if all units of one of them do. `sentence` is the one that the
    data set marks as the answer's (or the first that holds it). `fold` parts a file by its articles or passages.
    """

    question: str
    answers: tuple[str, ...]
    titles: tuple[str, ...]
    passages: tuple[str, ...]
    gold: int
    units: tuple[Unit, ...]
    sizes: tuple[int, ...]
    evidence: tuple[tuple[int, ...], ...]
    sentence: int
    fold: int

    def survives(self, kept: Sequence[bool]) -> bool:
        return any(all(kept[unit] for unit in one) for one in self.evidence)

    def answered_by(self, text: str) -> bool:
        return any(answer.casefold() in text.casefold() for answer in self.answers)


@dataclass
class _Pool:
    """The distinct passages of a file, with what is needed to rank and to cut them."""

    titles: list[str]
    passages: list[str]
    folded: list[str] = field(init=False)
    words: list[Counter[str]] = field(init=False)
    cut: dict[int, list[tuple[Unit, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        both = [f"{title}\n{text}" for title, text in zip(self.titles, self.passages, strict=True)]
        self.folded = [text.casefold() for text in both]
        self.words = bm25.bags(both)
        self.lengths = np.array([bag.total() for bag in self.words], dtype=np.float64)

    def ranked(self, question: str) -> Iterator[int]:
        asked = list(dict.fromkeys(bm25.terms(question)))
        found = bm25.counts(asked, self.words)
        yield from np.argsort(-bm25.weigh(found, self.lengths, bm25.rarity(found)), kind="stable").tolist()

    def units(self, passage: int) -> list[tuple[Unit, int]]:
        if passage not in self.cut:
            pieces = units(self.passages[passage], heading=self.titles[passage])
            self.cut[passage] = [(piece, tokens.count(piece.text, MODEL)[0]) for piece in pieces]
        return self.cut[passage]


def read(path: Path) -> list[dict[str, Any]]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in data.splitlines() if line.strip()]


def name(path: Path) -> str:
    """What a file's rows are called in the report: `nq_open_oracle` of `nq_open_oracle.dev.jsonl.gz`."""
    return path.name.split(".")[0]


def contexts(path: Path, most: int | None = None, step: Callable[[], object] = lambda: None) -> list[Context]:
    """The contexts of a file's rows; with `most`, of that many of them, taken evenly."""
    rows = read(path)
    titles = {row["passage"]: row.get("title", "") for row in reversed(rows)}
    pool = _Pool(list(titles.values()), list(titles))
    index = {passage: at for at, passage in enumerate(pool.passages)}
    every = max(1, -(-len(rows) // most)) if most else 1
    made = []
    for row in rows[::every]:
        context = _context(row, pool, index[row["passage"]])
        step()
        if context is not None:
            made.append(context)
    return made


def _context(row: dict[str, Any], pool: _Pool, gold: int) -> Context | None:
    """None for a row whose passage lacks its answer, or whose answer is in almost every passage."""
    answers = tuple(answer.casefold() for answer in row["answers"])
    chosen = [gold]
    for passage in pool.ranked(row["question"]):
        if passage != gold and not any(answer in pool.folded[passage] for answer in answers):
            chosen.append(passage)
        if len(chosen) == DOCUMENTS:
            break
    if len(chosen) < min(DOCUMENTS, len(pool.passages)) or len(chosen) < 2:
        return None
    chosen.sort(key=lambda passage: _hash(row["question"] + pool.passages[passage]))
    pieces = [(document, piece) for document, passage in enumerate(chosen) for piece in pool.units(passage)]
    own = [at for at, (document, _) in enumerate(pieces) if chosen[document] == gold]
    evidence = _evidence([piece[0] for _, piece in pieces], own, answers)
    if not evidence:
        return None
    return Context(
        question=row["question"],
        answers=tuple(row["answers"]),
        titles=tuple(pool.titles[passage] for passage in chosen),
        passages=tuple(pool.passages[passage] for passage in chosen),
        gold=chosen.index(gold),
        units=tuple(_placed(unit, document) for document, (unit, _) in pieces),
        sizes=tuple(size for _, (_, size) in pieces),
        evidence=tuple(evidence),
        sentence=_marked([pieces[at][1][0] for at in own], own, row.get("answer_start"), evidence),
        fold=_hash(f"article {row['article']}" if "article" in row else row["passage"]) % FOLDS,
    )


def _placed(unit: Unit, document: int) -> Unit:
    return Unit(unit.text, unit.heading, document, unit.start, unit.end, unit.kind, unit.fixed)


def _evidence(pieces: Sequence[Unit], own: Sequence[int], answers: Sequence[str]) -> list[tuple[int, ...]]:
    """Single units of the gold passage that contain an answer; where there are none, neighbours that do together."""
    texts = {at: pieces[at].text.casefold() for at in own}
    for length in (1, 2, 3):
        runs = [own[at : at + length] for at in range(len(own) - length + 1)]
        found = [
            tuple(run)
            for run in runs
            for joined in ({joint.join(texts[at] for at in run) for joint in ("", " ", "\n")},)
            if any(answer in text for answer in answers for text in joined)
        ]
        if found:
            return found
    return []


def _marked(pieces: Sequence[Unit], own: Sequence[int], start: int | None, evidence: Sequence[tuple[int, ...]]) -> int:
    """The unit that `answer_start` points into, else the first one with an answer."""
    if start is not None:
        for at, piece in zip(own, pieces, strict=True):
            if piece.start <= start < piece.end:
                return at
    return evidence[0][0]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
