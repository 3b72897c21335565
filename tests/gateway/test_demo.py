"""`trimtab demo` against a running gateway: four requests, their receipts, and a failure that is told."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from harness import KEY, Serve, over

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.commands import demo


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


async def test_it_shows_each_request_and_its_receipt(
    serve: Serve, upstream: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.use({"text": '{"name": "plum"}', "prompt_tokens": 7})
    async with serve(over(upstream)) as running:
        assert await asyncio.to_thread(demo.run, running.base_url, KEY, "m") == 0
        await running.settled()
        with closing(sqlite3.connect(running.gateway.ledger.path)) as db:
            ids = [row[0] for row in db.execute("SELECT id FROM receipts")]
    said = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in said.splitlines() if line.startswith("│")}
    assert len(rows) == 4
    assert all(cells[0].strip() == "m" for cells in rows.values())
    assert [cell.strip() for cell in rows["chat"][1:3]] == ["7", "2"]
    assert [cell.strip() for cell in rows["the first one again"][1:3]] == ["0", "0"]
    assert "the first one again: recall: hit" in said
    assert len(ids) == 4
    assert all(f"receipt {one}" in said for one in ids)
    assert max(map(len, said.splitlines()[-10:-4])) <= 80


async def test_a_request_that_fails_ends_it(
    serve: Serve, upstream: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream.use({"faults": {"status": 400}})
    async with serve(over(upstream)) as running:
        assert await asyncio.to_thread(demo.run, running.url, KEY, "m") == 1
    assert "chat failed" in capsys.readouterr().out
