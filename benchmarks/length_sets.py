"""What `length.py` reads: prompts with lengths of models' answers, a trace of arrivals, labels for skeletons.

Files are told apart by their rows' fields, so they can be given in any order.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimtab.backends.embed import EmbedOptions, load
from trimtab.routing import length_cues
from trimtab.routing.length_cues import Cues

Floats = NDArray[np.float64]
BATCH = 16


@dataclass
class Lengths:
    """Prompts and, for each and each model, the tokens of its answer (NaN: none)."""

    prompts: list[str]
    models: list[str]
    tokens: Floats
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    cues: list[Cues] = field(default_factory=list)

    def part(self, rows: NDArray[np.intp], models: Sequence[int]) -> Lengths:
        picked = self.tokens[rows][:, list(models)]
        prompts, cues = [self.prompts[at] for at in rows], [self.cues[at] for at in rows]
        return Lengths(prompts, [self.models[at] for at in models], picked, self.vectors[rows], cues)


@dataclass
class Files:
    """What was found in the files; any part may be missing."""

    lengths: Lengths | None = None
    trace: list[tuple[float, int]] = field(default_factory=list)
    skeleton: list[tuple[str, bool]] = field(default_factory=list)


def read(paths: Sequence[Path]) -> Files:
    """Raises ValueError for rows of no known kind."""
    found, rows = Files(), []
    for path in paths:
        for row in _rows(path):
            if "lengths" in row:
                rows.append(row)
            elif "generated_tokens" in row:
                at = datetime.fromisoformat(str(row["at"])[:26]).timestamp()
                found.trace.append((at, int(row["generated_tokens"])))
            elif "skeleton_suits" in row:
                found.skeleton.append((str(row["prompt"]), bool(row["skeleton_suits"])))
            else:
                raise ValueError(f"{path.name}: a row has neither lengths, generated_tokens nor skeleton_suits")
    if rows:
        found.lengths = _lengths(rows)
    return found


def share(text: str, parts: int) -> int:
    """Which of `parts` a text belongs to, the same in every run."""
    return zlib.crc32(text.encode()) % parts


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors by the bundled embedder."""
    encoder = load(EmbedOptions())
    prepared = encoder.prepare(texts)
    order = sorted(range(len(texts)), key=lambda at: prepared[at].size)
    out = np.empty((len(texts), encoder.dimensions), dtype=np.float32)
    for at in range(0, len(order), BATCH):
        rows = order[at : at + BATCH]
        made = encoder.encode([prepared[row] for row in rows])
        out[rows] = made / np.linalg.norm(made, axis=1, keepdims=True)
    return out


def _lengths(rows: list[dict[str, Any]]) -> Lengths:
    models = sorted({model for row in rows for model in row["lengths"]})
    # An answer that a file lacks is missing or null.
    tokens = np.array([[row["lengths"].get(model) for model in models] for row in rows], dtype=np.float64)
    prompts = [str(row["prompt"]) for row in rows]
    return Lengths(prompts, models, tokens, cues=[length_cues.read(prompt) for prompt in prompts])


def _rows(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines() if line.strip()]
