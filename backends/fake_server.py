"""The scripted fake as a real upstream: an OpenAI-compatible HTTP server on loopback that can fail on the wire.

Run it with `python -m trimtab.backends.fake_server --port 0 --script FILE` (YAML or JSON; its URL is the first line it
prints), or hold it in a test with `async with FakeServer(script) as upstream`. It answers chat/completions,
completions, embeddings and models under any prefix, keeps the raw requests it got, and says at GET /stats what it
sent, to the token. What an answer holds is `backends/fake_reply.py`'s, how it travels `backends/fake_wire.py`'s.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..protocol.errors import NotFound, TrimtabError, to_wire
from ..protocol.messages import PATHS, Kind, Request
from .fake_reply import CREATED, Reply, error_body
from .fake_request import Raw
from .fake_script import Script, read_script
from .fake_sse import Piece, pieces
from .fake_tally import CallRecord, Counts, Tally
from .fake_wire import Connection, Response

_KEPT_BODY = 1 << 20


class Seen(msgspec.Struct):
    """One request as it came, at most a megabyte of its body, and how its answer ended. Times are the server's clock's.

    `gone_at` is when the server noticed that the client had left before the answer's end.
    """

    method: str
    path: str
    headers: list[tuple[str, str]]
    head: bytes
    body: bytes
    at: float
    call: CallRecord | None = None
    gone_at: float | None = None

    def header(self, name: str) -> str | None:
        """The first header of that lower-case name."""
        return next((value for key, value in self.headers if key.lower() == name), None)


class FakeServer:
    """A scripted upstream on `host`; `port` 0 takes a free one. `script` may be set anew at any time.

    `keep` bounds the requests and the call records that are held. Raises ValueError for an unknown script field.
    """

    def __init__(
        self,
        script: Mapping[str, Any] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        keep: int = 2_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.script: Script = read_script(script or {})
        self.host = host
        self.port = port
        self.seen: deque[Seen] = deque(maxlen=keep)
        self.clock = clock
        self._tally = Tally(keep)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The base URL, version included, as an OpenAI client wants it."""
        return f"http://{self.host}:{self.port}/v1"

    @property
    def counts(self) -> Counts:
        return self._tally.counts

    @property
    def records(self) -> deque[CallRecord]:
        return self._tally.records

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._connections)

    def use(self, script: Mapping[str, Any]) -> None:
        """Answer by another script from the next request on."""
        self.script = read_script(script)

    async def __aenter__(self) -> FakeServer:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._answer, self._connections), self.host, self.port, backlog=2048
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*(connection.shut() for connection in list(self._connections)))
        if self._server is not None:
            await self._server.wait_closed()

    async def idle(self, seconds: float = 5.0) -> None:
        """Wait until no answer is under way. Raises TimeoutError after so many seconds."""
        async with asyncio.timeout(seconds):
            while self.counts.open:  # noqa: ASYNC110 (there is no one to set an event for a test's convenience)
                await asyncio.sleep(0.002)

    async def _answer(self, raw: Raw, response: Response) -> None:
        seen = Seen(raw.method, raw.path, raw.headers, raw.head, raw.body[:_KEPT_BODY], self.clock())
        path = raw.path.split("?", 1)[0]
        kind: Kind | None = next((kind for kind in PATHS if path.endswith(PATHS[kind])), None)
        try:
            if raw.method == "POST" and kind is not None:
                self.seen.append(seen)
                await self._call(Request.parse(kind, raw.body), seen, response)
            else:
                await response.whole(200, self._page(raw.method, path))
        except TrimtabError as e:
            await response.whole(e.http_status, to_wire(e))

    def _page(self, method: str, path: str) -> bytes:
        if method == "GET" and path.endswith("/models"):
            models = [
                {"id": name, "object": "model", "created": CREATED, "owned_by": "trimtab"} for name in self._names()
            ]
            return msgspec.json.encode({"object": "list", "data": models})
        if method == "GET" and path.endswith("/stats"):
            return msgspec.json.encode({**msgspec.to_builtins(self.counts), "connections": self.connections})
        if method == "GET" and path.endswith("/requests"):
            return msgspec.json.encode([self._shown(seen) for seen in self.seen])
        raise NotFound(f"the fake upstream has no {method} {path}")

    def _names(self) -> list[str]:
        return ["fake", *self.script.models]

    @staticmethod
    def _shown(seen: Seen) -> dict[str, Any]:
        shown: dict[str, Any] = msgspec.to_builtins(seen)
        return {**shown, "head": seen.head.decode("latin-1"), "body": seen.body.decode(errors="replace")}

    async def _call(self, request: Request, seen: Seen, response: Response) -> None:
        name = seen.header("x-request-id") or ""
        record = self._tally.opened(request.kind, name, "", request.model, request.stream)
        seen.call = record
        try:
            script = self.script.for_call(record.model, record.number)
            complete = await self._respond(script, request, record, seen, response)
            self._tally.closed(record, "completed" if complete else "failed")
        except asyncio.CancelledError:
            # The connection is gone; whoever cancelled us for another reason ends the server, and the count with it.
            seen.gone_at = self.clock()
            self._tally.closed(record, "aborted")
            raise
        except BaseException:
            self._tally.closed(record, "failed")
            raise

    async def _respond(
        self, script: Script, request: Request, record: CallRecord, seen: Seen, response: Response
    ) -> bool:
        """Send the answer. False when the script made it fail."""
        faults = script.faults
        if faults.refuse:
            response.reset()
            return False
        await asyncio.sleep(script.accept_s)
        if faults.silent:
            await asyncio.Event().wait()
        if script.key is not None and seen.header("authorization") != f"Bearer {script.key}":
            await response.whole(401, error_body(faults, 401))
            return False
        if faults.status is not None or faults.wire in ("html", "sse_error"):
            await self._refuse(script, response)
            return False
        reply = Reply(script, request, record.number)
        headers = {"x-request-id": f"req_fake{record.number}", **script.headers}
        self._tally.spend(record, reply.usage(0, 0))

        def sent(piece: Piece) -> None:
            used = record.usage
            usage = reply.usage(used.completion + piece.tokens, used.reasoning + piece.reasoning)
            self._tally.spend(record, usage)

        if request.stream and request.kind != "embeddings":
            return await response.stream(pieces(reply), script, headers, sent)
        whole = reply.usage()
        return await response.plain(reply.plain(), (whole.completion, whole.reasoning), script, headers, sent)

    async def _refuse(self, script: Script, response: Response) -> None:
        faults = script.faults
        if faults.wire == "html":
            await response.whole(200, b"<!doctype html><title>Welcome</title><p>A web page.", kind="text/html")
            return
        status = faults.status or 500
        body = error_body(faults, status)
        extra = {} if faults.retry_after is None else {"retry-after": f"{faults.retry_after:g}"}
        if faults.wire == "sse_error":
            await response.whole(status, b"data: " + body + b"\n\n", kind="text/event-stream", headers=extra)
        else:
            await response.whole(status, body, headers=extra)


async def _serve(script: Mapping[str, Any], host: str, port: int) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    async with FakeServer(script, host=host, port=port) as server:
        print(server.url, flush=True)
        await stop.wait()


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m trimtab.backends.fake_server", description="A scripted upstream.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--script", type=Path, help="what to answer: a YAML or JSON file")
    options = parser.parse_args(arguments)
    try:
        script = _script_file(options.script) if options.script else {}
        asyncio.run(_serve(script, options.host, options.port))
    except (ValueError, OSError) as e:
        print(e, file=sys.stderr)
        return 2
    return 0


def _script_file(path: Path) -> Mapping[str, Any]:
    import yaml  # not needed by the tests that hold a server in process

    try:
        script = yaml.safe_load(path.read_text())
    except yaml.YAMLError as e:
        raise ValueError(f"{path}: {e}") from None
    if not isinstance(script, dict):
        raise ValueError(f"{path}: a script is a mapping")
    return script


if __name__ == "__main__":
    raise SystemExit(main())
