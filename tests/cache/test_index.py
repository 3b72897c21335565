"""The nearest kept questions: exact while few, near enough to exact when many, and never one that is gone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from trimtab.cache import index as module
from trimtab.cache.index import Index

A, B = b"family a", b"family b"


def unit(rows: int, dimensions: int = 32, seed: int = 0) -> NDArray[np.float32]:
    made = np.random.default_rng(seed).standard_normal((rows, dimensions)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def packed(row: NDArray[np.float32]) -> bytes:
    return row.astype(np.float16).tobytes()


def filled(vectors: NDArray[np.float32], family: bytes = A) -> Index:
    held = Index()
    for place, row in enumerate(vectors):
        held.add("t", family, str(place), f"question {place}", packed(row))
    return held


def test_the_nearest_come_first_and_what_is_too_far_not_at_all() -> None:
    vectors = unit(200)
    held = filled(vectors)
    asked = vectors[7]
    cosines = vectors.astype(np.float16).astype(np.float32) @ asked
    want = [str(place) for place in np.argsort(-cosines)[:4]]
    found = held.nearest(A, asked, 4, -1.0)
    assert [one.id for one in found] == want
    assert found[0].question == "question 7"
    assert [one.cosine for one in found] == pytest.approx(sorted(cosines, reverse=True)[:4], abs=1e-4)
    assert [one.id for one in held.nearest(A, asked, 4, 0.999)] == ["7"]


def test_families_do_not_see_each_other() -> None:
    held = filled(unit(5), A)
    held.add("t", B, "other", "q", packed(unit(1, seed=9)[0]))
    assert [one.id for one in held.nearest(B, unit(5)[0], 9, -1.0)] == ["other"]
    assert held.nearest(b"none", unit(5)[0], 9, -1.0) == []


def test_the_same_id_of_two_owners_are_two() -> None:
    held = Index()
    row = unit(1)[0]
    held.add("acme", A, "x", "a", packed(row))
    held.add("zenith", B, "x", "z", packed(row))
    held.drop("acme", "x")
    assert held.nearest(A, row, 4, 0.5) == []
    assert [one.question for one in held.nearest(B, row, 4, 0.5)] == ["z"]


def test_what_cannot_be_compared_is_left_out() -> None:
    held = filled(unit(3))
    held.add("t", A, "short", "q", b"\x00" * 8)
    held.add("t", A, "odd", "q", np.full(32, np.nan, np.float16).tobytes())
    assert len(held) == 3
    held.drop("t", "short")


@pytest.mark.parametrize("graph", [True, False])
def test_a_large_family_is_found_almost_as_well(monkeypatch: pytest.MonkeyPatch, graph: bool) -> None:
    if graph:
        pytest.importorskip("usearch")
    else:
        monkeypatch.setattr(module, "_graph", lambda dimensions: None)
    monkeypatch.setattr(module, "SCANNED", 200)
    vectors = unit(3_000)
    held = filled(vectors)
    for gone in range(0, 3_000, 3):
        held.drop("t", str(gone))
    assert len(held) == 2_000
    noise = unit(300, seed=5)
    hits = 0
    for place in range(300):
        target = 3 * place + 1
        asked = vectors[target] * 0.9 + noise[place] * 0.1
        asked /= np.linalg.norm(asked)
        found = held.nearest(A, asked, 4, 0.5)
        assert all(int(one.id) % 3 for one in found), "none that is gone"
        hits += bool(found) and found[0].id == str(target)
    assert hits >= (297 if graph else 300)


changes = st.lists(
    st.tuples(st.sampled_from(["add", "drop"]), st.integers(0, 30), st.sampled_from([A, B])), max_size=80
)


@settings(max_examples=60)
@given(changes)
def test_it_holds_what_was_added_and_not_dropped(steps: list[tuple[str, int, bytes]]) -> None:
    vectors = unit(31)
    held, want = Index(), dict[int, bytes]()
    for what, place, family in steps:
        if what == "add":
            held.add("t", family, str(place), str(place), packed(vectors[place]))
            want[place] = family
        else:
            held.drop("t", str(place))
            want.pop(place, None)
    assert len(held) == len(want)
    for family in (A, B):
        found = {int(one.id) for one in held.nearest(family, vectors[0], 99, -1.0)}
        assert found == {place for place, of in want.items() if of == family}
