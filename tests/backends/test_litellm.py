"""The litellm backend: what needs no litellm (versions, allowed fields, errors), then litellm itself where it is."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from trimtab.backends.base import Stream
from trimtab.backends.fake_server import FakeServer
from trimtab.backends.litellm import LiteLLMBackend, UnsafeLitellm, check_version
from trimtab.backends.litellm_errors import scrub, translate
from trimtab.backends.litellm_wire import arguments
from trimtab.backends.registry import MissingExtra
from trimtab.protocol.errors import InvalidRequest, UpstreamAnswered, UpstreamCut, UpstreamGarbled, UpstreamRefusedKey
from trimtab.protocol.messages import Request

needs_litellm = [
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None, reason="litellm is not installed (pip install 'trimtab[litellm]')"
    ),
    pytest.mark.filterwarnings("ignore:Item .* is using the `ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Accessing the .* attribute on the instance is deprecated:DeprecationWarning"),
]


def litellm(test: Any) -> Any:
    for mark in needs_litellm:
        test = mark(test)
    return test


# ---- versions, from the package's metadata alone


def install(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A litellm of that version whose import would be the end of the test."""
    (folder / "litellm").mkdir()
    (folder / "litellm/__init__.py").write_text("raise SystemExit('a refused litellm was imported')\n")
    info = folder / f"litellm-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: litellm\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8", "1.83.6", "1.40.0", "0.9.1", "1.82.8.post1", "nonsense"])
def test_an_unsafe_version_is_refused_before_it_is_imported(version, tmp_path, monkeypatch):
    install(tmp_path, version, monkeypatch)
    loaded = set(sys.modules)
    with pytest.raises(UnsafeLitellm, match=version.split(".post")[0]):
        LiteLLMBackend("openai/x")
    assert "litellm" not in set(sys.modules) - loaded


@pytest.mark.parametrize("version", ["1.83.7", "1.106.2", "1.106.2.dev3", "2.0.0"])
def test_a_safe_version_is_not_imported_either_until_it_is_used(version, tmp_path, monkeypatch):
    install(tmp_path, version, monkeypatch)
    assert not LiteLLMBackend("openai/x").ready()


def test_the_stealer_is_named_as_what_it_was():
    with pytest.raises(UnsafeLitellm, match="credential stealer"):
        check_version("1.82.8")


def test_an_absent_litellm_names_the_cure(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingExtra, match=r"pip install 'trimtab\[litellm\]'"):
        LiteLLMBackend("openai/x")


# ---- what a client may set


def chat(**fields: Any) -> Request:
    return Request.build("chat", {"model": "m", "messages": [], **fields})


DANGEROUS = {
    "api_base": "http://evil.example",
    "base_url": "http://evil.example",
    "api_key": "sk-mine",
    "custom_llm_provider": "openai",
    "extra_headers": {"authorization": "x"},
    "mock_response": "free",
    "fallbacks": ["gpt-4"],
    "num_retries": 9,
    "aws_bedrock_runtime_endpoint": "http://evil.example",
    "vertex_credentials": "{}",
    "model_list": [],
    "callbacks": ["x"],
}


@pytest.mark.parametrize("name", DANGEROUS)
def test_no_client_sets_litellms_own_arguments(name):
    request = chat(**{name: DANGEROUS[name]})
    sent = arguments(request, compatible=True)
    assert name not in sent
    assert sent["extra_body"] == {name: DANGEROUS[name]}  # in the body, where it chooses nothing
    with pytest.raises(InvalidRequest, match=name):
        arguments(request, compatible=False)


def test_fields_of_openai_become_arguments_and_the_rest_goes_in_the_body():
    request = chat(temperature=0.5, seed=7, tools=[{"type": "function"}], vendor=1, metadata={"a": "b"}, logprobs=None)
    assert arguments(request, compatible=True) == {
        "messages": [],
        "temperature": 0.5,
        "seed": 7,
        "tools": [{"type": "function"}],
        "extra_body": {"vendor": 1, "metadata": {"a": "b"}},
    }


