"""Other ways to choose what stays of the same contexts: mixtures that were not trained, and two libraries."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from context_fit import Measured
from context_sets import MODEL, Context
from numpy.typing import NDArray
from rich.progress import track

from trimtab.protocol import tokens

Floats = NDArray[np.float64]

SCRIPT = Path(__file__).with_name("context_peers.py")
# The untrained mixture: BM25, meaning, meaning around, and half a document's words and meaning.
HYBRID = {"words": 1.0, "meaning": 1.0, "around": 1.0, "document_words": 0.5, "document_best": 0.5}


def bm25_scores(one: Measured) -> Floats:
    return _mixed(one, {"words": 1.0})


def hybrid_scores(one: Measured) -> Floats:
    return _mixed(one, HYBRID)


def _mixed(one: Measured, weights: dict[str, float]) -> Floats:
    return np.asarray(one.rows @ np.array([weights.get(name, 0.0) for name in one.names]), dtype=np.float64)


@dataclass
class Kept:
    """What a library left at one share: whether the answer is in it, and the share of tokens that it really is."""

    system: str
    share: float
    survived: list[bool] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)


def text_of(context: Context) -> str:
    """The documents as one text, each under its title if it has one."""
    both = zip(context.titles, context.passages, strict=True)
    return "\n\n".join(f"{title}\n{passage}" if title else passage for title, passage in both)


def run_peers(python: Path, made: Sequence[Context], shares: Sequence[float], label: str) -> list[Kept]:
    """Ask the libraries that `python` has about every context."""
    found: dict[tuple[str, float], Kept] = {}
    texts = [text_of(context) for context in made]
    command = [str(python), str(SCRIPT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = [
            json.dumps({"question": context.question, "text": text, "shares": list(shares)})
            for context, text in zip(made, texts, strict=True)
        ]
        writer = threading.Thread(target=_write, args=(process.stdin, lines))
        writer.start()
        for context, text in track(list(zip(made, texts, strict=True)), f"peers {label}"):
            whole = tokens.count(text, MODEL)[0]
            for system, left in json.loads(process.stdout.readline()).items():
                for share, short in zip(shares, left, strict=True):
                    kept = found.setdefault((system, share), Kept(system, share))
                    kept.survived.append(context.answered_by(short))
                    kept.kept.append(tokens.count(short, MODEL)[0] / whole)
        writer.join()
    return list(found.values())


def _write(to: IO[str], lines: Sequence[str]) -> None:
    for line in lines:
        to.write(line + "\n")
    to.close()
