"""Bytes that two HTTP readers could understand differently, that never end, or that are not what they say.

T8 to T11 of the threat model: smuggling, slow clients, oversized bodies, JSON bombs. Whatever comes, the answer is a
4xx in OpenAI's JSON or a closed connection, in bounded time and memory, and the gateway goes on serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from typing import Any

import pytest
from harness import KEY, Serve, over

from trimtab.backends.fake_server import FakeServer

POST = b"POST /v1/chat/completions HTTP/1.1\r\n"
AUTH = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
HIDDEN = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n"


def rss() -> int:
    """Bytes of memory this process (test, gateway and upstream) has in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


async def answers(wire: Any) -> None:
    assert (await wire.once(wire.post(wire.ask()))).status == 200


REFUSED = {
    "both lengths": POST + b"Host: a\r\n" + AUTH + b"Content-Length: %d\r\n" % len(HIDDEN)
    + b"Transfer-Encoding: chunked\r\n\r\n" + HIDDEN,
    "both lengths, the other way round": POST + b"Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
    + HIDDEN,
    "two lengths": POST + b"Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n123456",
    "a list of lengths": POST + b"Host: a\r\nContent-Length: 5, 6\r\n\r\n123456",
    "a signed length": POST + b"Host: a\r\nContent-Length: +5\r\n\r\n12345",
    "a length of no number": POST + b"Host: a\r\nContent-Length: 0x5\r\n\r\n12345",
    "an unknown encoding": POST + b"Host: a\r\nTransfer-Encoding: xchunked\r\n\r\n" + HIDDEN,
    "two encodings": POST + b"Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + HIDDEN,
    "an encoding hidden by a tab": POST + b"Host: a\r\nTransfer-Encoding:\tchunked, identity\r\n\r\n" + HIDDEN,
    "an encoding with a space before its colon": POST + b"Host: a\r\nTransfer-Encoding : chunked\r\n\r\n" + HIDDEN,
    "two hosts": b"GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET /metrics HTTP/1.1\r\n\r\n",
    "a host that is a path": b"GET /metrics HTTP/1.1\r\nHost: a/admin?x\r\n\r\n",
    "a host with a user": b"GET /metrics HTTP/1.1\r\nHost: user@a\r\n\r\n",
    "an empty host": b"GET /metrics HTTP/1.1\r\nHost:\r\n\r\n",
    "a bare LF": b"GET /metrics HTTP/1.1\nHost: a\n\n",
    "a bare LF among the headers": b"GET /metrics HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    "a folded header": b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n  folded\r\n\r\n",
    "a NUL in a header": b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-A: 1\x002\r\n\r\n",
    "a bare CR in a header": b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-A: 1\rHost: b\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a bad version": b"GET / HTTP/9.7\r\nHost: a\r\n\r\n",
    "a bad chunk size": POST + b"Host: a\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "a chunk longer than its size": POST + b"Host: a\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\n"
    b"1\r\n{}}}\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": POST + b"Host: a\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\n"
    b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_what_two_readers_could_read_differently_is_a_400_and_the_end(wire: Any, name: str) -> None:
    async with wire.line() as line:
        await line.send(REFUSED[name])
        reply = await line.reply()
        assert reply.status == 400
        assert reply.headers["connection"] == "close"
        assert reply.json["error"]["type"] == "invalid_request_error"
        assert await line.ended() == b"", "a second answer is the smuggled request's"
    await answers(wire)


@pytest.mark.parametrize("at", range(1, 40))
async def test_a_bare_lf_is_seen_wherever_the_packets_are_cut(wire: Any, at: int) -> None:
    data = b"GET /metrics HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"[: max(at + 1, 36)]
    async with wire.line() as line:
        await line.send(data[:at])
        await asyncio.sleep(0.005)
        await line.send(data[at:] + b"z: 1\r\n\r\n")
        assert (await line.reply()).status == 400
        await line.ended()


async def test_a_bare_lf_in_the_second_of_two_requests_in_one_packet_is_seen(wire: Any) -> None:
    async with wire.line() as line:
        await line.send(wire.post(wire.ask()) + b"GET /metrics HTTP/1.1\r\nHost: a\nX: y\r\n\r\n")
        seen = await line.ended()
    assert b"trimtab_in_flight" not in seen


async def test_huge_heads_are_refused(wire: Any) -> None:
    for headers, status in ((b"X: " + b"a" * 200_000, 431), (b"\r\n".join(b"X-%d: 1" % i for i in range(200)), 400)):
        async with wire.line() as line:
            await line.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n\r\n")
            # The refusal may be lost when we are still sending; the connection is closed all the same.
            with contextlib.suppress(ConnectionError):
                assert (await line.reply()).status == status
            await line.ended()
    async with wire.line() as line:
        await line.send(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        await line.ended()
    await answers(wire)


async def _drip(line: Any, first: bytes) -> None:
    while True:
        await line.send(b"\r\n" if first == b"\r\n" else b"x" if first else b"")
        await asyncio.sleep(0.1)


@pytest.mark.usefixtures("short_deadlines")
@pytest.mark.parametrize("first", [b"", b"\r\n", b"POST /v1/chat"])
async def test_a_head_that_drips_in_is_cut_off(wire: Any, first: bytes) -> None:
    """uvicorn alone waits for ever: a byte a second was still connected after 12 s."""
    async with wire.line() as line:
        began = time.monotonic()
        await line.send(first)
        drip = asyncio.ensure_future(_drip(line, first))
        try:
            await line.ended(4)
        finally:
            drip.cancel()
        assert time.monotonic() - began > 0.4
    await answers(wire)


@pytest.mark.usefixtures("short_deadlines")
async def test_empty_lines_between_requests_do_not_keep_a_connection(wire: Any) -> None:
    async with wire.line() as line:
        await line.send(wire.post(wire.ask()))
        assert (await line.reply()).status == 200
        await line.send(b"\r\n")
        await line.ended()


@pytest.mark.usefixtures("short_deadlines")
async def test_a_body_that_drips_in_is_a_408(wire: Any) -> None:
    async with wire.line() as line:
        await line.send(wire.post(b"", b"/v1/chat/completions", b"Content-Length: 1000"))
        reply = await line.reply()
        assert reply.status == 408
        assert reply.json["error"]["code"] == "request_timeout"
        await line.ended()
    assert wire.running.gateway.in_flight == 0
    await answers(wire)


@pytest.mark.usefixtures("short_deadlines")
async def test_no_second_answer_follows_a_401_whose_body_never_came(wire: Any) -> None:
    async with wire.line() as line:
        await line.send(wire.post(b"", b"/v1/chat/completions", b"Content-Length: 1000", key="wrong"))
        assert (await line.reply()).status == 401
        assert await line.ended() == b""


async def test_a_long_answer_is_no_slow_request(
    serve: Serve, upstream: FakeServer, short_deadlines: None, to_wire: Any
) -> None:
    upstream.use({"accept_s": 1.5})
    async with serve(over(upstream)) as running:
        assert (await to_wire(running).once(wire_post(to_wire(running)))).status == 200


def wire_post(wire: Any) -> bytes:
    data: bytes = wire.post(wire.ask())
    return data


async def test_a_chunked_body_beyond_the_limit_is_a_413_in_bounded_memory(
    serve: Serve, upstream: FakeServer, to_wire: Any
) -> None:
    async with serve({**over(upstream), "server": {"max_body_mb": 1}}) as running:
        wire = to_wire(running)
        before = rss()
        chunk = b"%x\r\n" % (1 << 20) + b"x" * (1 << 20) + b"\r\n"
        async with wire.line() as line:
            await line.send(wire.post(b"", b"/v1/chat/completions", b"Transfer-Encoding: chunked"))
            sent = 0
            for _ in range(200):
                await line.send(chunk)
                sent += 1
                if line.reader._buffer:  # type: ignore[attr-defined]
                    break
            reply = await line.reply()
            assert reply.status == 413
            assert reply.json["error"]["code"] == "request_too_large"
            assert sent < 200, "the answer comes while the body is being sent"
        assert rss() - before < 16 << 20
        lie = wire.post(b"{}", b"/v1/chat/completions", b"Content-Length: 99999999999")
        assert (await wire.once(lie)).status == 413
    assert not upstream.seen


async def test_a_length_that_promises_more_than_comes_is_no_request(wire: Any, upstream: FakeServer) -> None:
    async with wire.line() as line:
        await line.send(wire.post(wire.ask(), b"/v1/chat/completions", b"Content-Length: 1000"))
        line.writer.write_eof()
        await line.ended()
    assert not upstream.seen
    assert wire.running.gateway.in_flight == 0


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"gzip, identity"])
async def test_a_compressed_body_is_a_415(wire: Any, encoding: bytes) -> None:
    reply = await wire.once(
        wire.post(gzip.compress(wire.ask()), b"/v1/chat/completions", b"Content-Encoding: " + encoding)
    )
    assert reply.status == 415
    assert reply.json["error"]["code"] == "unsupported_media_type"


