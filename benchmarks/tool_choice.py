"""Leaving out tools: fit the margin on one half of BFCL's live_multiple, report recall and tokens on the other.

    python benchmarks/tool_choice.py --bfcl DIR [--model MODEL | --words] [--recall 0.995] [--json OUT] [--quick]

DIR holds bfcl_eval (pip install --no-deps --target DIR bfcl-eval). Rows are split by a hash of their question; the fit
sees half 0 only (with the sets `multiple` and `parallel_multiple`, split the same way). What ships was fitted so, with
--model all-MiniLM-L6-v2. Recall is the share of rows that keep every tool of the right answer. The first turns of
multi_turn_base are a test on data of another kind. Vectors are the bundled embedder's, MODEL's of
sentence-transformers, or none.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import report

from trimtab.backends.embed import open_embedder
from trimtab.compression import tool_choice
from trimtab.compression.deadline import Deadline
from trimtab.compression.policy import ToolsPolicy
from trimtab.compression.spans import Conversation
from trimtab.compression.tool_list import parameters_text
from trimtab.protocol.messages import Request
from trimtab.protocol.tokens import estimate

SETS = ("live_multiple", "multiple", "live_parallel_multiple", "parallel_multiple")
MULTI_TURN = {"GorillaFileSystem": "gorilla_file_system", "MathAPI": "math_api", "MessageAPI": "message_api",
              "TwitterAPI": "posting_api", "TicketAPI": "ticket_api", "TradingBot": "trading_bot",
              "TravelAPI": "travel_booking", "VehicleControlAPI": "vehicle_control"}  # fmt: skip
RECALLS = (0.95, 0.98, 0.99, 0.995)
SLACK = 1.25


@dataclass(frozen=True)
class Row:
    kind: str
    messages: list[dict[str, str]]
    tools: list[dict[str, Any]]
    gold: frozenset[str]

    @property
    def question(self) -> str:
        return next((m["content"] for m in self.messages if m["role"] == "user"), "")

    @property
    def half(self) -> int:
        return zlib.crc32(self.question.encode()) % 2

    @property
    def right(self) -> list[int]:
        return [i for i, tool in enumerate(self.tools) if tool["name"] in self.gold]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def rows(folder: Path) -> Iterator[Row]:
    for kind in SETS:
        name = f"BFCL_v4_{kind}.json"
        gold = {r["id"]: r["ground_truth"] for r in lines(folder / "possible_answer" / name)}
        for r in lines(folder / name):
            right = frozenset(next(iter(call)) for call in gold[r["id"]])
            yield Row(kind, r["question"][0], r["function"], right)


def first_turns(folder: Path) -> Iterator[Row]:
    docs = {k: lines(folder / "multi_turn_func_doc" / f"{v}.json") for k, v in MULTI_TURN.items()}
    name = "BFCL_v4_multi_turn_base.json"
    gold = {r["id"]: r["ground_truth"][0] for r in lines(folder / "possible_answer" / name)}
    for r in lines(folder / name):
        excluded = r.get("excluded_function", [])
        tools = [tool for c in r["involved_classes"] for tool in docs[c] if tool["name"] not in excluded]
        right = frozenset(re.split(r"\W", call)[0] for call in gold[r["id"]])
        yield Row("multi_turn first", r["question"][0], tools, right)


def embedded(found: Sequence[Row], model: str | None) -> Mapping[str, Any]:
    """The vectors of all questions and tools, by the text: MODEL's of sentence-transformers, else the bundled one's."""
    texts = sorted({r.question for r in found} | {said(tool) for r in found for tool in r.tools})
    if model is None:
        vectors = asyncio.run(_bundled(texts))
    else:
        from sentence_transformers import SentenceTransformer

        vectors = SentenceTransformer(model, device="cpu").encode(texts, normalize_embeddings=True)
    return dict(zip(texts, vectors, strict=True))


async def _bundled(texts: Sequence[str]) -> Any:
    embedder = open_embedder()
    try:
        return await embedder.embed(texts)
    finally:
        await embedder.close()


def said(tool: Mapping[str, Any]) -> str:
    return f"{tool['name']}: {tool['description']}"


def matrix(row: Row, vectors: Mapping[str, Any] | None) -> tuple[Any, bool]:
    """The features of a row's tools, and whether the tier would act on it at all."""
    texts = [(t["name"], t["description"], parameters_text(t)) for t in row.tools]
    words = tool_choice.words_score(row.question, texts)
    acts = not tool_choice.several(row.question)
    if vectors is None:
        return tool_choice.features(words), acts
    cosines = np.array([vectors[said(t)] for t in row.tools], dtype=np.float64) @ vectors[row.question]
    return tool_choice.features(words, cosines), acts and cosines.max() >= tool_choice.RESEMBLES


