"""The cache's benchmarks find what they look for: each is run against a cache that was broken on purpose, too."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.cache import keeper, key, recall, replay
from trimtab.cache.store_memory import MemoryStore

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def module(name: str) -> Any:
    return importlib.import_module(name)


@pytest.fixture
def options() -> Any:
    return argparse.Namespace(quick=True, seed=0, notes=[])


def value(rows: list[Any], metric: str) -> float:
    return next(float(row.value) for row in rows if row.metric == metric)


# The judge.


def judged(first: dict[str, Any], second: dict[str, Any], body: bytes | None = None, late: bool = False) -> list[str]:
    """What is wrong with the second visit getting the first one's answer (or `body`)."""
    house, judges = module("cache_house"), module("cache_judge")
    asked = {"tenant": 1, "kind": "chat", "body": {"model": "m", "temperature": 0}}
    judge = judges.Judge()
    one, two = (judges.Visit(serial, **{**asked, **more}) for serial, more in ((1, first), (2, second)))
    judge.expect(one)
    judge.expect(two)
    if late:
        judge.ended[one.mark] = two.began - 10
    body = "".join(house.said(one.mark)).encode() if body is None else body
    judge.see(two, house.Got(200, {}, bytearray(body), whole=True))
    return list(judge.odd)


def test_the_same_request_of_the_same_owner_may_share() -> None:
    assert judged({}, {}) == []
    assert judged({}, {"body": {"model": "m", "temperature": 0, "stream": True}}) == []
    shared: dict[str, Any] = {"body": {"model": "m", "temperature": 0, "cache": {"namespace": "faq"}}}
    faq = {**shared, "public": frozenset({"faq"})}
    assert judged(faq, {**faq, "tenant": 2}) == []
    assert judged({"epochs": (0, 1)}, {"epochs": (1, 2)}) == [], "a reload fell into the first"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"tenant": 2}),
        ({}, {"kind": "completions"}),
        ({}, {"body": {"model": "m", "temperature": 0, "seed": 1}}),
        ({}, {"headers": {"x-trimtab-query": "q"}}),
        ({}, {"body": {"model": "m", "temperature": 0, "cache": {"namespace": "a"}}}),
        ({}, {"epochs": (1, 1)}),
        ({"always": False, "body": {"model": "m"}}, {"always": False, "body": {"model": "m"}}),
        ({"body": {"model": "m", "temperature": 0, "cache": {"no-store": True}}}, {}),
        ({}, {"body": {"model": "m", "temperature": 0, "cache": {"no-cache": True}}}),
    ],
    ids=str,
)
def test_any_other_may_not(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert len(judged(first, second)) == 1


def test_pieces_parts_and_leftovers_are_seen() -> None:
    said = module("cache_house").said
    one, two = said("t1~1"), said("t1~2")
    for tokens in (one[:6] + two[6:], one[:-1], one[:3] + one[4:], one[::-1], [*one, one[-1]], said("t9~9")):
        assert judged({}, {}, "".join(tokens).encode()), tokens
    assert judged({"spoil": {"finish": "length"}}, {"began": 20.0}, late=True)
    assert not judged({"spoil": {"finish": "length"}}, {}), "at the same moment it is shared as it comes"


def test_every_place_of_a_request_is_flipped_once() -> None:
    flips = module("cache_flips")
    made = list(flips.flips(flips.CHAT))
    assert len({str((flip.body, dict(flip.headers))) for flip in made}) == len(made) > 100
    flipped = {flip.where.split("/")[0] for flip in made}
    assert flipped >= set(flips.CHAT), "each field of the body"
    assert {f"-{name}" for name in flips.CHAT if name != "model"} <= flipped


# The gateway with a cache that is as it should be, and with ones that are not.


def without(*names: str) -> Callable[..., Any]:
    """A key that leaves fields out."""

    def place(secret: bytes, scope: Any, request: Any, *more: Any) -> Any:
        return key.place(secret, scope, request.with_fields(**dict.fromkeys(names)), *more)

    return place


def for_everybody(secret: bytes, scope: Any, request: Any, *more: Any) -> Any:
    """A key that forgets whose it is."""
    return key.place(secret, dataclasses.replace(scope, tenant="", public=False), request, *more)


@pytest.mark.parametrize(
    ("broken", "holds"),
    [(None, True), (without("user"), False), (without("input"), False), (for_everybody, False)],
    ids=["sound", "user", "input", "tenant"],
)
def test_flips_find_a_key_that_forgets(
    monkeypatch: pytest.MonkeyPatch, options: Any, broken: Callable[..., Any] | None, holds: bool
) -> None:
    isolation, flips = module("cache_isolation"), module("cache_flips")
    monkeypatch.setattr(isolation, "BASES", {"embeddings": flips.EMBEDDING})
    if broken is not None:
        monkeypatch.setattr(recall, "place", broken)
    rows = isolation.flipped(options, 2, 1)
    assert (value(rows, "cross_hits") == 0) is holds, options.notes
    assert value(rows, "flips_kept") > 0.9


@pytest.mark.parametrize("broken", [None, "unfit", "tenant"])
def test_mixtures_find_what_is_given_to_the_wrong_one(
    monkeypatch: pytest.MonkeyPatch, options: Any, broken: str | None
) -> None:
    isolation = module("cache_isolation")
    if broken == "unfit":
        monkeypatch.setattr(keeper, "unfit", lambda *_: None)
    elif broken == "tenant":
        monkeypatch.setattr(recall, "place", for_everybody)
    rows = isolation.mixture(options, "", 600, 5)
    assert (value(rows, "foreign_canaries") == 0) is (broken is None), options.notes
    assert value(rows, "mixed_shared") > 50
    assert value(rows, "mixed_left") > 20
    assert value(rows, "mixed_flights_left") == 0


@pytest.mark.parametrize("broken", [None, "joined", "parted", "pieces"])
def test_replays_are_compared(monkeypatch: pytest.MonkeyPatch, options: Any, broken: str | None) -> None:
    found = module("cache_replay")
    some = [case for case in found.cases(True) if case.fields in ({}, {"n": 2})][::9]
    monkeypatch.setattr(found, "cases", lambda quick: iter(some))
    monkeypatch.setattr(found, "UNFIT", ())
    if broken == "pieces":
        pieces = replay._pieces
        monkeypatch.setattr(replay, "_pieces", lambda body: pieces(body[body.index(b"\n\n") + 2 :]))
    elif broken is not None:
        whole = getattr(replay, broken)
        monkeypatch.setattr(replay, broken, lambda *asked: whole(*asked).replace(b'"stop"', b'"length"'))
    rows = found.rows(options)
    assert (value(rows, "replay_differences") == 0) is (broken is None), options.notes
    assert value(rows, "replay_kept") > 0.9


@pytest.mark.parametrize("broken", [False, True])
def test_what_is_unfit_is_asked_for_again(monkeypatch: pytest.MonkeyPatch, options: Any, broken: bool) -> None:
    found = module("cache_replay")
    monkeypatch.setattr(found, "cases", lambda quick: iter([found.Case(found.TEXTS[0], {}, {}, {})]))
    monkeypatch.setattr(found, "UNFIT", ({"finish": "content_filter"}, {"faults": {"cut_after": 4}}))
    if broken:
        monkeypatch.setattr(keeper, "unfit", lambda *_: None)
    assert (value(found.rows(options), "kept_unfit") == 0) is not broken, options.notes


# What is measured.


def test_ratios_are_taken_within_a_run() -> None:
    cost = module("cache_cost")
    slices = {case.name: [cost.Slice(100, 1.0, 0.5, 0.9, 0)] * 3 for case in cost.CASES}
    slices["hit"] = [cost.Slice(100, cpu, 0.5, 0.9, 0) for cpu in (1.0, 4.0, 30.0)]
    slices["floor"] = [cost.Slice(100, cpu, 0.5, 0.9, 0) for cpu in (2.0, 2.0, 10.0)]
    slices["miss"] = [cost.Slice(100, 1.0, 0.5, 0.9, 2)] * 3
    rows = cost.reported(slices)
    hit = next(row for row in rows if row.metric == "exact_hit_cpu_vs_floor")
    assert (hit.value, hit.interval, hit.holds) == (2.0, (0.5, 3.0), True)
    assert value(rows, "cost_errors") == 6


def test_without_the_shared_load_there_are_no_rows_about_cost(options: Any, tmp_path: Path) -> None:
    options.bench = tmp_path
    assert module("cache_cost").rows(options) == []
    assert "--bench" in options.notes[0]


@pytest.mark.parametrize("broken", [False, True])
async def test_look_ups_are_of_the_right_entry(monkeypatch: pytest.MonkeyPatch, broken: bool) -> None:
    lookup = module("cache_lookup")
    if broken:
        monkeypatch.setattr(MemoryStore, "get", _the_first)
    told = await lookup.exact("memory", 300, 1)
    assert told["n"] == 300
    assert (told["wrong"] > 0) is broken
    assert 1_000 < told["size"] < 3_000
    assert 0 < told["p50_ms"] <= told["p99_ms"]


async def _the_first(self: Any, place: Any) -> Any:
    return next(iter(self._slots.values())).entry


def test_the_parts_are_not_benchmarks_of_their_own() -> None:
    """benchmarks/cache.py calls them: to run them beside it would be to run them twice."""
    names = module("all").benchmarks()
    assert not {"cache_isolation", "cache_replay", "cache_cost", "cache_lookup", "cache_house"} & set(names)
