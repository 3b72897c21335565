"""The fake as a server: what really goes over the wire, read with raw sockets and a plain HTTP client."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from trimtab.backends.fake_server import FakeServer, main

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def request(body: dict[str, Any], path: str = "/v1/chat/completions", extra: str = "") -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{extra}Content-Length: {len(data)}\r\n\r\n".encode() + data


async def raw(server: FakeServer, *sent: bytes, until_close: bool = True) -> bytes:
    """What comes back on a socket of our own, up to its end (or a quiet 100 ms)."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    got = b""
    try:
        for part in sent:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        while True:
            try:
                data = await asyncio.wait_for(reader.read(1 << 16), None if until_close else 0.1)
            except (TimeoutError, ConnectionResetError):
                break
            if not data:
                break
            got += data
    finally:
        writer.close()
    return got


async def post(client: aiohttp.ClientSession, server: FakeServer, **fields: Any) -> tuple[int, bytes]:
    async with client.post(server.url + "/chat/completions", json={**CHAT, **fields}) as response:
        return response.status, await response.read()


async def test_it_answers_under_any_prefix_and_lists_its_models(server, client):
    server.use({"models": {"big": {}}})
    async with client.get(server.url + "/models") as response:
        assert [m["id"] for m in (await response.json())["data"]] == ["fake", "big"]
    async with client.post(f"http://127.0.0.1:{server.port}/api/v3/chat/completions", json=CHAT) as response:
        assert response.status == 200
    async with client.get(server.url + "/nothing") as response:
        assert response.status == 404
    async with client.post(server.url + "/chat/completions", data=b"{") as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_it_keeps_what_came_to_the_byte(server):
    body = b'{"model":"fake",  "messages":[], "x":1.50}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-Odd:  Value \r\nContent-Length: %d\r\n\r\n" % len(body)
    await raw(server, head + body, until_close=False)
    assert server.seen[0].head == head
    assert server.seen[0].body == body
    assert server.seen[0].header("x-odd") == "Value"


async def test_requests_in_pieces_chunked_and_one_after_the_other(server):
    whole = request(CHAT)
    data = json.dumps(CHAT).encode()
    chunked = b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"5\r\n" + data[:5] + b"\r\n%x\r\n" % (len(data) - 5) + data[5:] + b"\r\n0\r\n\r\n"
    got = await raw(server, whole[:10], whole[10:60], whole[60:] + chunked, until_close=False)
    assert got.count(b"HTTP/1.1 200 OK") == 2
    assert server.seen[0].body == server.seen[1].body == data


