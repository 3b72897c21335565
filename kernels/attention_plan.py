"""Which keys each program of the paged kernel reads: decided on the host, once a step, for a ragged batch.

A sequence's new rows, times the query heads that share a key/value head, are cut into blocks of `block` rows; the keys
that a block sees are cut into tiles, and a run of tiles is one program's item. A block of several items is merged
afterwards by log-sum-exp (attention_merge.py), a block of one writes its output itself. How long a run may be is found
by search (attention_runs.py; after the planner of FlashInfer, arXiv 2501.01005). Pure arithmetic on Python integers:
knows nothing of tensors or of triton.

Tiles that nobody in a block sees do not exist here: an item counts the tiles of the sinks, then those of the window,
and `gap` is how many are left out between the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .attention_runs import EXTRA_ROUNDS, best_run

# sequence, block, first tile, end, gap, slot of its partial result (-1: it writes the output)
Item = tuple[int, int, int, int, int, int]
# sequence, block, first slot, how many
Merge = tuple[int, int, int, int]
IDLE: Item = (-1, 0, 0, 0, 0, -1)
NONE: Merge = (-1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the launcher needs. `items` and `merges` are as long as their grids; IDLE and NONE fill them up."""

    tile: int
    block: int
    rows: int  # the most rows that a block uses, up to a power of two: a kernel is compiled for each
    group: int
    kv_heads: int
    window: int
    sinks: int
    top_k: int
    tree: bool
    items: tuple[Item, ...]
    merges: tuple[Merge, ...]

    @property
    def partials(self) -> int:
        """How many slots of partial results the grid may fill."""
        return len(self.items) if self.merges else 0


@dataclass(frozen=True, slots=True)
class Work:
    """The tiles of one block: `kept` of them, with `gap` left out behind those of the sinks."""

    sequence: int
    block: int
    kept: int
    gap: int


