"""A small soak, by the benchmark's own hand: hundreds of clients, many of whom leave, and nothing left behind."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import uvloop

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def soak(own_garbage: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("soak")


def soaked(soak: Any, folder: Path, seed: int, *, http: bool) -> Any:
    """A soak on the loop that the gateway serves on."""
    visits = soak.plan(600, 120, seed, longest_s=soak.ANSWER_S, events=soak.TOKENS + 2)
    found = uvloop.run(soak.soak(visits, folder, http=http, step=lambda: None))
    assert found.outcome.odd == []
    assert found.outcome.whole + found.outcome.left == len(visits)
    assert found.outcome.left > 60
    return found


def nothing_left_over(found: Any) -> None:
    assert (found.leaked_tasks, found.left_fds) == (0, 0)
    assert found.leaked_fds <= 0  # a pool may shrink
    assert (found.open_reservations, found.held_microusd, found.upstream_open) == (0, 0, 0)
    assert (found.books.missing, found.books.double) == (0, 0)
    assert found.limiter_apart_microusd == 0


def test_the_ledger_is_the_upstreams_book_to_the_token(soak: Any, tmp_path: Path) -> None:
    found = soaked(soak, tmp_path, 1, http=False)
    nothing_left_over(found)
    books = found.books
    assert books.receipts == books.calls > 720
    assert books.cut_calls > 30
    assert (books.whole, books.cut_prompt, books.cut_completion, books.unasked) == (0, 0, 0, 0)


def test_over_http_only_what_is_in_the_air_is_uncertain(soak: Any, tmp_path: Path) -> None:
    """No answer that was given whole is off; one that was left is off by less than itself."""
    found = soaked(soak, tmp_path, 2, http=True)
    nothing_left_over(found)
    books = found.books
    assert books.whole == 0
    assert books.cut_calls > 30
    assert books.cut_most <= soak.TOKENS
    assert books.receipts == books.calls + books.unasked


def test_a_book_that_is_off_by_one_token_is_seen(soak: Any) -> None:
    books = soak.Books()
    soak._weigh(books, [soak.Used(10, 5, "completed")], soak.Used(10, 6, "ok"))
    soak._weigh(books, [soak.Used(10, 5, "aborted")], soak.Used(9, 3, "disconnected"))
    soak._weigh(books, [], soak.Used(7, 0, "disconnected"))
    assert (books.whole, books.cut_prompt, books.cut_completion, books.cut_most, books.cut_calls) == (1, 8, 2, 2, 2)
