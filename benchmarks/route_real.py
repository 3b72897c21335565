"""Small, large, router and cascade with real models' answers: how many are right, and what they cost.

python benchmarks/route_answers.py --data GSM8K.jsonl.gz --small WEIGHTS --large WEIGHTS --out answers.jsonl
python benchmarks/route_real.py --data answers.jsonl [--live N --small WEIGHTS --large WEIGHTS] [--json OUT]

A whole gateway answers over HTTP, once under each policy. Behind it stand the answers that both models gave, each with
its tokens and its mean log-probability; with `--live`, also the models themselves for N questions under the cascade.
Each sixth of the questions is routed by a calibration that `trimtab route fit` made of the others, or with `--shipped`
all of them by the one that ships, which has seen other questions' answers by other models.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import random
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import openai
from report import Report, Row, arguments, screen
from rich.progress import Progress
from route_answers import LARGE, LONGEST, SMALL, asking

from trimtab.backends.base import Backend, Call, Stream
from trimtab.backends.engine.backend import EngineBackend
from trimtab.gateway.cli import main as trimtab
from trimtab.gateway.config import Config
from trimtab.gateway.ledger import Ledger
from trimtab.gateway.limits_local import LocalLimiter
from trimtab.gateway.live import Gateway
from trimtab.gateway.server import Server, bind, uvicorn_config
from trimtab.protocol.errors import NotSupported
from trimtab.protocol.exchange import Receipt
from trimtab.protocol.messages import Answer, Usage

FOLDS = 6
SHARES = (0.2, 0.35, 0.5)
# Dollars per million tokens: as the models' sizes are to each other.
PRICES = {SMALL: {"input": 0.05, "output": 0.10}, LARGE: {"input": 0.15, "output": 0.30}}
_receipt = msgspec.json.Decoder(Receipt)


class Recorded:
    """A backend that says what a model said when it was asked."""

    def __init__(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        self._name = name
        self._rows = {row["prompt"]: row for row in rows}

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def ready(self) -> bool:
        return True

    async def stream(self, call: Call) -> Stream:
        raise NotSupported("the recorded answers are whole ones", param="stream")

    async def complete(self, call: Call) -> Answer:
        row, name = self._rows[call.request.get("messages")[-1]["content"]], self._name
        used = Usage(prompt=row["tokens"]["prompt"], completion=row["tokens"][name])
        message = {"role": "assistant", "content": row["answers"][name]}
        reason = "length" if used.completion >= LONGEST else "stop"
        body = {
            "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": name,
            "choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": used.to_openai(),
        }  # fmt: skip
        return Answer(msgspec.json.encode(body), used, finish_reasons=(reason,), mean_logprob=row["logprobs"][name])


@dataclass
class Told:
    """What came of some questions under one policy."""

    right: int = 0
    asked: int = 0
    large: int = 0
    microusd: int = 0
    differing: int = 0  # answers that are not the recorded ones


def config(route: dict[str, Any], calibration: Path | None, ledger: Path, weights: dict[str, str]) -> Config:
    model = {"backend": "engine", "retries": {"attempts": 1}}
    whole = {"timeouts": {"first_token_s": 600, "idle_s": 600, "total_s": 3600}}
    scored = {"explore": 0.0, "deadline_ms": 5_000} if not {"small_only", "large_only"} & route.keys() else {}
    written = {
        "models": {
            name: {**model, **whole, "price": price, "weights": weights[name]} for name, price in PRICES.items()
        },
        "routes": {
            "auto": {"small": SMALL, "large": LARGE}
            | ({} if calibration is None else {"calibration": str(calibration)})
        },
        "tenants": {"acme": {"policy": {"cache": {"exact": False}, "route": {**scored, **route}}}},
        "ledger": {"path": str(ledger)},
        "server": {"port": 0},
    }
    return Config.model_validate(written, context={"environ": {}})


async def served(
    made: Config, rows: Sequence[dict[str, Any]], backend: Callable[[Any], Backend], tick: Callable[[], object]
) -> Told:
    """The questions to a gateway, one after another as a share wants to be kept, over HTTP."""
    gateway = Gateway(made, Ledger(made.ledger.path), LocalLimiter(), backend=backend)
    sock = bind("127.0.0.1", 0)
    await gateway.start()
    server = Server(uvicorn_config(gateway, made))
    serving = asyncio.ensure_future(server.serve(sockets=[sock]))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    told = Told()
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=3600) as client:
        for row in rows:
            messages: Any = asking(row["prompt"])
            raw = await client.chat.completions.with_raw_response.create(
                model="auto", messages=messages, temperature=0, max_tokens=LONGEST
            )
            name = raw.headers["x-trimtab-model"]
            told.asked += 1
            told.large += name == LARGE
            told.right += row["good"][name]
            told.differing += raw.parse().choices[0].message.content != row["answers"][name]
            tick()
    server.should_exit = True
    await serving
    await gateway.close()
    sock.close()
    with contextlib.closing(sqlite3.connect(made.ledger.path)) as db:
        receipts = [_receipt.decode(text) for (text,) in db.execute("SELECT receipt FROM receipts")]
    told.microusd = sum(receipt.cost_microusd for receipt in receipts)
    return told


def fitted(rows: Sequence[dict[str, Any]], folder: Path) -> Path:
    """A calibration by the command that operators use."""
    labels, out = folder / "labels.jsonl", folder / "calibration.json"
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = trimtab(["route", "fit", str(labels), "--small", SMALL, "--large", LARGE, "--out", str(out)])
    if status:
        raise SystemExit(said.getvalue())
    return out


def policies() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {"small": {"small_only": True}, "large": {"large_only": True}}
    for share in SHARES:
        found[f"router_{share:g}"] = {"large_share": share}
    for share in SHARES:
        found[f"cascade_{share:g}"] = {"large_share": share, "cascade": {"enabled": True}}
    return found


async def measure(rows: list[dict[str, Any]], shipped: bool, live: int, weights: dict[str, str]) -> list[Row]:
    random.Random(0).shuffle(rows)
    parts = [rows] if shipped else [rows[at::FOLDS] for at in range(FOLDS)]
    calibration: Path | None = None
    told = {name: Told() for name in policies()}
    with tempfile.TemporaryDirectory() as held, Progress(console=screen()) as bar:
        task = bar.add_task("questions", total=len(rows) * len(told) + live)
        for at, part in enumerate(parts):
            folder = Path(held) / str(at)
            folder.mkdir()
            if not shipped:
                others = [row for other, p in enumerate(parts) if other != at for row in p]
                calibration = await asyncio.to_thread(fitted, others, folder)
            for name, route in policies().items():
                made = config(route, calibration, folder / f"{name}.sqlite", {SMALL: SMALL, LARGE: LARGE})
                one = await served(made, part, lambda model: Recorded(model.weights, rows), lambda: bar.advance(task))
                _add(told[name], one)
        result = _rows(told)
        if live:
            route = {"large_share": 0.35, "cascade": {"enabled": True}}
            made = config(route, calibration, Path(held) / "live.sqlite", weights)
            one = await served(
                made, parts[-1][:live], lambda model: EngineBackend(model.weights), lambda: bar.advance(task)
            )
            result += [
                Row("live_accuracy", one.right / one.asked, n=one.asked),
                Row("live_differing_answers", one.differing, n=one.asked, bar=0, holds=one.differing == 0),
            ]
    return result


def _add(one: Told, other: Told) -> None:
    for name in ("right", "asked", "large", "microusd", "differing"):
        setattr(one, name, getattr(one, name) + getattr(other, name))


def _rows(told: dict[str, Told]) -> list[Row]:
    small, large = told["small"], told["large"]
    gap, extra = large.right - small.right, large.microusd - small.microusd
    found = []
    for name, one in told.items():
        found += [
            Row(f"accuracy_{name}", one.right / one.asked, n=one.asked),
            Row(f"cost_{name}", one.microusd / large.microusd, "of all large", n=one.asked),
        ]
        if name not in ("small", "large"):
            paid = (one.microusd - small.microusd) / extra
            found += [
                Row(f"share_{name}", one.large / one.asked, n=one.asked),
                Row(f"gap_closed_{name}", (one.right - small.right) / gap, n=one.asked),
                Row(f"gap_closed_by_chance_{name}", paid, "for the same money", n=one.asked),
            ]
    return found


if __name__ == "__main__":
    parser = arguments(__doc__, data="what route_answers.py wrote")
    parser.add_argument("--shipped", action="store_true", help="by the calibration that ships; needs fewer questions")
    parser.add_argument("--live", type=int, default=0, help="so many questions with the models themselves")
    parser.add_argument("--small", help="weights of the small model, for --live")
    parser.add_argument("--large")
    options = parser.parse_args()
    if not options.data:
        parser.error("--data FILE is needed: what route_answers.py wrote")
    lines = [json.loads(line) for path in options.data for line in path.read_text().splitlines()]
    found = asyncio.run(measure(lines, options.shipped, options.live, {SMALL: options.small, LARGE: options.large}))
    Report("route_real", found).publish(options.json)
