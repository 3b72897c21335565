"""Vectors by the hash of their text, within a bound of bytes."""

from __future__ import annotations

import sys
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.embed_cache import VectorCache, text_keys
from trimtab.backends.embed_vectors import pack, unpack

any_text = st.text(st.characters())  # lone surrogates too


@given(st.lists(st.tuples(any_text, any_text, any_text), max_size=20))
def test_keys_are_equal_only_where_everything_is(parts: list[tuple[str, str, str]]) -> None:
    keys = [text_keys(model, tenant, [text])[0] for model, tenant, text in parts]
    assert len(set(keys)) == len(set(parts))


def test_a_tenant_and_a_text_cannot_be_shifted_into_each_other() -> None:
    assert text_keys("m", "ab", ["c"]) != text_keys("m", "a", ["bc"])
    assert text_keys("ma", "b", ["c"]) != text_keys("m", "ab", ["c"])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=300))
def test_it_is_an_lru_within_its_bound(steps: list[tuple[bool, int]]) -> None:
    record, most = b"x" * 750, 10_000  # 1000 bytes each, with what they cost beside their bytes
    cache, model = VectorCache(most), OrderedDict[bytes, bytes]()
    for write, number in steps:
        key = b"%d" % number
        if write:
            cache.put(key, record)
            model[key] = record
            model.move_to_end(key)
            if len(model) > 10:
                model.popitem(last=False)
        else:
            assert cache.get(key) == model.get(key)
            if key in model:
                model.move_to_end(key)
        assert (len(cache), cache.bytes) == (len(model), 1000 * len(model))


def test_a_record_larger_than_the_cache_is_not_kept() -> None:
    cache = VectorCache(500)
    cache.put(b"k", b"x" * 1000)
    assert (len(cache), cache.bytes, cache.get(b"k")) == (0, 0, None)


def test_what_an_entry_is_said_to_cost_is_no_less_than_its_objects() -> None:
    cache = VectorCache(1 << 30)
    before, count = sys.getsizeof(cache._kept), 2000
    for i in range(count):
        cache.put(i.to_bytes(16, "little"), bytes(776))
    objects = count * (sys.getsizeof(bytes(16)) + sys.getsizeof(bytes(776)))
    assert cache.bytes >= 0.95 * (objects + sys.getsizeof(cache._kept) - before)


vectors = st.integers(1, 8).flatmap(
    lambda d: st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=d, max_size=d), min_size=1, max_size=5)
)


@given(vectors)
def test_what_comes_back_is_the_direction_with_unit_length(rows: list[list[float]]) -> None:
    given_rows = np.array(rows, np.float32)
    found, tokens = unpack(pack(given_rows, range(len(rows))), given_rows.shape[1])
    assert tokens == tuple(range(len(rows)))
    assert found.dtype == np.float32
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-6
    for row, unit in zip(given_rows.astype(np.float64), found, strict=True):
        length = np.linalg.norm(row)
        if length > 0:
            assert row @ unit / length > 1 - 2e-6


@pytest.mark.parametrize("row", [[0, 0, 0], [np.nan, 0, 1], [np.inf, 0, 0]])
def test_a_vector_without_a_direction_becomes_a_defined_one(row: list[float]) -> None:
    found, _ = unpack(pack(np.array([row], np.float32), [2]), 3)
    assert found.tolist() == [[1, 0, 0]]


def test_nothing_is_nothing() -> None:
    found, tokens = unpack([], 384)
    assert (found.shape, tokens) == ((0, 384), ())


def test_a_vector_does_not_depend_on_the_others() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 384)).astype(np.float32)
    together = unpack(pack(rows, [1] * 50), 384)[0]
    for row, vector in zip(rows, together, strict=True):
        assert np.array_equal(unpack(pack(row[None], [1]), 384)[0][0], vector)
