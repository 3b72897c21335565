"""Every variant of the attention kernels compiles for a Hopper GPU, spills nothing and fits its shared memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(600)  # some 25 seconds of one quiet core where nothing was compiled before

# What one program may have of a multiprocessor's 228 KB.
SHARED = 232_448


@pytest.fixture(scope="module")
def built(assembled: Callable[..., list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in assembled("hopper.py", "attention")}


def test_nothing_is_spilled_and_all_of_it_fits(built: dict[str, dict[str, Any]]) -> None:
    assert len(built) == 24
    assert {name for name, each in built.items() if each["spilled"]} == set()
    assert {name for name, each in built.items() if each["shared"] > SHARED} == set()


def test_two_programs_share_a_multiprocessor_where_the_plan_counts_on_it(built: dict[str, dict[str, Any]]) -> None:
    """65,536 registers and 227 KB: what attention_plan.resident says for blocks of up to 64 rows, of four warps."""
    for name in ("paged q=1", "paged q=8", "paged q=16", "paged fp8", "paged fp8 by page", "paged quest"):
        assert built[name]["registers"] * 4 * 32 * 2 <= 65_536, name
        assert (built[name]["shared"] + 1024) * 2 <= 228 * 1024, name


def test_large_blocks_use_the_units_of_hopper(built: dict[str, dict[str, Any]]) -> None:
    for name in ("paged q=16", "paged tree of 32", "prefill first", "prefill paged", "prefill fresh window"):
        assert built[name]["wgmma"], name
    assert built["prefill descriptors"]["copies"], "the copy engine fetches the tiles"
