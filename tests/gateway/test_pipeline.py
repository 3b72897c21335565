"""The walk: stages in their order, an answer ends it, an optimisation that fails or dawdles is undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from trimtab.compression.policy import CompressionPolicy
from trimtab.gateway.catalogue import Catalogue
from trimtab.gateway.config import Config
from trimtab.gateway.pipeline import WALK_SECONDS, Pipeline, patience
from trimtab.gateway.stages import Stages
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


class Kept:
    """An answer that was recalled; nobody reads it here."""

    target = "m"
    usage = None

    async def whole(self) -> Answer | None:
        return Answer(b"{}")

    async def stream(self) -> AsyncIterator[bytes] | None:
        return None


async def nothing(exchange: Exchange) -> None:
    exchange.note("nothing", "did nothing")


async def edit(exchange: Exchange) -> None:
    exchange.working = exchange.working.with_fields(temperature=0)
    exchange.draft = "a draft"
    exchange.note("edit", "edited")


async def answer(exchange: Exchange) -> None:
    exchange.recalled = Kept()


async def spoil_and_fail(exchange: Exchange) -> None:
    exchange.working = exchange.working.with_fields(model="wrong")
    exchange.targets = ()
    exchange.draft = "spoilt"
    exchange.recalled = Kept()
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
    assert made.recalled is not None
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
    assert made.recalled is None


async def test_a_stage_that_dawdles_is_undone_and_the_rest_left_out() -> None:
    made = exchange()
    stages = [Step("edit", edit), Step("slow", spoil_and_dawdle), Step("nothing", nothing)]
    await Pipeline(Step("admit", nothing), stages, seconds=0.05).walk(made)
    assert story(made)[-2:] == [("slow", "undone"), ("nothing", "left out")]
    assert made.working.model == "m"
    assert b"temperature" in made.working.encode()


async def test_a_stage_may_wait_and_use_timers_of_its_own() -> None:
    async def wait(made: Exchange) -> None:
        for _ in range(3):
            await asyncio.sleep(0.001)
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        except TimeoutError:
            made.note("wait", "waited")

    made = exchange()
    await Pipeline(Step("admit", nothing), [Step("wait", wait), Step("edit", edit)], seconds=30).walk(made)
    assert story(made)[-2:] == [("wait", "waited"), ("edit", "edited")]


async def test_a_stage_that_fails_after_it_waited_is_undone() -> None:
    async def fail(made: Exchange) -> None:
        made.targets = ()
        await asyncio.sleep(0)
        raise ZeroDivisionError("a bug")

    made = exchange()
    await Pipeline(Step("admit", nothing), [Step("bad", fail), Step("edit", edit)]).walk(made)
    assert story(made)[-2:] == [("bad", "undone"), ("edit", "edited")]
    assert [target.name for target in made.targets] == ["m"]


async def test_whoever_cancels_the_walk_cancels_the_stage() -> None:
    ended: list[str] = []

    async def dawdle(_: Exchange) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("stage")

    task = asyncio.ensure_future(Pipeline(Step("admit", nothing), [Step("slow", dawdle)]).walk(exchange()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["stage"]


def test_models_get_the_time_that_a_tenant_gave_them() -> None:
    def policy(**sections: object) -> CompressionPolicy:
        return CompressionPolicy.model_validate(sections)

    usual = patience(policy())
    assert usual == WALK_SECONDS + 0.03
    assert patience(policy(context={"enabled": True, "deadline_ms": 700.0})) == usual + 0.7
    assert patience(policy(prose={"enabled": True})) == usual + 2.0
    assert patience(policy(turns={"summarise": True})) == usual, "turns are not switched on"
    assert patience(policy(turns={"enabled": True, "summarise": True})) > usual + 5


async def test_admit_fails_closed() -> None:
    async def refuse(_: Exchange) -> None:
        raise Forbidden("no")

    made = exchange()
    with pytest.raises(Forbidden):
        await Pipeline(Step("admit", refuse), [Step("edit", edit)]).walk(made)
    assert story(made) == []


async def test_what_does_nothing_says_so() -> None:
    made = exchange()
    stages = Stages(lambda: Catalogue(()))
    config = Config.model_validate({"models": {"m": {"backend": "fake"}}}, context={"environ": {}})
    await Pipeline(Step("admit", nothing), stages.optimisations(stages.pruning(config))).walk(made)
    await stages.close()
    assert story(made)[1:] == [
        ("recall", "bypass"),
        ("prune", "off"),
        ("compress", "left alone"),
        ("plan", "left alone"),
        ("route", "off"),
    ]
    assert made.working.encode() == REQUEST.body
