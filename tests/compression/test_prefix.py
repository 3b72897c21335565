"""What was sent is found again, by the same tenant and target only, for as long as it is likely to be cached."""

from __future__ import annotations

import itertools
import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compression.prefix import Option, PrefixMemory, chain, seed


def option(original: bytes, changed: bytes | None = b"=", turn: int = 0) -> Option:
    changed = original if changed == b"=" else changed
    return Option(original, changed, 10, 0 if changed is None else 10 if changed == original else 6, turn)


def sent(options: list[Option], choice: tuple[bool, ...]) -> list[bytes]:
    pieces = [o.changed if take else o.original for o, take in zip(options, choice, strict=True)]
    return [piece for piece in pieces if piece is not None]


def test_nothing_is_cached_of_what_was_never_sent() -> None:
    walk = PrefixMemory().walk("a", "gpt", [option(b"1"), option(b"2", b"x")], 0.0)
    assert (walk.original, walk.changed, walk.mixed, walk.remembered) == (0, 0, 0, 0)
    assert walk.choice == (True, True)


def test_a_beginning_that_was_sent_unchanged_is_kept_and_changed_from_there_on() -> None:
    memory = PrefixMemory()
    memory.remember("a", "gpt", [b"s", b"1"], 0.0)
    walk = memory.walk("a", "gpt", [option(b"s"), option(b"1", b"x"), option(b"2", b"y")], 1.0)
    assert walk.choice == (True, False, True)
    assert (walk.original, walk.changed, walk.mixed) == (20, 10, 20)
    assert walk.remembered == 2


def test_it_belongs_to_one_tenant_and_one_target() -> None:
    memory = PrefixMemory()
    memory.remember("a", "gpt", [b"s"], 0.0)
    assert memory.walk("b", "gpt", [option(b"s")], 0.0).original == 0
    assert memory.walk("a", "other", [option(b"s")], 0.0).original == 0
    assert memory.walk("a", "gpt", [option(b"s")], 0.0).original == 10


def test_it_is_forgotten_five_minutes_after_its_last_use() -> None:
    memory = PrefixMemory()
    memory.remember("a", "gpt", [b"s"], 0.0)
    memory.remember("a", "gpt", [b"s"], 200.0)
    assert memory.walk("a", "gpt", [option(b"s")], 500.0).original == 10
    assert memory.walk("a", "gpt", [option(b"s")], 500.1).original == 0


def test_a_turn_is_not_left_out_by_half() -> None:
    """The call was sent, the result was not yet: now that both could go, both stay."""
    memory = PrefixMemory()
    memory.remember("a", "gpt", [b"s", b"ask", b"call"], 0.0)
    turn = [option(b"ask", None, 1), option(b"call", None, 1), option(b"result", None, 1)]
    walk = memory.walk("a", "gpt", [option(b"s"), *turn, option(b"next", turn=2)], 1.0)
    assert walk.choice == (True, False, False, False, True)
    assert walk.mixed == 30


def test_what_was_left_out_last_time_is_recognised() -> None:
    memory = PrefixMemory()
    memory.remember("a", "gpt", [b"s", b"b", b"c"], 0.0)
    options = [option(b"s"), option(b"a", None, 1), option(b"b", None, 2), option(b"c", turn=3), option(b"d", turn=4)]
    walk = memory.walk("a", "gpt", options, 1.0)
    assert walk.choice == (True, True, False, True, True)
    assert walk.mixed == 30
    assert walk.instead == 40


versions = st.lists(
    st.tuples(st.binary(max_size=3), st.one_of(st.none(), st.binary(max_size=3))), min_size=1, max_size=6
)


@given(versions, st.data())
def test_whatever_was_sent_last_is_found_whole(pieces: list[tuple[bytes, bytes | None]], data: st.DataObject) -> None:
    """Each piece is marked with its place, so that no two ways of sending the request are the same bytes."""
    options = [
        Option(b"%d:" % i + a, None if b is None else b"%d!" % i + b, 10, 0 if b is None else 6, i)
        for i, (a, b) in enumerate(pieces)
    ]
    last = tuple(data.draw(st.booleans()) for _ in options)
    memory = PrefixMemory()
    memory.remember("a", "gpt", sent(options, last), 0.0)
    walk = memory.walk("a", "gpt", options, 0.0)
    before = sum(o.tokens_changed if take else o.tokens for o, take in zip(options, last, strict=True))
    assert walk.mixed >= min(before, 10 * walk.remembered)
    assert sent(options, walk.choice)[: walk.remembered] == sent(options, last)[: walk.remembered]
    assert walk.remembered == len(sent(options, last))


@settings(max_examples=20)
@given(st.integers(1, 40), st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), max_size=80))
def test_it_stays_within_its_size(entries: int, requests: list[tuple[str, int]]) -> None:
    memory = PrefixMemory(size=200 * entries)
    for at, (tenant, length) in enumerate(requests):
        memory.remember(tenant, "gpt", [b"%d" % i for i in range(length)], float(at))
        assert len(memory) <= entries


def test_a_busy_tenant_does_not_push_out_a_quiet_one() -> None:
    memory = PrefixMemory(size=200 * 100)
    memory.remember("quiet", "gpt", [b"s"], 0.0)
    for i in range(1_000):
        memory.remember("busy", "gpt", [b"%d" % i], 1.0)
    assert memory.walk("quiet", "gpt", [option(b"s")], 2.0).original == 10


def test_how_often_conversations_go_on_is_learnt() -> None:
    memory = PrefixMemory()
    assert memory.again("a", "gpt") == 0.25
    for i in range(36):
        memory.remember("a", "gpt", [b"s", b"%d" % i], float(i))
    assert memory.again("a", "gpt") == 1 / 40
    assert memory.again("a", "other") == 0.25
    memory.respelt("a", "gpt", chain([b"another spelling"], seed("gpt")), 35.0)
    assert memory.again("a", "gpt") == 1 / 40, "it is still one request"
    other = PrefixMemory()
    for i in range(1, 60):
        other.remember("a", "gpt", [b"%d" % j for j in range(i)], float(i))
    assert other.again("a", "gpt") > 0.9


def test_many_pieces_that_could_go_either_way_do_not_take_for_ever() -> None:
    """Every piece could be left out and every one was sent: 2 ** 5,000 ways through."""
    options = [option(b"%d" % i, None, i) for i in range(5_000)]
    memory = PrefixMemory()
    memory.remember("a", "gpt", [o.original for o in options], 0.0)
    assert len(memory.walk("a", "gpt", options, 0.0).choice) == 5_000


def test_storing_a_chain_is_remembering_its_pieces() -> None:
    memory = PrefixMemory()
    memory.store("a", "gpt", chain([b"s", b"1"], seed("gpt")), 0.0)
    memory.store("a", "gpt", (), 0.0)
    assert memory.walk("a", "gpt", [option(b"s"), option(b"1")], 0.0).original == 20


def test_threads_may_share_it() -> None:
    memory = PrefixMemory(size=200 * 50)
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for i in range(300):
                memory.remember(name, "gpt", [b"s", b"%d" % i], float(i))
                memory.walk(name, "gpt", [option(b"s"), option(b"%d" % i)], float(i))
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in itertools.islice(itertools.cycle("ab"), 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(memory) <= 50