def test_another_provider_gets_the_end_user_of_metadata_and_nothing_else():
    assert arguments(chat(metadata={"user_id": "u", "tag": "t"}, top_k=3), compatible=False) == {
        "messages": [],
        "metadata": {"user_id": "u"},
        "top_k": 3,
    }
    assert arguments(chat(metadata={"tag": "t"}), compatible=False) == {"messages": []}


@pytest.mark.parametrize("compatible", [True, False])
def test_half_a_surrogate_pair_is_a_character_that_any_encoder_takes(compatible):
    body = rb'{"model":"m","messages":[{"role":"user","content":"cut \ud83d"}],"metadata":{"user_id":"\ude00"}}'
    sent = arguments(Request.parse("chat", body), compatible=compatible)
    assert sent["messages"][0]["content"] == "cut \ufffd"
    json.dumps(sent, ensure_ascii=False).encode()
    with pytest.raises(InvalidRequest) as error:
        arguments(Request.parse("chat", rb'{"model":"m","messages":[],"x\ud83d":1}'), compatible=compatible)
    error.value.message.encode()


def test_tools_that_make_the_gateway_call_somebody_are_refused():
    with pytest.raises(InvalidRequest, match="mcp"):
        arguments(chat(tools=[{"type": "mcp", "server_url": "litellm_proxy"}]), compatible=True)


# ---- errors


class ProviderError(Exception):
    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code


