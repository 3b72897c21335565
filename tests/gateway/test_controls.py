"""Headers that tighten a request: read leniently, and never able to loosen anything."""

from __future__ import annotations

import time
from urllib.parse import quote

import aiohttp
import pytest
from harness import KEY, Serve, over
from hypothesis import given
from hypothesis import strategies as st

from trimtab.backends.fake_server import FakeServer
from trimtab.gateway.controls import Controls, read_controls, read_field
from trimtab.protocol.errors import InvalidRequest
from trimtab.protocol.messages import Request


def test_both_spellings_are_read() -> None:
    for prefix in (b"x-litellm-", b"x-trimtab-"):
        headers = [
            (prefix + b"tags", b"a, b ,,c"),
            (prefix + b"end-user-id", b"u1"),
            (prefix + b"timeout", b"2.5"),
            (prefix + b"stream-timeout", b"1"),
            (prefix + b"num-retries", b"0"),
        ]
        assert read_controls(headers) == Controls(("a", "b", "c"), "u1", 2.5, 1.0, 0)


@given(st.lists(st.tuples(st.sampled_from([b"timeout", b"tags", b"num-retries", b"end-user-id"]), st.binary())))
def test_nonsense_is_ignored_and_bounded(headers: list[tuple[bytes, bytes]]) -> None:
    controls = read_controls([(b"x-litellm-" + name, value) for name, value in headers])
    assert len(controls.tags) <= 16
    assert all(len(tag) <= 200 for tag in controls.tags)
    assert controls.timeout is None or 0 <= controls.timeout < 86_400


async def test_a_caller_may_be_less_patient(serve: Serve, upstream: FakeServer) -> None:
    upstream.use({"accept_s": 30})
    async with serve(over(upstream)) as running, aiohttp.ClientSession() as session:
        body = {"model": "m", "messages": []}
        for header, name in (("x-litellm-timeout", "total"), ("x-litellm-stream-timeout", "first_token")):
            began = time.monotonic()
            async with session.post(
                f"{running.base_url}/chat/completions",
                json={**body, "stream": name == "first_token"},
                headers={"authorization": f"Bearer {KEY}", header: "0.2"},
            ) as response:
                assert response.status == 504
                assert name in (await response.json())["error"]["message"]
            assert time.monotonic() - began < 10


@pytest.mark.parametrize(("header", "calls"), [(None, 3), ("0", 1), ("1", 2), ("99", 3), ("nonsense", 3)])
async def test_a_caller_may_want_fewer_retries_and_never_more(
    serve: Serve, upstream: FakeServer, header: str | None, calls: int
) -> None:
    upstream.use({"faults": {"status": 500}})
    async with serve(over(upstream, retries={"attempts": 3})) as running, aiohttp.ClientSession() as session:
        headers = {"authorization": f"Bearer {KEY}", **({"x-litellm-num-retries": header} if header else {})}
        async with session.post(
            f"{running.base_url}/chat/completions", json={"model": "m", "messages": []}, headers=headers
        ) as response:
            assert response.status == 500
    assert upstream.counts.calls == calls


async def test_tags_and_the_end_user_are_on_the_receipt(serve: Serve, upstream: FakeServer) -> None:
    async with serve(over(upstream)) as running, aiohttp.ClientSession() as session:
        headers = {"authorization": f"Bearer {KEY}", "x-litellm-tags": "batch,night", "x-litellm-end-user-id": "u7"}
        async with session.post(
            f"{running.base_url}/chat/completions", json={"model": "m", "messages": []}, headers=headers
        ) as response:
            request_id = response.headers["x-request-id"]
        receipt = await running.gateway.ledger.find(request_id)
    assert receipt is not None
    assert receipt.tags == ["batch", "night"]
    assert receipt.end_user == "u7"


def posted(field: object, **more: object) -> Request:
    return Request.build("chat", {"model": "m", "messages": [], "trimtab": field, **more})


def test_our_field_is_read_and_gone() -> None:
    said = {"query": "who?", "compress": False, "keep": ["§ 7", "Bonn"]}
    clean, read = read_field(posted(said, temperature=0))
    assert read == said
    assert clean.encode() == b'{"model":"m","messages":[],"temperature":0}'


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("off", "trimtab"),
        ([], "trimtab"),
        ({"query": 7}, "trimtab.query"),
        ({"query": " "}, "trimtab.query"),
        ({"query": "x" * 20_001}, "trimtab.query"),
        ({"compress": "no"}, "trimtab.compress"),
        ({"keep": "x"}, "trimtab.keep"),
        ({"keep": [""]}, "trimtab.keep"),
        ({"keep": ["x"] * 65}, "trimtab.keep"),
        ({"quary": "x"}, "trimtab.quary"),
    ],
)
def test_what_is_wrong_with_our_field_is_said(field: object, param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_field(posted(field))
    assert refused.value.param == param
    assert param in refused.value.message


@pytest.mark.parametrize(
    ("value", "query"),
    [
        (b"plain words", "plain words"),
        (quote("wo liegt Köln? 東京").encode(), "wo liegt Köln? 東京"),
        ("Köln".encode(), "Köln"),
        ("Köln".encode("latin-1"), "Köln"),
        (b"50% of it", "50% of it"),
        (b"  ", None),
    ],
)
def test_a_query_in_a_header(value: bytes, query: str | None) -> None:
    assert read_controls([(b"x-trimtab-query", value)]).query == query


@pytest.mark.parametrize(
    ("value", "on"), [(b"off", False), (b"False", False), (b"0", False), (b"on", True), (b"", True)]
)
def test_compression_can_be_switched_off_in_a_header(value: bytes, on: bool) -> None:
    assert read_controls([(b"x-trimtab-compress", value)]).compress is on


@pytest.mark.parametrize(("path", "ask"), [
    ("chat/completions", {"messages": []}),
    ("completions", {"prompt": "x"}),
    ("embeddings", {"input": "x"}),
    ("messages", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}),
    ("responses", {"input": "x"}),
])  # fmt: skip
async def test_no_upstream_sees_our_field(
    serve: Serve, upstream: FakeServer, path: str, ask: dict[str, object]
) -> None:
    async with serve(over(upstream)) as running, aiohttp.ClientSession() as session:
        body = {"model": "m", **ask, "trimtab": {"query": "secret-query"}}
        headers = {"authorization": f"Bearer {KEY}"}
        async with session.post(f"{running.base_url}/{path}", json=body, headers=headers) as response:
            assert response.status == 200
        wrong = {**body, "trimtab": {"compress": "perhaps"}}
        async with session.post(f"{running.base_url}/{path}", json=wrong, headers=headers) as response:
            assert response.status == 400
            assert "trimtab.compress" in (await response.json())["error"]["message"]
    (seen,) = upstream.seen
    assert b"trimtab" not in seen.body
    assert b"secret-query" not in seen.head
