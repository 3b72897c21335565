"""Sample, then match: how far one pass of the model gets along a draft.

The target's own token is drawn from each row as if there were no draft; while the draft has that token, the next row is
already computed and the walk goes on. So what is said is what would have been said. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .draft import Draft


@dataclass(frozen=True, slots=True)
class Walk:
    """The tokens drawn, and the rows they were drawn from: row 0 is the answer's last token, row i + 1 the draft's i-th
    token. All but the last token were in the draft."""

    tokens: list[int]
    rows: list[int]


def walk(draft: Draft, drawn: Callable[[int], int | None]) -> Walk:
    """`drawn(row)` is the target's token behind that row, asked once for each row reached; None ends the walk."""
    tokens: list[int] = []
    rows: list[int] = []
    row: int | None = 0
    while row is not None:
        token = drawn(row)
        if token is None:
            break
        tokens.append(token)
        rows.append(row)
        row = _child(draft, row, token)
    return Walk(tokens, rows)


def paths(draft: Draft) -> list[list[int]]:
    """For each row of a tree, the rows from 0 to itself that it follows."""
    out = [[0]]
    for i, parent in enumerate(draft.parents):
        out.append([*out[parent + 1], i + 1])
    return out


def _child(draft: Draft, row: int, token: int) -> int | None:
    if draft.chain:
        return row + 1 if row < len(draft.tokens) and draft.tokens[row] == token else None
    children: Sequence[int] = [i for i, parent in enumerate(draft.parents) if parent == row - 1]
    return next((i + 1 for i in children if draft.tokens[i] == token), None)
