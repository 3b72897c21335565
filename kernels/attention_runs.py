"""How many tiles of keys one program should read: the search behind attention_plan.py.

Short runs share the work out evenly and cost more starts and merges; long ones leave multiprocessors idle at the end.
What a cut costs is counted in tiles, and candidates are played through as the hardware would: whoever is free takes the
largest item that is left. Knows nothing of sequences, masks or grids.
"""

from __future__ import annotations

from collections import Counter
from heapq import heapreplace

# In tiles: what an item costs beside its own, and what it costs that anything has to be merged at all.
ITEM_COST = 2
MERGE_COST = 2
# Items beyond one a block, in rounds of all multiprocessors: room to cut long sequences while short ones stay whole.
EXTRA_ROUNDS = 3


def best_run(sizes: Counter[int], slots: int, most: int) -> int:
    """The longest run of tiles one item may have. `sizes`: how many blocks have so many tiles.

    Candidates are played through in the order of what they cannot do better than, until none can win.
    """
    found, run = float("inf"), 1
    bounds = [(at_least(sizes, candidate, slots), -candidate) for candidate in candidates(sizes, slots, most)]
    for bound, candidate in sorted(bounds):
        if bound >= found:
            break
        end = ends(sizes, -candidate, slots)
        if end < found:
            found, run = end, -candidate
    return run


def candidates(sizes: Counter[int], slots: int, most: int) -> set[int]:
    """Runs that fill whole rounds, shares of the work, and even cuts of the longest sequence."""
    longest, blocks = max(sizes, default=1) or 1, sum(sizes.values())
    least = least_run(sizes, most)
    share = sum(many * kept for kept, many in sizes.items()) / slots
    runs = {least_run(sizes, rounds * slots) for rounds in range(1, EXTRA_ROUNDS + 1) if rounds * slots >= blocks}
    runs |= {int(share / parts) + 1 for parts in range(1, EXTRA_ROUNDS + 1)}
    runs |= {-(-longest // parts) for parts in range(1, 9)}
    return {least} | {min(longest, max(least, run)) for run in runs}


def least_run(sizes: Counter[int], budget: int) -> int:
    """The shortest run that makes no more than `budget` items: the search of FlashInfer's planner."""
    low, high = 1, max(1, max(sizes, default=1))
    while low < high:
        middle = (low + high) // 2
        if count(sizes, middle) <= budget:
            high = middle
        else:
            low = middle + 1
    return low


def count(sizes: Counter[int], run: int) -> int:
    return sum(many * max(1, -(-kept // run)) for kept, many in sizes.items())


def groups(sizes: Counter[int], run: int) -> list[tuple[int, int]]:
    """(tiles of an item and its cost, how many such items), largest first."""
    parts = {kept: max(1, -(-kept // run)) for kept in sizes}
    return sorted(
        ((-(-kept // parts[kept]) + ITEM_COST, parts[kept] * many) for kept, many in sizes.items()), reverse=True
    )


def at_least(sizes: Counter[int], run: int, slots: int) -> float:
    """In tiles: the work shared out evenly, or what the largest items alone need in whole rounds."""
    bound = work = items = 0.0
    for size, many in groups(sizes, run):
        items += many
        work += size * many
        bound = max(bound, -(-items // slots) * size)
    return max(bound, work / slots)


def ends(sizes: Counter[int], run: int, slots: int) -> float:
    """When the last item ends, if whoever is free takes the largest that is left."""
    busy, items = [0] * slots, 0
    for size, many in groups(sizes, run):
        items += many
        for _ in range(many):
            heapreplace(busy, busy[0] + size)
    return max(busy) + (MERGE_COST if items > sum(sizes.values()) else 0)