async def test_expect_100_continue(wire: Any) -> None:
    body = wire.ask()
    head = wire.post(b"", b"/v1/chat/completions", b"Expect: 100-continue", b"Content-Length: %d" % len(body))
    async with wire.line() as line:
        await line.send(head)
        assert (await line.reply()).status == 100
        await line.send(body)
        assert (await line.reply()).status == 200


async def test_a_client_told_401_before_its_body_cannot_have_its_next_request_taken_for_that_body(wire: Any) -> None:
    head = wire.post(b"", b"/v1/chat/completions", b"Expect: 100-continue", b"Content-Length: 50", key="wrong")
    async with wire.line() as line:
        await line.send(head)
        reply = await line.reply()
        assert reply.status == 401
        assert reply.headers["connection"] == "close"
        await line.ended()


async def test_pipelined_requests_get_their_own_answers_in_order(wire: Any, upstream: FakeServer) -> None:
    upstream.use({"echo": True, "accept_s": 0.05})
    asks = [wire.post(wire.ask(user=f"number-{i}")) for i in range(4)]
    async with wire.line() as line:
        await line.send(b"".join(asks))
        for i in range(4):
            reply = await line.reply()
            assert reply.status == 200
            assert f"number-{i}" in reply.json["choices"][0]["message"]["content"]


