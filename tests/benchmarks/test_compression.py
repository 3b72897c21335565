"""The benchmarks of compression: the simulated bill is what its rules say, and generated requests come to no harm."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def module(name: str) -> Any:
    return importlib.import_module(name)


def letters(text: str) -> tuple[str, ...]:
    """One token a character."""
    return tuple(text)


def request(*contents: str, tools: Any = None) -> dict[str, Any]:
    messages = [{"role": "user", "content": content} for content in contents]
    return {"messages": messages, **({"tools": tools} if tools else {})}


SAID = {"role": "assistant", "content": ""}  # its frame alone is 12 characters


def test_a_beginning_that_was_sent_is_read_at_the_cached_price() -> None:
    prices = module("compress_prices")
    provider = prices.Provider("p", input=1_000_000, cached=100_000, output=0, least=10, step=10)
    session = prices.Session(provider, letters)
    session.send(request("a" * 18), SAID)  # 7 + 18 characters
    assert (session.dollars, session.cached) == (25.0, 0)
    session.send(request("a" * 18, "b" * 3), SAID)  # the same 25, of which 20 are whole steps, and 10 more
    assert session.cached == 20
    assert session.dollars == pytest.approx(25 + 20 * 0.1 + 15)


def test_a_changed_beginning_is_paid_in_full() -> None:
    prices = module("compress_prices")
    session = prices.Session(prices.Provider("p", 1_000_000, 0, 0, least=8, step=1), letters)
    session.send(request("a" * 30), SAID)
    session.send(request("b" + "a" * 30), SAID)
    assert session.cached == 0, "seven characters are the same, and eight are the least that is cached"


def test_space_between_the_tokens_of_tools_is_nobodys_saving() -> None:
    prices = module("compress_prices")
    tools = [{"type": "function", "function": {"name": "f", "description": "d"}}]
    assert "".join(prices.texts(request("a", tools=tools))).count(" ") == 0


async def test_generated_requests_come_to_no_harm() -> None:
    integrity = module("integrity")
    watch = await integrity.run(80, 11)
    assert watch.requests >= 60
    assert watch.changed["default"] > watch.requests / 5, "a check of requests that nothing is done to says nothing"
    assert list(watch.first) == []


async def test_the_checker_sees_damage() -> None:
    check = module("integrity_check").violations
    before = b'{"messages":[{"role":"system","content":"S"},{"role":"tool","content":"[1.0, 2]"}],"n":1}'
    for damaged, word in (
        (before.replace(b'"S"', b'"T"'), "system text"),
        (before.replace(b"1.0", b"1"), "another value"),
        (before.replace(b'"n":1', b'"n":2'), "field n"),
        (before.replace(b'{"role":"system","content":"S"},', b""), "roles"),
        (before.replace(b"[1.0, 2]", b"[1.0, 2"), "JSON"),
    ):
        assert any(word in complaint for complaint in check(before, damaged, [], [], True)), word
    assert list(check(before, before.replace(b"1.0, 2", b"1.0,2"), [], [], True)) == []


@pytest.mark.parametrize("name", ["integrity", "compress"])
async def test_help_teaches(name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(BENCHMARKS / f"{name}.py"), "--help", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"--json" in out
