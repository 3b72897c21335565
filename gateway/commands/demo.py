"""`trimtab demo`: a mixed set of requests through the official `openai` client, and what each one cost, as a table."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from openai import OpenAI

STORY = "Write two short sentences about a small ship in a storm."
JSON_ASK = "Give the name and the colour of one fruit as a JSON object with the keys name and colour."


@dataclass
class Shown:
    """One request of the demo: what it was, what came back, under which id."""

    what: str
    text: str
    request_id: str


def run(url: str | None, key: str, model: str) -> int:
    """Against the gateway at `url`, or one started for the demo. The exit status is 1 when a request failed."""
    try:
        import openai
    except ImportError:
        print("trimtab: the demo speaks through OpenAI's own client: pip install openai", file=sys.stderr)
        return 1
    console = Console()
    with _gateway(url) as base:
        client = openai.OpenAI(base_url=f"{base}/v1", api_key=key)
        shown = []
        for ask in (_chat, _stream, _repeat, _json):
            try:
                with console.status(f"{ask.__name__.strip('_')} …"):
                    shown.append(ask(client, model))
            except openai.APIError as e:
                console.print(f"[red]{ask.__name__.strip('_')} failed:[/] {e}")
                return 1
            console.print(f"[bold]{shown[-1].what}[/]: {shown[-1].text.strip()!r}", highlight=False)
        receipts = [_receipt(base, key, each) for each in shown]
        console.print(_table(receipts))
        for story in _stories(receipts):
            console.print(story, highlight=False, markup=False, soft_wrap=True)
    return 0


def _chat(client: OpenAI, model: str) -> Shown:
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": STORY}], max_tokens=80, temperature=0
    )
    return Shown("chat", raw.parse().choices[0].message.content or "", raw.headers["x-request-id"])


def _stream(client: OpenAI, model: str) -> Shown:
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": "Why is the sky blue? Answer in one sentence."}],
        max_tokens=60,
        temperature=0,
        stream=True,
    )
    parts = [chunk.choices[0].delta.content or "" for chunk in raw.parse() if chunk.choices]
    return Shown(f"stream of {len(parts)} chunks", "".join(parts), raw.headers["x-request-id"])


def _repeat(client: OpenAI, model: str) -> Shown:
    again = _chat(client, model)
    return Shown("the first one again", again.text, again.request_id)


def _json(client: OpenAI, model: str) -> Shown:
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": JSON_ASK}],
        response_format={"type": "json_object"},
        max_tokens=80,
        temperature=0,
    )
    text = raw.parse().choices[0].message.content or ""
    with contextlib.suppress(ValueError):
        text = json.dumps(json.loads(text))
    return Shown("JSON answer", text, raw.headers["x-request-id"])


def _receipt(base: str, key: str, shown: Shown) -> tuple[Shown, dict[str, Any]]:
    address = f"{base}/v1/receipts/{shown.request_id}"
    request = urllib.request.Request(address, headers={"authorization": f"Bearer {key}"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        return shown, json.load(response)


def _table(receipts: list[tuple[Shown, dict[str, Any]]]) -> Table:
    table = Table(title="receipts: tokens in and out, dollars, milliseconds")
    columns: list[tuple[str, Callable[[Shown, dict[str, Any]], str]]] = [
        ("request", lambda shown, r: shown.what),
        ("by", lambda shown, r: r.get("target", "")),
        ("in", lambda shown, r: str(r.get("usage", {}).get("prompt", 0))),
        ("out", lambda shown, r: str(r.get("usage", {}).get("completion", 0))),
        ("USD", lambda shown, r: f"{r['cost_usd']:.6f}" if r.get("priced") else "no price"),
        ("saved", lambda shown, r: f"{r['saved_usd']:.6f}"),
        ("ms", lambda shown, r: f"{r.get('total_ms', 0):,.0f}"),
    ]
    for name, _ in columns:
        table.add_column(name, justify="left" if name in ("request", "by") else "right")
    for shown, receipt in receipts:
        table.add_row(*(cell(shown, receipt) for _, cell in columns))
    return table


def _stories(receipts: list[tuple[Shown, dict[str, Any]]]) -> Iterator[str]:
    """What the stages did to each request: beside the figures it would leave them no room."""
    for shown, receipt in receipts:
        yield f"{shown.what}: {_story(receipt.get('lines', []))}; receipt {receipt['id']}"


def _story(lines: list[dict[str, Any]]) -> str:
    """The optimisations that acted, and the names of those that did not."""
    stages = [line for line in lines if line["stage"] not in ("admit", "answer", "settle")]
    acted = [f"{line['stage']}: {line['did']}" for line in stages if line["did"] not in ("off", "left alone")]
    off = [line["stage"] for line in stages if line["did"] == "off"]
    return "; ".join([*acted, *([f"off: {', '.join(off)}"] if off else [])])


@contextlib.contextmanager
def _gateway(url: str | None) -> Iterator[str]:
    """The gateway at `url`, or one of our own on a free port that ends with the demo."""
    if url is not None:
        yield url.rstrip("/").removesuffix("/v1")
        return
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "trimtab.gateway.cli", "serve", "--port", "0", "--log-level", "warning"]
        with log.open("w") as out:
            gateway = subprocess.Popen(  # noqa: S603
                [*command, "--ledger", f"{folder}/ledger.db"], stdout=out, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )
        try:
            yield _address(gateway, log)
        finally:
            gateway.terminate()
            gateway.wait(60)


def _address(gateway: subprocess.Popen[bytes], log: Path) -> str:
    """What the gateway printed once it was serving; weights may have to be fetched first."""
    while gateway.poll() is None:
        found = re.search(r"on (http://[^\s]+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.1)
    raise SystemExit("trimtab: the gateway did not start; run `trimtab serve` to see why")