@dataclass(frozen=True, slots=True)
class Cut:
    """How rows and keys are cut, and what may be left out."""

    page: int
    tile: int
    block: int
    group: int
    window: int
    sinks: int
    top_k: int
    tree: bool

    @property
    def sink_tiles(self) -> int:
        return -(-self.sinks // self.tile) if self.window else 0


def plan(
    q_lens: Sequence[int],
    kv_lens: Sequence[int],
    *,
    heads: int,
    kv_heads: int,
    page: int,
    sms: int,
    window: int = 0,
    sinks: int = 0,
    top_k: int = 0,
    tree: bool = False,
    tile: int | None = None,
    block: int | None = None,
    fixed_split: int = 0,
    most_sequences: int | None = None,
    most_rows: int | None = None,
    most_keys: int | None = None,
) -> Plan:
    """The items of a batch whose sequence i has `q_lens[i]` new rows among `kv_lens[i]` keys.

    With `most_sequences` and `most_rows` (of one sequence) the grid depends on nothing else: safe to capture in a CUDA
    graph. With `fixed_split` (in tiles) a sequence is cut at fixed keys, so that its bits do not depend on its company;
    its grid is fixed when `most_keys` (of one sequence) is given too. Raises ValueError for sizes that make no sense.
    """
    check(q_lens, kv_lens, heads, kv_heads, page, sms)
    if min(window, sinks, top_k, fixed_split) < 0:
        raise ValueError("window, sinks, top_k, fixed_split: expected 0 or more")
    group, rows = heads // kv_heads, most_rows or max(q_lens, default=1) or 1
    block = block or (16 if fixed_split else fitting(rows * group))
    cut = Cut(page, tile or 64, block, group, window, sinks, top_k, tree)
    check_cut(cut)
    work = list(works(q_lens, kv_lens, cut))
    blocks = len(work) if most_sequences is None else most_sequences * -(-rows * group // block)
    slots = max(1, sms * resident(block) // kv_heads)
    most_items, most_merges = room(blocks, slots, cut, fixed_split, most_keys)
    if fixed_split:
        pieces = [list(at_fixed_keys(each, fixed_split, cut.sink_tiles)) for each in work]
    else:
        run = best_run(Counter(each.kept for each in work), slots, most_items)
        pieces = [evenly(each.kept, run) for each in work]
    items, merges = lay_out(work, pieces)
    if most_sequences is not None and (not fixed_split or most_keys is not None):
        if len(q_lens) > most_sequences or max(q_lens, default=0) > rows or len(items) > most_items:
            raise ValueError("q_lens, kv_lens: the batch is larger than most_sequences, most_rows and most_keys allow")
        items += [IDLE] * (most_items - len(items))
        merges += [NONE] * (most_merges - len(merges))
    used = min(block, 1 << (rows * group - 1).bit_length())
    return Plan(cut.tile, block, used, group, kv_heads, window, sinks, top_k, tree, tuple(items), tuple(merges))


def room(blocks: int, slots: int, cut: Cut, fixed_split: int, most_keys: int | None) -> tuple[int, int]:
    """The most items and merges that so many blocks may make."""
    if not fixed_split:
        extra = EXTRA_ROUNDS * slots
        return blocks + extra, min(blocks, extra)
    longest = 1 if most_keys is None else max(1, -(-most_keys // (cut.tile * fixed_split)))
    return blocks * longest, blocks if longest > 1 else 0


def check_cut(cut: Cut) -> None:
    for name, size in (("tile", cut.tile), ("block", cut.block)):
        if size < 16 or size & (size - 1):
            raise ValueError(f"{name}: expected a power of two from 16, got {size}")


def check(q_lens: Sequence[int], kv_lens: Sequence[int], heads: int, kv_heads: int, page: int, sms: int) -> None:
    if len(q_lens) != len(kv_lens):
        raise ValueError(f"kv_lens: {len(kv_lens)} lengths for {len(q_lens)} sequences")
    if min(q_lens, default=0) < 0 or min(kv_lens, default=0) < 0:
        raise ValueError("q_lens, kv_lens: a length is negative")
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"heads: {heads} is not a multiple of {kv_heads} key/value heads")
    if page < 1 or sms < 1:
        raise ValueError(f"page, sms: expected at least 1, got {page} and {sms}")


def fitting(rows: int) -> int:
    """The block that holds these rows, within what the matrix units (16) and the registers (128) allow."""
    return min(128, max(16, 1 << (rows - 1).bit_length()))


def resident(block: int) -> int:
    """How many programs one multiprocessor runs at a time: a block of 128 rows takes nearly all registers of one."""
    return 2 if block <= 64 else 1


def works(q_lens: Sequence[int], kv_lens: Sequence[int], cut: Cut) -> Iterator[Work]:
    """Every block of the batch and what it sees."""
    for sequence, (new, length) in enumerate(zip(q_lens, kv_lens, strict=True)):
        for block in range(-(-new * cut.group // cut.block)):
            kept, gap = seen(block, new, length, cut)
            yield Work(sequence, block, kept, gap)


def seen(block: int, new: int, length: int, cut: Cut) -> tuple[int, int]:
    """(tiles kept, tiles left out) of a block. In a tree any row may be the first in line, or the last."""
    first = 0 if cut.tree else block * cut.block // cut.group
    last = new - 1 if cut.tree else (min((block + 1) * cut.block, new * cut.group) - 1) // cut.group
    end = -(-max(0, length - new + last + 1) // cut.tile)
    if cut.top_k:
        return (-(-cut.top_k * cut.page // cut.tile) if end else 0), 0
    if not cut.window:
        return end, 0
    start = max(0, length - new + first - cut.window + 1) // cut.tile
    gap = max(0, start - cut.sink_tiles)
    return max(0, end - gap), gap


def evenly(kept: int, run: int) -> list[tuple[int, int]]:
    pieces = max(1, -(-kept // run))
    return [(kept * i // pieces, kept * (i + 1) // pieces) for i in range(pieces)]


def at_fixed_keys(work: Work, run: int, sink_tiles: int) -> Iterator[tuple[int, int]]:
    """Cuts at multiples of `run` among all the sequence's tiles, whichever of them are left out."""
    end, at = work.kept + work.gap, 0
    found = False
    for edge in range(run, end + run, run):
        upto = edge if edge <= sink_tiles else max(min(edge, sink_tiles), edge - work.gap)
        upto = min(upto, work.kept)
        if upto > at:
            found = True
            yield at, upto
            at = upto
    if not found:
        yield 0, 0


def lay_out(work: list[Work], pieces: list[list[tuple[int, int]]]) -> tuple[list[Item], list[Merge]]:
    """Items, longest first: the hardware takes them in this order, so the short ones fill the end."""
    items: list[Item] = []
    merges: list[Merge] = []
    slot = 0
    for each, runs in zip(work, pieces, strict=True):
        split = len(runs) > 1
        if split:
            merges.append((each.sequence, each.block, slot, len(runs)))
        for first, end in runs:
            items.append((each.sequence, each.block, first, end, each.gap, slot if split else -1))
            slot += split
    items.sort(key=lambda item: item[2] - item[3])
    return items, merges