async def test_nonsense_is_a_400_and_the_end(server):
    assert (await raw(server, b"\x00\x01 nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")


async def test_a_key_is_asked_for_if_the_script_has_one(server, client):
    server.use({"key": "sk-right"})
    assert (await post(client, server))[0] == 401
    async with client.post(
        server.url + "/chat/completions", json=CHAT, headers={"authorization": "Bearer sk-right"}
    ) as response:
        assert response.status == 200


async def test_tokens_sent_are_counted_when_they_are_sent(server, client):
    server.use({"tokens": 8, "prompt_tokens": 3, "between_s": 0.02})
    async with client.post(server.url + "/chat/completions", json={**CHAT, "stream": True}) as response:
        got = b""
        while got.count(b'"content":"') < 4:  # the opening chunk's is empty
            got += await response.content.readany()
        now = server.records[0].usage
    assert now.completion in (3, 4)
    assert now.prompt == 3
    await server.idle()
    assert server.records[0].outcome == "aborted"


@pytest.mark.parametrize("leave", ["close", "half_close", "reset"])
@pytest.mark.parametrize("script", [{"faults": {"hang_after": 1}}, {"faults": {"silent": True}}, {"first_byte_s": 9.0}])
async def test_a_client_that_leaves_is_noticed_at_once(server, leave, script):
    server.use(script)
    _, writer = await asyncio.open_connection(server.host, server.port)
    writer.write(request({**CHAT, "stream": True}))
    while not server.counts.open:
        await asyncio.sleep(0.002)
    left = server.clock()
    if leave == "half_close":
        writer.write_eof()
    elif leave == "close":
        writer.close()
    else:
        writer.transport.abort()
    await server.idle(1)
    assert server.counts.aborted == 1
    gone = server.seen[0].gone_at
    assert gone is not None
    assert 0 <= gone - left < 0.5
    writer.close()


@pytest.mark.parametrize("wire", ["close_mid_chunk", "rst", "length_long"])
@pytest.mark.parametrize("streaming", [False, True])
async def test_a_broken_answer_is_an_error_to_an_http_client(server, client, wire, streaming):
    server.use({"faults": {"wire": wire}})
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await post(client, server, stream=streaming)
    await server.idle()
    assert server.counts.failed == 1


@pytest.mark.parametrize("wire", ["close_mid_chunk", "rst", "bad_chunk"])
@pytest.mark.parametrize("streaming", [False, True])
async def test_a_broken_answer_has_no_end(server, wire, streaming):
    server.use({"faults": {"wire": wire}})
    got = await raw(server, request({**CHAT, "stream": streaming}))
    assert got.startswith(b"HTTP/1.1 200 OK")
    assert not got.endswith(b"0\r\n\r\n")
    assert (b"\r\nzz\r\n" in got) == (wire == "bad_chunk")
    assert server.counts.failed == 1


async def test_a_stream_before_a_reset_arrives(server):
    server.use({"faults": {"wire": "rst", "wire_after": 3}})
    assert (await raw(server, request({**CHAT, "stream": True}))).count(b"data: ") == 3


async def test_a_length_too_short_leaves_bytes_behind(server):
    server.use({"faults": {"wire": "length_short"}})
    head, _, rest = (await raw(server, request(CHAT))).partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(rest) > length


@pytest.mark.parametrize("wire", ["gzip", "drip", "close_delimited"])
@pytest.mark.parametrize("streaming", [False, True])
async def test_legal_oddities_change_no_answer(server, client, wire, streaming):
    usual = await post(client, server, stream=streaming, model="fake-n3")
    server.use({"faults": {"wire": wire}})
    got = await post(client, server, stream=streaming, model="fake-n3")
    await server.idle()
    assert got[1].replace(b"fake2", b"fake1") == usual[1]
    assert server.counts.completed == 2
    if wire == "close_delimited":
        bytes_of = await raw(server, request({**CHAT, "stream": streaming}))
        assert b"transfer-encoding" not in bytes_of
        assert b"content-length" not in bytes_of


async def test_a_web_page_and_an_error_in_a_stream(server, client):
    server.use({"faults": {"wire": "html"}})
    async with client.post(server.url + "/chat/completions", json=CHAT) as response:
        assert (response.status, response.content_type) == (200, "text/html")
    server.use({"faults": {"wire": "sse_error", "status": 503, "retry_after": 2}})
    async with client.post(server.url + "/chat/completions", json=CHAT) as response:
        assert (response.status, response.content_type) == (503, "text/event-stream")
        assert response.headers["retry-after"] == "2"
        assert (await response.read()).startswith(b"data: {")


async def test_an_event_of_ten_megabytes(server, client):
    server.use({"huge_bytes": 10 << 20, "faults": {"garble": ["huge_line"]}})
    _, body = await post(client, server, stream=True)
    assert max(map(len, body.split(b"\n\n"))) > 10 << 20


async def test_a_client_that_does_not_read_holds_the_answer_back(server):
    server.use({"text": ["x" * 1000] * 50_000})
    reader, writer = await asyncio.open_connection(server.host, server.port, limit=1 << 10)
    writer.write(request({**CHAT, "stream": True}))
    await reader.read(10)
    await asyncio.sleep(0.3)
    sent = server.records[0].usage.completion
    assert 0 < sent < 50_000  # what the sockets' buffers take, and no more
    writer.transport.abort()
    await server.idle()


async def test_the_figures_can_be_asked_for(server, client):
    await post(client, server, model="fake-n3-p5")
    async with client.get(server.url + "/stats") as response:
        stats = await response.json()
    assert stats == {
        "calls": 1,
        "streams": 0,
        "open": 0,
        "completed": 1,
        "aborted": 0,
        "failed": 0,
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "connections": 1,
    }
    async with client.get(server.url + "/requests") as response:
        shown = (await response.json())[0]
    assert json.loads(shown["body"])["model"] == "fake-n3-p5"
    assert shown["call"]["outcome"] == "completed"


async def test_leaving_the_server_ends_what_it_was_doing():
    async with FakeServer({"faults": {"silent": True}}) as server:
        _, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(request(CHAT))
        while not server.counts.open:
            await asyncio.sleep(0.002)
    assert server.counts.open == 0
    assert server.connections == 0
    writer.close()


def test_as_a_command(tmp_path):
    script = tmp_path / "script.yaml"
    script.write_text("text: from a file\nprompt_tokens: 4\n")
    command = [sys.executable, "-m", "trimtab.backends.fake_server", "--port", "0", "--script", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        asked = urllib.request.Request(url + "/chat/completions", data=json.dumps(CHAT).encode())
        with urllib.request.urlopen(asked) as response:
            assert json.load(response)["choices"][0]["message"]["content"] == "from a file"
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


@pytest.mark.parametrize("text", ["txet: a", "- a list", "a: [", "faults: {garble: [x]}"])
def test_a_script_that_is_none_is_refused_with_its_reason(text, tmp_path, capsys):
    script = tmp_path / "script.yaml"
    script.write_text(text)
    assert main(["--script", str(script)]) == 2
    assert capsys.readouterr().err
