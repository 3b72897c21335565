"""What a tenant holds, what it deletes, and what becomes of an answer that somebody called wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import openai
import pytest
from harness import KEY, OTHER_KEY, Running, Serve, over
from hypothesis import given
from hypothesis import strategies as st
from valkeys import Valkey

from trimtab.backends.fake_server import FakeServer
from trimtab.cache.policy import CachePolicy
from trimtab.cache.store import Selection
from trimtab.gateway.cache_endpoint import said, selections
from trimtab.gateway.metrics import Metrics
from trimtab.protocol.errors import InvalidRequest, StoreUnavailable
from trimtab.protocol.exchange import Tenant


@pytest.fixture
async def running(serve: Serve, upstream: FakeServer) -> AsyncIterator[Running]:
    async with serve(over(upstream, "m")) as running:
        yield running


class Desk:
    """A tenant with a client."""

    def __init__(self, session: aiohttp.ClientSession, at: Running, key: str = KEY) -> None:
        self._session = session
        self._at = at
        self._head = {"authorization": f"Bearer {key}"}

    async def send(self, method: str, path: str, **how: Any) -> tuple[int, Any]:
        url = f"{self._at.base_url}/{path}"
        async with self._session.request(method, url, headers=self._head, **how) as response:
            return response.status, await response.json()

    async def ask(self, text: str, **fields: Any) -> Any:
        """The answer's headers."""
        tags = str(fields.pop("tags", ""))
        body = {"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        url, headers = f"{self._at.base_url}/chat/completions", {**self._head, "x-trimtab-tags": tags}
        async with self._session.post(url, json=body, headers=headers) as response:
            await response.read()
            assert response.status == 200
            return response.headers

    async def told(self, text: str, **fields: Any) -> str:
        """What the cache did."""
        return str((await self.ask(text, **fields))["x-trimtab-cache"])

    async def held(self) -> Any:
        status, body = await self.send("GET", "cache")
        assert status == 200
        return body

    async def delete(self, **params: str) -> int:
        status, body = await self.send("DELETE", "cache", params=params)
        assert (status, body["object"]) == (200, "trimtab.cache.deleted")
        return int(body["deleted"])

    async def say(self, request_id: str, verdict: str = "wrong", **more: Any) -> tuple[int, Any]:
        return await self.send("POST", "feedback", json={"request_id": request_id, "verdict": verdict, **more})


@pytest.fixture
def acme(session: aiohttp.ClientSession, running: Running) -> Desk:
    return Desk(session, running)


@pytest.fixture
def zenith(session: aiohttp.ClientSession, running: Running) -> Desk:
    return Desk(session, running, OTHER_KEY)


# What is held.


async def test_a_tenant_sees_what_it_holds_and_nobody_elses(acme: Desk, zenith: Desk) -> None:
    assert (await acme.held())["entries"] == 0
    for question in ("one", "two", "two"):
        await acme.ask(question)
    held = await acme.held()
    assert (held["object"], held["tenant"], held["entries"]) == ("trimtab.cache", "acme", 2)
    assert 1_000 < held["bytes"] < held["limit_bytes"] == 64 << 20
    assert held["store"] == {"healthy": True, "reason": None}, "and no count of what other tenants do"
    assert (await zenith.held())["entries"] == 0


async def test_without_a_key_there_is_nothing_to_see_or_delete(
    running: Running, session: aiohttp.ClientSession
) -> None:
    stranger = Desk(session, running, "tt-nobody")
    for method, path in (("GET", "cache"), ("DELETE", "cache?all=true"), ("POST", "feedback")):
        assert (await stranger.send(method, path))[0] == 401


async def test_other_methods_are_told_which_there_are(running: Running, session: aiohttp.ClientSession) -> None:
    async with session.put(f"{running.base_url}/cache") as response:
        assert response.status == 405
        assert {"GET", "DELETE"} <= set(response.headers["allow"].split(", "))


# Deleting.


@pytest.mark.parametrize("select", ["id", "tag", "namespace"])
@pytest.mark.parametrize("by", ["params", "json"])
async def test_each_selection_deletes_its_own_and_no_other(acme: Desk, zenith: Desk, select: str, by: str) -> None:
    marked: dict[str, Any] = {"tags": "red, blue", "cache": {"namespace": "shelf"}}
    for desk in (acme, zenith):
        await desk.ask("plain", tags="green")
        await desk.ask("marked", **marked)
    id = (await acme.ask("marked", **marked))["x-trimtab-cache-id"]
    wanted = {"id": id, "tag": "red", "namespace": "shelf"}[select]
    how: dict[str, Any] = {by: {select: wanted}}
    assert await zenith.send("DELETE", "cache", json={"id": id}) == (
        200,
        {"object": "trimtab.cache.deleted", "deleted": 0},
    )
    assert (await acme.send("DELETE", "cache", **how))[1]["deleted"] == 1
    assert await acme.told("plain") == "hit"
    assert await acme.told("marked", **marked) == "miss"
    assert [await zenith.told("plain"), await zenith.told("marked", **marked)] == ["hit", "hit"]
    assert (await acme.send("DELETE", "cache", **how))[1]["deleted"] == 1, "the new one"
    assert (await acme.send("DELETE", "cache", **how))[1]["deleted"] == 0


async def test_everything_of_one_tenant(acme: Desk, zenith: Desk) -> None:
    for desk in (acme, zenith):
        for question in ("one", "two"):
            await desk.ask(question, cache={"namespace": question})
    assert await acme.delete(all="true") == 2
    assert (await acme.held())["entries"] == 0
    assert (await zenith.held())["entries"] == 2


async def test_several_conditions_must_all_be_met(acme: Desk) -> None:
    await acme.ask("one", tags="red")
    await acme.ask("two", tags="red", cache={"namespace": "shelf"})
    assert await acme.delete(tag="red", namespace="none") == 0
    assert await acme.delete(tag="red", namespace="shelf") == 1
    assert await acme.told("one") == "hit"


async def test_by_source(acme: Desk, running: Running) -> None:
    import msgspec

    await acme.ask("rests on a document")
    store: Any = running.gateway.cache.store
    [slot] = store._slots.values()
    store.put(msgspec.structs.replace(slot.entry, sources=("d1",)), 1 << 20)
    assert await acme.delete(source="d2") == 0
    assert await acme.delete(source="d1") == 1


@pytest.mark.parametrize(
    ("query", "body", "complaint"),
    [
        ("", None, "say what to delete"),
        ("", "{}", "say what to delete"),
        ("?all=false", None, "say what to delete"),
        ("?all=yes", None, "'all' must be"),
        ("?all=true&tag=x", None, "'all' leaves nothing"),
        ("?tga=x&all=true", None, "'tga' is no selection; did you mean 'tag'"),
        ("?tenant=zenith", None, "'tenant' is no selection"),
        ("?tag=", None, "'tag' must be a text"),
        ("?tag=a&tag=b", None, "'tag' is given twice"),
        ("?tag=a", '{"tag": "b"}', "'tag' is given twice"),
        ("?tag=%ff", None, "cannot be read"),
        ("", '{"id": null}', "'id' must be a text"),
        ("", '{"all": 1}', "'all' must be"),
        ("", '["all"]', "not a JSON object"),
        ("", "{", "not a JSON object"),
    ],
)
async def test_what_is_not_clear_deletes_nothing(acme: Desk, query: str, body: str | None, complaint: str) -> None:
    await acme.ask("kept", tags="a, b, x")
    status, told = await acme.send("DELETE", f"cache{query}", data=body)
    assert status == 400
    assert complaint in told["error"]["message"]
    assert (await acme.held())["entries"] == 1


async def test_a_body_without_end_is_not_read(acme: Desk) -> None:
    assert (await acme.send("DELETE", "cache", data=b" " * 100_000))[0] == 413


async def test_a_public_namespace_is_deleted_by_name_and_by_those_who_declared_it(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    config = over(upstream, "m")
    config["tenants"]["acme"]["policy"] = {"cache": {"public": ["faq"]}}
    async with serve(config) as running:
        acme, zenith = Desk(session, running), Desk(session, running, OTHER_KEY)
        shared = {"cache": {"namespace": "faq"}}
        await acme.ask("one", **shared)
        await zenith.ask("one", **shared)
        assert await acme.delete(all="true") == 0
        assert await zenith.delete(namespace="faq") == 1, "its own of that name"
        assert await acme.told("one", **shared) == "hit"
        assert await acme.delete(namespace="faq") == 1
        assert await acme.told("one", **shared) == "miss"


class Away:
    """A store that does not answer."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.healthy = False
        self.reason = "it does not answer"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def delete(self, what: Selection) -> int:
        raise StoreUnavailable("the cache's store does not answer")


async def test_a_store_that_is_away_is_no_deletion_and_no_verdict(
    acme: Desk, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await acme.ask("one")
    request_id = (await acme.ask("one"))["x-request-id"]
    cache = running.gateway.cache
    store = cache.store
    object.__setattr__(cache, "store", Away(store))
    status, told = await acme.send("DELETE", "cache?all=true")
    assert (status, told["error"]["code"]) == (503, "store_unavailable")
    held = await acme.held()
    assert held["entries"] is held["bytes"] is None
    assert held["store"] == {"healthy": False, "reason": "it does not answer"}
    assert (await acme.say(request_id))[0] == 503
    object.__setattr__(cache, "store", store)
    status, told = await acme.say(request_id)
    assert (status, told["counted"]) == (200, True), "it was not taken for said"


@given(
    st.dictionaries(st.sampled_from(["id", "tag", "source", "namespace", "all"]), st.text(max_size=3) | st.booleans())
)
def test_no_selection_reaches_another_owner(wanted: dict[str, Any]) -> None:
    tenant = Tenant("acme", policies={CachePolicy: CachePolicy(public=frozenset({"a"}))})
    try:
        found = selections(tenant, wanted)
    except InvalidRequest:
        return
    assert [one.owner for one in found] == ["acme", ""][: len(found)]
    for one in found:
        limits = {name: getattr(one, name) for name in ("id", "tag", "source", "namespace")}
        assert {name: value for name, value in limits.items() if value is not None} == {
            name: value for name, value in wanted.items() if name != "all"
        }
        assert one.owner or one.namespace == "a"


def test_a_query_and_a_body_are_one() -> None:
    assert said(b"tag=a%20b", b'{"namespace": "n"}') == {"tag": "a b", "namespace": "n"}


# Feedback.


async def test_a_wrong_answer_is_given_to_nobody_any_more(acme: Desk, zenith: Desk, upstream: FakeServer) -> None:
    for desk in (acme, zenith):
        await desk.ask("one")
    got = await acme.ask("one")
    status, told = await acme.say(got["x-request-id"], comment="No, it is 8,849 m.")
    assert status == 200
    assert told == {
        "object": "trimtab.feedback",
        "request_id": got["x-request-id"],
        "verdict": "wrong",
        "entry": got["x-trimtab-cache-id"],
        "counted": True,
    }
    upstream.use({"text": "another"})
    assert [await acme.told("one"), await acme.told("one")] == ["miss", "hit"]
    assert await zenith.told("one") == "hit"


async def test_the_same_verdict_counts_once(acme: Desk, running: Running) -> None:
    await acme.ask("one")
    request_id = (await acme.ask("one"))["x-request-id"]
    first = await asyncio.gather(*(acme.say(request_id) for _ in range(3)))
    assert sorted(told["counted"] for _, told in first) == [False, False, True]
    assert await acme.told("one") == "miss"
    assert (await acme.say(request_id))[1]["counted"] is False
    assert await acme.told("one") == "hit", "the new answer is not deleted for the old one's sake"
    metrics = running.gateway.render_metrics().decode()
    assert 'trimtab_cache_verdicts_total{tenant="acme",verdict="wrong"} 1.0' in metrics


async def test_a_right_answer_stays(acme: Desk) -> None:
    await acme.ask("one")
    request_id = (await acme.ask("one"))["x-request-id"]
    assert (await acme.say(request_id, "right"))[0] == 200
    assert await acme.told("one") == "hit"


async def test_a_complaint_needs_an_answer_of_ones_own_from_the_cache(acme: Desk, zenith: Desk) -> None:
    first = await acme.ask("one")
    bypassed = await acme.ask("one", cache={"no-cache": True})
    hit = await acme.ask("one")
    for got in (first, bypassed):
        status, told = await acme.say(got["x-request-id"])
        assert (status, told["error"]["code"]) == (409, "conflict")
    assert (await zenith.say(hit["x-request-id"]))[0] == 404
    assert (await acme.say("req_0"))[0] == 404
    assert await acme.told("one") == "hit"


async def test_a_shared_answer_that_never_came_is_none_of_the_caches(
    acme: Desk, upstream: FakeServer, running: Running
) -> None:
    upstream.use({"accept_s": 0.1, "text": "sound", "faults": {"status": 500, "first": 1}})
    url, body = f"{running.base_url}/chat/completions", {"model": "m", "temperature": 0}
    failing = asyncio.ensure_future(
        acme._session.post(url, json={**body, "messages": [{"role": "user", "content": "one"}]}, headers=acme._head)
    )
    await asyncio.sleep(0.03)
    got = await acme.ask("one")
    (await failing).close()
    assert (await acme.say(got["x-request-id"]))[0] == 409


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "request_id"),
        ({"request_id": 7, "verdict": "wrong"}, "request_id"),
        ({"request_id": "x" * 101, "verdict": "wrong"}, "request_id"),
        ({"request_id": "r"}, "verdict"),
        ({"request_id": "r", "verdict": "bad"}, "verdict"),
        ({"request_id": "r", "verdict": ["wrong"]}, "verdict"),
        ({"request_id": "r", "verdict": "wrong", "comment": "x" * 1001}, "comment"),
        ({"request_id": "r", "verdict": "wrong", "comment": 1}, "comment"),
        ({"request_id": "r", "verdict": "wrong", "tenant": "zenith"}, "tenant"),
    ],
)
async def test_feedback_that_makes_no_sense(acme: Desk, body: Any, param: str) -> None:
    status, told = await acme.send("POST", "feedback", json=body)
    assert (status, told["error"]["param"]) == (400, param)


async def test_a_comment_is_logged_without_line_breaks_or_keys(acme: Desk, caplog: pytest.LogCaptureFixture) -> None:
    await acme.ask("one")
    request_id = (await acme.ask("one"))["x-request-id"]
    with caplog.at_level("INFO", "trimtab.feedback"):
        await acme.say(request_id, comment="no\nINFO sk-0123456789abcdef")
    [record] = [record for record in caplog.records if record.name == "trimtab.feedback"]
    assert record.getMessage().endswith("was wrong: 'no\\nINFO [redacted]'")


async def test_a_public_answer_may_be_called_wrong_by_those_who_declared_it(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession
) -> None:
    config = over(upstream, "m")
    for tenant in ("acme", "zenith"):
        config["tenants"][tenant]["policy"] = {"cache": {"public": ["faq"]}}
    async with serve(config) as running:
        acme, zenith = Desk(session, running), Desk(session, running, OTHER_KEY)
        shared = {"cache": {"namespace": "faq"}}
        await acme.ask("one", **shared)
        got = await zenith.ask("one", **shared)
        assert got["x-trimtab-cache"] == "hit"
        assert (await zenith.say(got["x-request-id"]))[0] == 200
        assert await acme.told("one", **shared) == "miss"


async def test_with_openais_client(acme: Desk, running: Running) -> None:
    """As the documentation shows it."""
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=KEY, max_retries=0) as client:
        ask: Any = {"model": "m", "messages": [{"role": "user", "content": "one"}], "temperature": 0}
        raw = client.chat.completions.with_raw_response
        await raw.create(**ask, extra_body={"cache": {"ttl": 60}})
        got = await raw.create(**ask)
        assert got.headers["x-trimtab-cache"] == "hit"
        wrong = {"request_id": got.headers["x-request-id"], "verdict": "wrong"}
        told = await client.post("/feedback", cast_to=dict[str, Any], body=wrong)
        assert told["counted"] is True
        gone = await client.delete("/cache", cast_to=dict[str, Any], options={"params": {"all": "true"}})
        assert gone["deleted"] == 0


# Metrics.


async def test_metrics_show_the_store_and_what_it_holds(
    acme: Desk, running: Running, session: aiohttp.ClientSession
) -> None:
    await acme.ask("one")
    await acme.delete(all="true")
    await acme.ask("two")
    running.gateway.cache.store.counts["of another version"] += 2
    async with session.get(f"{running.url}/metrics") as response:
        text = await response.text()
    assert "trimtab_cache_store_up 1.0" in text
    assert 'trimtab_cache_entries{tenant="acme"} 1.0' in text
    assert 'trimtab_cache_entries{tenant="zenith"} 0.0' in text
    assert 'trimtab_cache_store_events_total{event="deleted"} 1.0' in text
    assert 'trimtab_cache_store_events_total{event="other"} 2.0' in text


def test_a_stores_counts_are_counted_once() -> None:
    metrics = Metrics()
    for count in (1, 3, 3):
        metrics.stored({"errors": count})
    assert 'trimtab_cache_store_events_total{event="errors"} 3.0' in metrics.render().decode()


# A store that replicas share.


async def test_over_a_real_store_and_without_it(
    serve: Serve, upstream: FakeServer, session: aiohttp.ClientSession, own_valkey: Valkey
) -> None:
    config = over(upstream, "m")
    config["store"] = {"redis": own_valkey.url, "secret": "for-the-tests-only"}
    async with serve(config) as running:
        acme, zenith = Desk(session, running), Desk(session, running, OTHER_KEY)
        for desk in (acme, zenith):
            await desk.ask("one", tags="red", cache={"namespace": "shelf"})
            await desk.ask("two", cache={"ttl": 60})
        await until(lambda: hit(acme, "two"))
        assert (await acme.held())["entries"] == 2
        assert await acme.delete(tag="red", namespace="shelf") == 1
        request_id = (await acme.ask("two"))["x-request-id"]
        assert (await acme.say(request_id))[1]["counted"] is True
        assert await acme.told("two") == "miss"
        await until(lambda: hit(acme, "two"))
        assert await acme.delete(all="true") == 1
        assert (await zenith.held())["entries"] == 2
        request_id = (await zenith.ask("two"))["x-request-id"]
        own_valkey.kill()
        status, told = await zenith.send("DELETE", "cache?all=true")
        assert (status, told["error"]["code"]) == (503, "store_unavailable")
        assert (await zenith.held())["entries"] is None
        assert (await zenith.say(request_id))[0] == 503


async def hit(desk: Desk, text: str) -> bool:
    return await desk.told(text) == "hit"


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """What is written to a shared store is there a moment later."""
    async with asyncio.timeout(5):
        while not await holds():
            await asyncio.sleep(0.01)