def fit(found: Sequence[tuple[Any, list[int]]]) -> Any:
    """Weights of a conditional logit by Newton's method, with a ridge of 1."""
    w = np.zeros(found[0][0].shape[1])
    for _ in range(50):
        gradient, hessian = -w, np.eye(len(w))
        for x, right in found:
            p = np.exp(x @ w - (x @ w).max())
            p /= p.sum()
            mean = p @ x
            gradient = gradient + sum(x[j] - mean for j in right)
            hessian += len(right) * ((x * p[:, None]).T @ x - np.outer(mean, mean))
        w = w + np.linalg.solve(hessian, gradient)
    return w


def calibrated(
    found: Sequence[Row], vectors: Mapping[str, Any] | None
) -> tuple[list[float], list[tuple[float, float]]]:
    """Weights, and for each target of recall the margin: a conformal quantile of how far a right tool was led."""
    half = [(r, *matrix(r, vectors)) for r in found if r.half == 0 and r.right]
    w = fit([(x, r.right) for r, x, _ in half])
    led = np.sort([(x @ w).max() - min((x @ w)[j] for j in r.right) for r, x, acts in half if acts])
    margins = []
    for recall in RECALLS:
        at = math.ceil((len(led) + 1) * recall) - 1
        if at < len(led):
            margins.append((recall, round(SLACK * float(led[at]), 2)))
    return [round(float(v), 3) for v in w], margins


@dataclass(frozen=True)
class Outcome:
    """What the tier did to some rows: requests, those it acted on, those that kept every right tool, tokens."""

    rows: int
    acted: int
    kept: int
    share: float

    def report(self, name: str, recall: float) -> list[report.Row]:
        recalled = f"recall_{name}", self.kept / self.rows
        return [
            # Where nothing was left out there is no recall to speak of.
            report.at_least(*recalled, recall, unit="share", n=self.rows)
            if self.acted
            else report.Row(*recalled, "share", self.rows),
            report.Row(f"acted_{name}", self.acted / self.rows, "share", self.rows),
            report.Row(f"tokens_kept_{name}", self.share, "share", self.rows),
        ]


def outcome(found: Sequence[Row], vectors: Mapping[str, Any] | None, recall: float) -> Outcome:
    """Run the tier itself over rows."""
    kept = acted = before = after = 0
    for row in found:
        raw = json.dumps([{"type": "function", "function": t} for t in row.tools]).encode()
        conversation = Conversation.read(Request.build("chat", {"model": "m", "messages": row.messages}))
        assert conversation is not None
        policy = ToolsPolicy(enabled=True, recall=recall)
        made = tool_choice.tools(conversation, raw, policy, Deadline(60), vectors).raw or raw
        left = {tool["function"]["name"] for tool in json.loads(made)}
        kept += all(row.tools[i]["name"] in left for i in row.right)
        acted += made != raw
        before, after = before + estimate(raw.decode()), after + estimate(made.decode())
    return Outcome(len(found), acted, kept, after / max(1, before))


def groups(found: Sequence[Row], turns: Sequence[Row]) -> dict[str, Sequence[Row]]:
    other = [r for r in found if r.half == 1]
    live = [r for r in other if r.kind == "live_multiple"]
    return {
        "live_multiple": live,
        "live_multiple_5_or_more": [r for r in live if len(r.tools) >= 5],
        "multiple": [r for r in other if r.kind == "multiple"],
        "parallel": [r for r in other if "parallel" in r.kind],
        "multi_turn_first": turns,
    }


def main() -> int:
    parser = report.arguments(__doc__)
    parser.add_argument("--bfcl", type=Path, metavar="DIR", help="the folder that holds bfcl_eval")
    parser.add_argument("--model", help="a sentence-transformers model, or its folder, in place of the bundled one")
    parser.add_argument("--words", action="store_true", help="no vectors, words alone")
    parser.add_argument("--recall", type=float, default=0.995)
    options = parser.parse_args()
    if options.bfcl is None:
        print("tool_choice: nothing to measure; give --bfcl DIR")
        return 0
    folder = options.bfcl / "bfcl_eval" / "data"
    step = 10 if options.quick else 1
    found, turns = [*rows(folder)][::step], [*first_turns(folder)][::step]
    vectors = None if options.words else embedded([*found, *turns], options.model)
    weights, margins = calibrated(found, vectors)
    made = {name: outcome(group, vectors, options.recall) for name, group in groups(found, turns).items()}
    notes = [f"fitted on the other half: weights {weights}, margins {margins}; measured by what ships"]
    table = [row for name, one in made.items() for row in one.report(name, options.recall)]
    report.Report("tool_choice", table, options.seed, notes).publish(options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
