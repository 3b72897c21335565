"""Pages are conserved and prefixes are right, whatever happens in whatever order."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.engine.pages import PagePool
from trimtab.backends.engine.prefixes import PrefixTree

SIZE = 4


def test_pages_are_taken_all_or_none():
    pool = PagePool(5)
    first = pool.take(3)
    assert pool.take(3) is None
    assert (pool.free, pool.used, pool.cached) == (2, 3, 0)
    pool.drop(first)
    assert sorted(pool.take(5)) == [1, 2, 3, 4, 5]


def test_a_page_that_is_dropped_twice_is_noticed():
    pool = PagePool(3)
    pages = pool.take(1)
    pool.drop(pages)
    with pytest.raises(AssertionError):
        pool.drop(pages)


def test_the_longest_unused_leaf_goes_first():
    pool = PagePool(3)
    tree = PrefixTree(pool, SIZE)
    for tokens in ([1, 1, 1, 1, 2, 2, 2, 2], [3, 3, 3, 3]):
        pages = pool.take(len(tokens) // SIZE)
        tree.insert("", tokens, pages)
        pool.drop(pages)
    held = tree.find("", [1, 1, 1, 1, 2, 2, 2, 2])  # used again, so the other is older now
    pool.drop(held)
    pool.drop(pool.take(1))
    assert tree.find("", [3, 3, 3, 3]) == []
    pool.take(2)
    assert tree.find("", [1, 1, 1, 1, 2, 2, 2, 2]) == held[:1], "a page goes before the one it follows"


def test_tenants_find_nothing_of_one_another():
    pool = PagePool(4)
    tree = PrefixTree(pool, SIZE)
    pages = pool.take(1)
    tree.insert("a", [1, 2, 3, 4], pages)
    assert tree.find("b", [1, 2, 3, 4]) == []
    assert tree.find("a", [1, 2, 3, 4]) == pages


def test_two_who_computed_the_same_share_one():
    pool = PagePool(6)
    tree = PrefixTree(pool, SIZE)
    tokens = list(range(8))
    one, two = pool.take(2), pool.take(2)
    mine = list(two)
    tree.insert("", tokens, one)
    tree.insert("", tokens, two)
    assert two == one
    assert mine != one
    assert pool.free == 4
    pool.drop(one)
    pool.drop(two)
    pool.check()
    assert pool.cached == 2


@given(st.integers(0, 2**32))
def test_no_page_is_lost_and_what_is_found_is_what_was_put(seed):
    chance = random.Random(seed)
    pool = PagePool(12)
    tree = PrefixTree(pool, SIZE)
    holds = {}  # page -> the tokens up to its end, of whoever filled it last
    users = []
    for _ in range(60):
        tenant, tokens = chance.choice("ab"), [chance.randint(0, 1) for _ in range(chance.randint(1, 20))]
        if chance.random() < 0.6:
            pages = tree.find(tenant, tokens)
            for i, page in enumerate(pages):
                assert holds[page] == (tenant, tuple(tokens[: (i + 1) * SIZE]))
            new = pool.take(-(-len(tokens) // SIZE) - len(pages))
            if new is None:
                pool.drop(pages)
                continue
            for i, page in enumerate(new, len(pages)):
                holds[page] = (tenant, tuple(tokens[: (i + 1) * SIZE]))
            known, whole = len(pages), pages + new
            if chance.random() < 0.7:
                tree.insert(tenant, tokens, whole, known)
            users.append(whole)
        elif users:
            pool.drop(users.pop(chance.randrange(len(users))))
        pool.check()
        assert pool.cached <= len(tree)
    for pages in users:
        pool.drop(pages)
    pool.check()
    assert pool.cached == len(tree)
    pool.take(12)
    assert len(tree) == 0
