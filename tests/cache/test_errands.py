"""Work beside requests: no more than a few at once, all of it ended on closing, and no failure that is not counted."""

from __future__ import annotations

import asyncio
import logging

import pytest

from trimtab.cache.errands import MOST, Errands
from trimtab.protocol.errors import Overloaded

LOG = logging.getLogger("trimtab.tests")


async def test_more_than_a_few_are_let_go_and_their_place_is_given_again() -> None:
    errands, free, done = Errands("it", LOG), asyncio.Event(), []

    async def work(number: int) -> None:
        await free.wait()
        done.append(number)

    for number in range(MOST + 3):
        errands.begin(work(number))
    assert errands.busy
    assert errands.counts == {"let go": 3}
    free.set()
    await errands.idle()
    assert sorted(done) == list(range(MOST))
    assert not errands.busy
    errands.begin(work(99))
    await errands.idle()
    assert done[-1] == 99


@pytest.mark.parametrize(("error", "level"), [(Overloaded("full"), "INFO"), (ValueError("odd"), "ERROR")])
async def test_what_fails_is_counted_and_told(error: Exception, level: str, caplog: pytest.LogCaptureFixture) -> None:
    errands = Errands("an errand", LOG)

    async def work() -> None:
        raise error

    with caplog.at_level("INFO", LOG.name):
        errands.begin(work())
        await errands.idle()
    assert errands.counts == {"failed": 1}
    assert [(record.levelname, record.getMessage()[:16]) for record in caplog.records] == [(level, "an errand failed")]


async def test_closing_ends_what_runs() -> None:
    errands, ended = Errands("it", LOG), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    errands.begin(work())
    await asyncio.sleep(0)
    await errands.close()
    assert ended == [True]
    assert errands.counts == {}