@pytest.mark.usefixtures("short_deadlines")
async def test_a_pipelined_request_that_waits_for_its_turn_does_not_break_the_answer_before_it(
    wire: Any, upstream: FakeServer
) -> None:
    """Its deadline ran while the connection was not being read, and its 408 landed in the middle of a stream."""
    upstream.use({"tokens": 20, "between_s": 0.1})
    async with wire.line() as line:
        await line.send(wire.post(wire.ask(stream=True)) + wire.post(wire.ask())[:-5])
        reply = await line.reply(10)
    assert reply.status == 200
    assert b"408" not in reply.text
    assert reply.text.endswith(b"[DONE]\n\n")


async def test_a_client_that_shuts_its_side_has_left(wire: Any, upstream: FakeServer) -> None:
    """Half-closed is gone, as it is for nginx: an upstream works for nobody otherwise."""
    upstream.use({"accept_s": 5})
    async with wire.line() as line:
        await line.send(wire.post(wire.ask()))
        await asyncio.sleep(0.1)
        line.writer.write_eof()
        assert await line.ended(2) == b""
    await upstream.idle(2)
    await wire.running.settled()
    assert (await wire.running.gateway.ledger.totals("acme")).requests == 1


KNOWN = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/responses"]


@pytest.mark.parametrize(
    "path", [*KNOWN, "/v1/models", "/v1/models/m", "/health", "/health/readiness", "/metrics", "/"]
)
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "GET", "PATCH"])
async def test_methods(wire: Any, path: str, method: str) -> None:
    data = f"{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    reply = await wire.once(data, head_only=method == "HEAD")
    if path not in KNOWN and method in ("GET", "HEAD"):
        assert reply.status == 200
        return
    assert reply.status == 405
    allowed = {"POST"} if path in KNOWN else {"GET", "HEAD"}
    assert {name.strip() for name in reply.headers["allow"].split(",")} == allowed
    if method != "HEAD":
        assert reply.json["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    ["/nope", "/v1", "/v1/chat", "//v1/chat/completions", "/v1//chat/completions", "/v1/chat/completions/",
     "/../metrics", "/v1/../metrics", "/%6detrics/..", "/v1/chat%2fcompletions%00", "/v1/%2e%2e/metrics",
     "/admin", "/v1/receipts"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_paths_that_are_not_there_are_a_404_in_json(wire: Any, path: str, method: str) -> None:
    data = f"{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 0\r\n\r\n".encode()
    reply = await wire.once(data)
    assert reply.status == 404
    assert reply.json["error"]["code"] == "not_found"


async def test_an_absolute_target_is_the_same_path_whatever_its_host(wire: Any) -> None:
    data = b"GET http://elsewhere/health/liveliness HTTP/1.1\r\nHost: a\r\n\r\n"
    assert (await wire.once(data)).status == 200


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
async def test_an_upgrade_is_not_taken_up_and_the_request_is_answered(wire: Any, upgrade: bytes) -> None:
    more = (b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: AAMAAABkAAQAAP__", b"Upgrade: " + upgrade)
    reply = await wire.once(wire.post(wire.ask(), b"/v1/chat/completions", *more))
    assert reply.status == 200
    get = b"GET /health/liveliness HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n" % upgrade
    assert (await wire.once(get)).status == 200


async def test_connect_is_no_proxy(wire: Any) -> None:
    async with wire.line() as line:
        await line.send(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        assert (await line.reply()).status in (400, 404, 405)


DEEP = 200_000
BOMBS: dict[str, bytes] = {
    "empty": b"",
    "spaces": b"   ",
    "an array": b"[1]",
    "a string": b'"x"',
    "null": b"null",
    "cut off": b'{"model": "m", "messages": [',
    "two objects": b'{"model": "m"}{"model": "m"}',
    "deep array": b'{"model":"m","messages":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep object": b'{"model":"m","messages":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep, not closed": b"[" * DEEP,
    "deep in an unknown field": b'{"model":"m","messages":[],"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep user": b'{"model":"m","messages":[],"user":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "NaN": b'{"model":"m","messages":[],"temperature":NaN}',
    "Infinity": b'{"model":"m","messages":[],"temperature":-Infinity}',
    "n of 5,000 digits": b'{"model":"m","messages":[],"n":' + b"9" * 5000 + b"}",
    "max_tokens of 5,000 digits": b'{"model":"m","messages":[],"max_tokens":' + b"9" * 5000 + b"}",
    "n beyond 64 bits": b'{"model":"m","messages":[],"n":99999999999999999999}',
    "n of 1e400": b'{"model":"m","messages":[],"n":1e400}',
    "n negative": b'{"model":"m","messages":[],"n":-1}',
    "n a string": b'{"model":"m","messages":[],"n":"1"}',
    "model twice": b'{"model":"m","messages":[],"model":"m"}',
    "model twice, once escaped": b'{"model":"m","messages":[],"mod\\u0065l":"m"}',
    "stream twice": b'{"model":"m","messages":[],"stream":false,"stream":true}',
    "max_tokens twice": b'{"model":"m","messages":[],"max_tokens":1,"max_tokens":100000}',
    "max_tokens twice, both escaped": b'{"model":"m","messages":[],"max\\u005ftokens":1,"max_t\\u006fkens":100000}',
    "max_tokens twice, escaped in capitals": b'{"model":"m","messages":[],"max_tokens":1,"m\\u0061x_tokens":100000}',
    "max_tokens twice, one spelt out": b'{"model":"m","messages":[],"max_tokens":1,"m\\u0061x_tokens":9}',
    "n twice with a bomb between": b'{"model":"m","n":1,"x":' + b"9" * 5000 + b',"n":2,"messages":[]}',
    "a lone surrogate as model": b'{"model":"\\ud800","messages":[]}',
    "invalid UTF-8 as model": b'{"model":"\xff\xfe","messages":[]}',
    "invalid UTF-8 in a key": b'{"model":"m","\xff":1}',
    "UTF-16": '{"model":"m","messages":[]}'.encode("utf-16"),
    "no model": b'{"messages":[]}',
    "model a number": b'{"model":1,"messages":[]}',
    "model of a megabyte": b'{"model":"' + b"m" * (1 << 20) + b'","messages":[]}',
    "stream a word": b'{"model":"m","messages":[],"stream":"yes"}',
    "a control character in a string": b'{"model":"m\n","messages":[]}',
    "a million keys": b"{" + b",".join(b'"k%d":0' % i for i in range(200_000)) + b"}",
}  # fmt: skip


def bombs_for(path: str) -> list[str]:
    """Embeddings have no `n`, the mapped protocols other names for what an answer may cost."""
    unread = {"/v1/embeddings": ("n ",), "/v1/messages": ("n ", "max_tokens "), "/v1/responses": ("n ", "max_tokens ")}
    return [name for name in BOMBS if not name.startswith(unread.get(path, ()))]


@pytest.mark.parametrize("path", KNOWN)
async def test_json_bombs_are_a_4xx_within_a_second(wire: Any, path: str) -> None:
    wrong = {}
    for name in bombs_for(path):
        began = time.monotonic()
        reply = await wire.once(wire.post(BOMBS[name], path.encode()))
        took = time.monotonic() - began
        if not 400 <= reply.status < 500 or "error" not in reply.json or len(reply.text) > 2000 or took > 1:
            wrong[name] = reply.status, reply.text[:200], took
    assert not wrong


@pytest.mark.parametrize(
    "content",
    [b'"\\ud800"', b'"\xff\xfe\xfa"', b"[" * 900 + b"]" * 900, b'[{"type":"text","text":1e999}]', b'"\\u0000"'],
)
@pytest.mark.parametrize("path", KNOWN)
async def test_odd_content_is_the_upstreams_to_judge_and_never_a_500(wire: Any, content: bytes, path: str) -> None:
    body = b'{"model":"m","max_tokens":5,"input":%s,"prompt":%s,"messages":[{"role":"user","content":%s}]}'
    reply = await wire.once(wire.post(body % (content, content, content), path.encode()))
    assert reply.status == 200 or 400 <= reply.status < 500


async def test_a_message_of_five_megabytes_passes(wire: Any, upstream: FakeServer) -> None:
    upstream.use({"prompt_tokens": 1})
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "word " * (1 << 20)}]}).encode()
    reply = await wire.once(wire.post(body), 15)
    assert reply.status == 200
    assert upstream.seen[-1].header("content-length") == str(len(body))