def test_what_a_provider_says_is_passed_on_without_our_secrets():
    said = '{"error": {"message": "bad key my-secret-key for sk-ant-12345678"}}'
    raised = ProviderError(f"litellm.BadRequestError: AnthropicException - {said}", 400)
    error = translate(raised, ["my-secret-key"], 5)
    assert isinstance(error, UpstreamAnswered)
    assert json.loads(error.body)["error"] == {
        "message": "bad key *** for sk-***",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def test_a_broken_connection_is_a_cut_once_the_stream_is_open():
    wrapped = ProviderError("Connection error.", 500)
    wrapped.__cause__ = ConnectionResetError("127.0.0.1:1234")
    assert isinstance(translate(wrapped, [], 5, streaming=True), UpstreamCut)
    assert "127" not in translate(wrapped, [], 5).message


@pytest.mark.parametrize("status", [None, 200, 700, "503"])
def test_an_error_without_a_status_is_garbled_and_shows_nothing(status):
    error = translate(ProviderError("secret innards", status), [], 5)  # type: ignore[arg-type]
    assert isinstance(error, UpstreamGarbled)
    assert "innards" not in error.message


def test_a_refused_key_is_told_by_status_alone():
    error = translate(ProviderError("Incorrect API key provided: sk-abcdefgh", 401), [], 5)
    assert isinstance(error, UpstreamRefusedKey)
    assert "sk-" not in error.message


def test_scrub_knows_keys_by_their_look():
    assert scrub("Bearer abcdefghij and sk-proj_12345678", []) == "Bearer *** and sk-***"


# ---- litellm itself, against a provider that does not speak OpenAI's API

USAGE = {"input_tokens": 11, "output_tokens": 1, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 0}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x"}
STREAM: list[dict[str, Any]] = [
    {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None, "usage": USAGE}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
    {"type": "message_stop"},
]
SECRET = "sk-ant-secret-0123456789"


@dataclass
class Anthropic:
    """As much of Anthropic's API as one model needs. `cut` ends a stream after so many events."""

    url: str = ""
    cut: int | None = None
    status: int = 200
    got: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.got.append(await request.json())
        self.keys.append(request.headers.get("x-api-key"))
        if self.status != 200:
            said = {"type": "rate_limit_error", "message": f"slow down, {SECRET}"}
            return web.json_response({"type": "error", "error": said}, status=self.status, headers={"retry-after": "3"})
        if not self.got[-1].get("stream"):
            content = [{"type": "text", "text": "Hello"}]
            usage = {**USAGE, "output_tokens": 2}
            return web.json_response({**MESSAGE, "content": content, "stop_reason": "end_turn", "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in STREAM[: self.cut]:
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return response


@asynccontextmanager
async def anthropic() -> AsyncIterator[tuple[Anthropic, LiteLLMBackend]]:
    provider = Anthropic()
    app = web.Application()
    app.router.add_post("/v1/messages", provider.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    backend = LiteLLMBackend("anthropic/claude-sonnet-4-5", api_key=SECRET, api_base=f"http://{host}:{port}")
    await backend.start()
    try:
        yield provider, backend
    finally:
        await backend.close()
        await runner.cleanup()


@litellm
async def test_another_provider_answers_in_openais_shape(call):
    async with anthropic() as (provider, backend):
        answer = await backend.complete(call(user="bob", stop=["x"]))
    body = json.loads(answer.body)
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt, answer.usage.cached, answer.usage.completion) == (16, 5, 2)
    assert "cost" not in body["usage"]
    assert provider.keys == [SECRET]
    assert provider.got[0]["metadata"] == {"user_id": "bob"}
    assert SECRET not in answer.body.decode()


@litellm
async def test_another_providers_stream_in_openais_shape(call, events):
    async with anthropic() as (_, backend):
        stream = await backend.stream(call(stream=True))
        chunks = events(b"".join([piece async for piece in stream]))
        await stream.aclose()
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks[:-2]) == "Hello"
    assert chunks[-3]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["prompt_tokens_details"]["cached_tokens"] == 5
    assert "cost" not in chunks[-2]["usage"]
    assert chunks[-1] == "[DONE]"


async def read_into(pieces: list[bytes], stream: Stream) -> None:
    async for piece in stream:
        pieces.append(piece)


@litellm
@pytest.mark.parametrize("cut", [3, 4, 5])
async def test_another_providers_cut_stream_is_no_clean_stop(call, cut):
    async with anthropic() as (provider, backend):
        provider.cut = cut
        stream = await backend.stream(call(stream=True))
        pieces: list[bytes] = []
        with pytest.raises(UpstreamCut):
            await read_into(pieces, stream)
        await stream.aclose()
        got = b"".join(pieces)
    assert b"Hel" in got
    assert b'"finish_reason":"' not in got
    assert b"DONE" not in got


@litellm
async def test_another_providers_error_keeps_its_words_and_not_our_key(call):
    async with anthropic() as (provider, backend):
        provider.status = 429
        with pytest.raises(UpstreamAnswered) as caught:
            await backend.complete(call())
    assert caught.value.http_status == 429
    assert caught.value.retry_after == 3
    assert json.loads(caught.value.body)["error"]["message"].startswith("slow down, ")
    assert SECRET.encode() not in caught.value.body
    assert len(provider.got) == 1  # litellm's own retries are off


@litellm
async def test_what_a_provider_cannot_do_is_the_clients_error(call):
    async with anthropic() as (provider, backend):
        with pytest.raises(InvalidRequest, match="logprobs") as caught:
            await backend.complete(call(logprobs=True))
        assert "drop_params" not in caught.value.message
        assert provider.got == []


@litellm
async def test_it_asks_once_and_sends_our_key_only_to_the_configured_host(call):
    async with FakeServer({"faults": {"status": 503}}) as configured, FakeServer() as other:
        backend = LiteLLMBackend("openai/fake", api_key=SECRET, api_base=configured.url)
        await backend.start()
        with pytest.raises(UpstreamAnswered):
            await backend.complete(call(api_base=other.url, base_url=other.url, num_retries=5))
        await backend.close()
        assert configured.counts.calls == 1
        assert other.counts.calls == 0
        assert configured.seen[0].header("authorization") == f"Bearer {SECRET}"


@litellm
async def test_two_backends_share_the_library_and_one_may_leave(call):
    async with FakeServer() as server:
        first = LiteLLMBackend("openai/a", api_key=SECRET, api_base=server.url)
        second = LiteLLMBackend("openai/b", api_key=SECRET, api_base=server.url)
        for backend in (first, second):
            await backend.start()
        await asyncio.gather(first.complete(call()), second.complete(call()))
        await first.close()
        answer = await second.complete(call())
        await second.close()
    assert json.loads(answer.body)["model"] == "b"


@litellm
async def test_nothing_of_litellms_own_is_left_on(call):
    async with anthropic() as (_, backend):
        await backend.complete(call())
        library = sys.modules["litellm"]
        assert library.telemetry is False
        assert library.cache is None
        assert library.drop_params is False
        assert library.user_url_validation is True
        for name in ("callbacks", "success_callback", "failure_callback"):
            assert getattr(library, name) == []
