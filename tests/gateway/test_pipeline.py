"""The walk: stages in their order, an answer ends it, an optimisation that fails or dawdles is undone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from trimtab.gateway.pipeline import Pipeline, optimisations
from trimtab.protocol.errors import Forbidden, InvalidRequest
from trimtab.protocol.exchange import Caller, Exchange, Receipt, Target, Tenant
from trimtab.protocol.messages import Answer, Request

REQUEST = Request.parse("chat", b'{"model": "m", "messages": []}')


@dataclass
class Step:
    name: str
    act: Callable[[Exchange], Awaitable[None]]
    waits: bool = True

    async def __call__(self, exchange: Exchange) -> None:
        await self.act(exchange)


async def nothing(exchange: Exchange) -> None:
    exchange.note("nothing", "did nothing")


async def edit(exchange: Exchange) -> None:
    exchange.working = exchange.working.with_fields(temperature=0)
    exchange.draft = "a draft"
    exchange.note("edit", "edited")


async def answer(exchange: Exchange) -> None:
    exchange.answer = Answer(b"{}")


async def spoil_and_fail(exchange: Exchange) -> None:
    exchange.working = exchange.working.with_fields(model="wrong")
    exchange.targets = ()
    exchange.draft = "spoilt"
    exchange.answer = Answer(b"half")
    raise ZeroDivisionError("a bug")


async def spoil_and_refuse(exchange: Exchange) -> None:
    exchange.working = exchange.working.with_fields(model="wrong")
    raise InvalidRequest("this stage cannot read it")


async def spoil_and_dawdle(exchange: Exchange) -> None:
    exchange.working = exchange.working.with_fields(model="wrong")
    await asyncio.sleep(60)


def exchange() -> Exchange:
    made = Exchange("r", REQUEST, REQUEST, Caller(Tenant("t")), Receipt("r", "t", 0.0), (), 0.0)
    made.targets = (Target("m", "fake", "m"),)
    return made


def story(made: Exchange) -> list[tuple[str, str]]:
    return [(line.stage, line.did) for line in made.receipt.lines]


async def test_stages_run_in_order_and_leave_the_original_alone() -> None:
    made = exchange()
    await Pipeline(Step("admit", nothing), [Step("edit", edit), Step("nothing", nothing)]).walk(made)
    assert story(made) == [("nothing", "did nothing"), ("edit", "edited"), ("nothing", "did nothing")]
    assert made.original.encode() == REQUEST.body
    assert b"temperature" in made.working.encode()


async def test_an_answer_ends_the_walk() -> None:
    made = exchange()
    await Pipeline(Step("admit", nothing), [Step("recall", answer), Step("edit", edit)]).walk(made)
    assert made.answer is not None
    assert ("edit", "edited") not in story(made)


@pytest.mark.parametrize("spoil", [spoil_and_fail, spoil_and_refuse])
async def test_a_stage_that_fails_is_undone_and_the_others_go_on(spoil: Callable[[Exchange], Awaitable[None]]) -> None:
    made = exchange()
    await Pipeline(Step("admit", nothing), [Step("edit", edit), Step("bad", spoil), Step("nothing", nothing)]).walk(
        made
    )
    assert story(made)[-2:] == [("bad", "undone"), ("nothing", "did nothing")]
    assert made.working.model == "m"
    assert b"temperature" in made.working.encode(), "what the stage before did stays"
    assert [target.name for target in made.targets] == ["m"]
    assert made.draft == "a draft"
    assert made.answer is None


async def test_a_stage_that_dawdles_is_undone_and_the_rest_left_out() -> None:
    made = exchange()
    stages = [Step("edit", edit), Step("slow", spoil_and_dawdle), Step("nothing", nothing)]
    await Pipeline(Step("admit", nothing), stages, seconds=0.05).walk(made)
    assert story(made)[-2:] == [("slow", "undone"), ("nothing", "left out")]
    assert made.working.model == "m"
    assert b"temperature" in made.working.encode()


async def test_admit_fails_closed() -> None:
    async def refuse(_: Exchange) -> None:
        raise Forbidden("no")

    made = exchange()
    with pytest.raises(Forbidden):
        await Pipeline(Step("admit", refuse), [Step("edit", edit)]).walk(made)
    assert story(made) == []


async def test_what_is_not_built_says_so() -> None:
    made = exchange()
    await Pipeline(Step("admit", nothing), optimisations()).walk(made)
    assert [stage for stage, did in story(made)[1:]] == ["recall", "prune", "compress", "plan", "route"]
    assert {did for _, did in story(made)[1:]} == {"off"}
    assert made.working.encode() == REQUEST.body
