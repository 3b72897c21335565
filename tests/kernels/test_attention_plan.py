"""The planner: every key that a block sees is in exactly one item, items are even, grids are fixed when asked."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.kernels.attention_plan import IDLE, NONE, Plan, plan

LLAMA: dict[str, Any] = {"heads": 32, "kv_heads": 8, "page": 16, "sms": 132}


def tiles(made: Plan, item: tuple[int, ...]) -> list[int]:
    """The tiles of all the sequence's that an item reads."""
    sink_tiles = -(-made.sinks // made.tile) if made.window else 0
    return [j if j < sink_tiles else j + item[4] for j in range(item[2], item[3])]


def seen(made: Plan, new: int, length: int, block: int) -> set[int]:
    """The tiles that hold a key that a row of the block sees, found one row at a time."""
    found = set()
    for m in range(block * made.block, min((block + 1) * made.block, new * made.group)):
        at = length - new + m // made.group
        keys = range(length) if made.tree else range(at + 1)
        near = [key for key in keys if not made.window or key > at - made.window or key < made.sinks]
        found |= {key // made.tile for key in near}
    return found


batches = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400)), min_size=1, max_size=6)
splits = st.sampled_from([0, 0, 1, 3])
windows = st.sampled_from([(0, 0), (1, 0), (50, 0), (50, 40), (9, 200)])


@settings(max_examples=150, derandomize=True)
@given(batches, splits, windows, st.booleans(), st.integers(1, 20))
def test_each_key_is_read_exactly_once(
    batch: list[tuple[int, int]], fixed: int, window: tuple[int, int], fixed_grid: bool, sms: int
) -> None:
    grid = {"most_sequences": 7, "most_rows": 40, "most_keys": 400} if fixed_grid else {}
    q_lens, kv_lens = [new for new, _ in batch], [max(new, length) for new, length in batch]
    sizes = {"heads": 6, "kv_heads": 2, "page": 16, "sms": sms, "window": window[0], "sinks": window[1]}
    made = plan(q_lens, kv_lens, **sizes, tile=16, fixed_split=fixed, **grid)
    read: dict[tuple[int, int], list[int]] = defaultdict(list)
    slots: dict[tuple[int, int], list[int]] = defaultdict(list)
    for item in made.items:
        if item != IDLE:
            read[item[:2]] += tiles(made, item)
            slots[item[:2]].append(item[5])
    blocks = {(s, b) for s, new in enumerate(q_lens) for b in range(-(-new * 3 // made.block))}
    assert set(read) == blocks
    for (sequence, block), found in read.items():
        assert len(found) == len(set(found))
        wanted = seen(made, q_lens[sequence], kv_lens[sequence], block)
        assert wanted <= set(found)
        assert len(found) <= len(wanted) + 1  # the last sink's tile and the window's first may be neighbours
    merges = {merge[:2]: list(range(merge[2], merge[2] + merge[3])) for merge in made.merges if merge != NONE}
    assert merges == {at: sorted(own) for at, own in slots.items() if len(own) > 1}
    assert all(own == [-1] for own in slots.values() if len(own) == 1)
    assert len({slot for own in merges.values() for slot in own}) == sum(map(len, merges.values()))
    assert made == plan(q_lens, kv_lens, **sizes, tile=16, fixed_split=fixed, **grid)


@settings(max_examples=50, derandomize=True)
@given(batches, st.sampled_from([0, 2]))
def test_the_grid_depends_on_the_bucket_alone(batch: list[tuple[int, int]], fixed: int) -> None:
    grid = {"most_sequences": 6, "most_rows": 40, "most_keys": 400, "fixed_split": fixed}
    some = plan([new for new, _ in batch], [length for _, length in batch], **LLAMA, **grid)
    none = plan([], [], **LLAMA, **grid)
    assert (len(some.items), len(some.merges)) == (len(none.items), len(none.merges))
    assert (some.block, some.rows, some.partials) == (none.block, none.rows, none.partials)


@settings(max_examples=50, derandomize=True)
@given(batches, st.integers(1, 5), windows)
def test_fixed_cuts_fall_on_the_same_keys(batch: list[tuple[int, int]], run: int, window: tuple[int, int]) -> None:
    q_lens, kv_lens = [new for new, _ in batch], [max(new, length) for new, length in batch]
    masks = {"window": window[0], "sinks": window[1]}
    made = plan(q_lens, kv_lens, **LLAMA, **masks, tile=16, fixed_split=run)
    for item in made.items:
        assert len({tile // run for tile in tiles(made, item)}) <= 1, "an item keeps between two multiples of the run"


def makespan(made: Plan, kv_heads: int, slots: int) -> float:
    """When the last program ends, in tiles, if each takes the next item as soon as it is free."""
    free = [0.0] * slots
    for item in made.items:
        for _ in range(kv_heads):
            least = min(range(slots), key=free.__getitem__)
            free[least] += item[3] - item[2]
    return max(free)


@pytest.mark.parametrize(
    ("lengths", "most"),
    [
        ([32768], 1.05),
        ([131072], 1.05),
        ([4096] * 32, 1.05),
        ([4096] * 64, 1.10),
        ([131072] + [1024] * 63, 1.15),
        ([random.Random(seed).choice([1024, 4096, 16384, 131072]) for seed in range(64)], 1.15),
    ],
)
def test_a_batch_is_spread_evenly(lengths: list[int], most: float) -> None:
    """Against the work divided by all programs that can run at once."""
    made = plan([1] * len(lengths), lengths, **LLAMA)
    ideal = sum(-(-length // made.tile) for length in lengths) * 8 / 264
    assert makespan(made, 8, 264) <= most * ideal + 1


def test_a_batch_that_fills_the_machine_is_left_whole() -> None:
    assert plan([1] * 256, [4096] * 256, **LLAMA).merges == ()


def test_verification_is_split_like_decoding() -> None:
    """The rule of others, no split for more than one new row, would leave 8 programs for 132 multiprocessors."""
    for rows in (1, 2, 4, 8, 16):
        assert len(plan([rows], [32768], **LLAMA).items) >= 32


def test_blocks_fit_the_rows() -> None:
    found = [plan([rows], [100], **LLAMA).block for rows in (1, 4, 5, 8, 16, 32, 64)]
    assert found == [16, 16, 32, 32, 64, 128, 128]
    assert plan([64], [100], **LLAMA, fixed_split=4).block == 16


def test_pages_by_choice_are_counted_instead_of_keys() -> None:
    made = plan([1, 1], [100_000, 0], **LLAMA, top_k=64)
    assert sum(item[3] - item[2] for item in made.items) == 64 * 16 // made.tile


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"kv_lens": [1, 2]}, "kv_lens"),
        ({"kv_lens": [-1]}, "q_lens, kv_lens"),
        ({"heads": 9}, "heads"),
        ({"kv_heads": 0}, "heads"),
        ({"page": 0}, "page, sms"),
        ({"window": -1}, "window, sinks, top_k, fixed_split"),
        ({"tile": 24}, "tile"),
        ({"block": 8}, "block"),
        ({"q_lens": [3], "most_sequences": 1, "most_rows": 2}, "q_lens, kv_lens"),
        ({"most_sequences": 0, "most_rows": 1}, "q_lens, kv_lens"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: "):
        plan(**{"q_lens": [1], "kv_lens": [10], **LLAMA, **changed})
