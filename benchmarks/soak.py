"""Thousands of requests, of which many are left by their clients; then nothing may be missing, doubled or left over.

    python benchmarks/soak.py [--requests 10000] [--streams 1000] [--json OUT] [--quick] [--seed N]

The gateway runs in this process on real sockets: once over the in-process fake, which the ledger must equal to the
token, and once over the fake server, where a cut stream has a few events in the air that the upstream has sent and the
gateway never read. docs/benchmarks.md says what each row means.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvloop
from report import Report, Row, arguments, at_most
from rich.progress import Progress
from soak_client import Client, Outcome, Visit, plan
from soak_house import ANSWER_S, KEY, PLAIN, STREAM, TENANT, TOKENS, House, Used, house, receipts

CONCURRENCY = 64
WARM_UP = 512  # visits before anything is measured: pools filled, caches built
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Books:
    """The ledger held against the upstream's book, request by request."""

    receipts: int = 0
    calls: int = 0
    whole: int = 0  # tokens apart in answers that were given whole
    cut_calls: int = 0
    cut_prompt: int = 0  # tokens apart in those that were left
    cut_completion: int = 0
    cut_most: int = 0  # completion tokens apart in one of them
    missing: int = 0  # calls or answers without a receipt
    double: int = 0  # receipts of one request beyond the first
    unasked: int = 0  # receipts of requests that were left before the upstream saw them
    microusd: int = 0


@dataclass
class Found:
    """Everything one soak found. Figures of memory in bytes."""

    outcome: Outcome
    books: Books
    leaked_tasks: int
    leaked_fds: int
    left_fds: int
    open_reservations: int
    held_microusd: int
    limiter_apart_microusd: int
    upstream_open: int
    ledger_bytes: int = 0  # of its file, once it is closed
    rss: list[int] = field(default_factory=list)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=1_000)
    options = parser.parse_args()
    requests, streams = (1_500, 300) if options.quick else (options.requests, options.streams)
    rows, notes = [], []
    for http in (False, True):
        name = "over HTTP" if http else "in process"
        with tempfile.TemporaryDirectory(prefix="trimtab-soak-") as folder, Progress() as progress:
            bar = progress.add_task(name, total=requests + streams)
            visits = plan(requests, streams, options.seed, longest_s=ANSWER_S, events=TOKENS + 2)
            found = uvloop.run(soak(visits, Path(folder), http=http, step=lambda: progress.advance(bar)))  # noqa: B023
        rows += rows_of(found, len(visits), exact=not http)
        notes += [f"{name}: {line}" for line in found.outcome.odd[:5]]
    Report("soak", rows, options.seed, notes).publish(options.json)
    return 0


def rows_of(found: Found, visits: int, *, exact: bool) -> list[Row]:
    """What was found, as rows. `exact`: the ledger has to equal the upstream's book for what was left, too."""
    books, outcome = found.books, found.outcome
    whole, left = books.receipts - books.cut_calls, books.cut_calls
    apart = books.whole + books.cut_prompt + books.cut_completion
    rows = [
        Row("requests", visits, n=visits),
        Row("left_by_client", outcome.left, n=visits),
        at_most("unexpected_answers", len(outcome.odd), 0, n=visits),
        at_most("ledger_difference_whole_tokens", books.whole, 0, unit="tokens", n=whole),
        _tokens("ledger_difference_tokens", apart, books.receipts, exact),
        _tokens("ledger_difference_left_prompt_tokens", books.cut_prompt, left, exact),
        _tokens("ledger_difference_left_completion_tokens", books.cut_completion, left, exact),
        Row("ledger_difference_one_answer_tokens", books.cut_most, unit="tokens", n=left),
        Row("left_before_upstream", books.unasked, n=left),
        at_most("receipts_missing", books.missing, 0, n=books.calls),
        at_most("receipts_double", books.double, 0, n=books.receipts),
        at_most("limiter_difference_usd", abs(found.limiter_apart_microusd) / 1e6, 0, unit="USD", n=books.receipts),
        at_most("leaked_tasks", found.leaked_tasks, 0),
        at_most("leaked_fds", found.leaked_fds, 0),
        at_most("left_fds", found.left_fds, 0),
        at_most("open_reservations", found.open_reservations, 0),
        at_most("held_usd", found.held_microusd / 1e6, 0, unit="USD"),
        at_most("upstream_calls_open", found.upstream_open, 0),
        Row("ledger_bytes_per_receipt", found.ledger_bytes / books.receipts, unit="bytes", n=books.receipts),
        at_most("rss_growth_kb_per_1k", growth(found.rss, visits), 100.0, unit="KB", n=len(found.rss)),
        Row("rss_end_mb", found.rss[-1] / 2**20, unit="MB", n=len(found.rss)),
    ]
    return rows if exact else [replace(row, metric=f"{row.metric}_http") for row in rows]


def _tokens(metric: str, value: int, n: int, exact: bool) -> Row:
    """Over HTTP a bar of zero cannot be held for what was left: tokens are in the air, and prompts are estimates."""
    return at_most(metric, value, 0, unit="tokens", n=n) if exact else Row(metric, value, unit="tokens", n=n)


def growth(rss: list[int], visits: int) -> float:
    """KB for each 1,000 requests, from the second quarter of the samples to the last: their means, half a run apart."""
    quarter = max(1, len(rss) // 4)
    early, late = rss[quarter : 2 * quarter] or rss, rss[-quarter:]
    return (sum(late) / len(late) - sum(early) / len(early)) / 1024 / (visits / 2 / 1000)


async def soak(visits: list[Visit], folder: Path, *, http: bool, step: Callable[[], object]) -> Found:
    """Make all the visits, `CONCURRENCY` at a time, and look at what is left. `step` is called for each."""
    await _listen_once()
    before_fds = fds()
    async with house(folder, http=http) as place:
        warm = [Visit(-1 - n, stream=n % 2 == 0) for n in range(min(WARM_UP, len(visits)))]
        await visit_all(place, warm, Outcome(bytearray(len(warm))), step=lambda: None)
        await place.rest()
        resting_tasks, resting_fds = await settled()
        outcome, rss = Outcome(bytearray(len(visits))), [resident()]
        await visit_all(place, visits, outcome, step, rss)
        await place.rest()
        rss.append(resident())
        tasks, files = await settled(resting_tasks, resting_fds)
        found = Found(
            outcome,
            compare(place, outcome, http),
            leaked_tasks=tasks - resting_tasks,
            leaked_fds=files - resting_fds,
            left_fds=0,
            open_reservations=place.limiter.live(TENANT),
            held_microusd=place.limiter._accounts[TENANT].held,
            limiter_apart_microusd=0,
            upstream_open=place.fake.counts.open,
            rss=rss,
        )
        found.limiter_apart_microusd = place.limiter.spent(TENANT) - found.books.microusd
    found.ledger_bytes = place.ledger.stat().st_size
    found.left_fds = (await settled(fewest_fds=before_fds))[1] - before_fds
    return found


async def _listen_once() -> None:
    """libuv keeps one descriptor in reserve from a loop's first listening socket on."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    server.close()
    await server.wait_closed()


async def visit_all(
    place: House, visits: list[Visit], outcome: Outcome, step: Callable[[], object], rss: list[int] | None = None
) -> None:
    """Clients that share the visits; memory is sampled about two hundred times on the way."""
    every = max(1, len(visits) // 200)

    def taken() -> Iterator[Visit]:
        for at, visit in enumerate(visits):
            if at % every == 0:
                place.note()
                if rss is not None:
                    rss.append(resident())
            step()
            yield visit

    shared = taken()
    clients = [Client(place.port, KEY, (PLAIN, STREAM), outcome) for _ in range(CONCURRENCY)]
    await asyncio.gather(*(client.work(shared) for client in clients))


async def settled(fewest_tasks: int = 0, fewest_fds: int = 0, seconds: float = 3.0) -> tuple[int, int]:
    """How many tasks and open files there are, once they are as few as they were or have not changed for a while."""
    seen, since = (0, 0), 0
    for _ in range(int(seconds / 0.1)):
        gc.collect()
        await asyncio.sleep(0.1)
        now = len(asyncio.all_tasks()), fds()
        since = since + 1 if now == seen else 0
        seen = now
        if (now[0] <= fewest_tasks and now[1] <= fewest_fds) or (since >= 8):
            break
    return seen


def compare(place: House, outcome: Outcome, http: bool) -> Books:
    """Every receipt beside the upstream's own record of that call."""
    calls = place.book.read()
    books = Books(calls=sum(map(len, calls.values())))
    billed: dict[str, Used] = {}
    users: set[str] = set()
    for request_id, user, used, cost in receipts(place.ledger):
        name = user if http else request_id
        books.receipts += 1
        books.microusd += cost
        books.double += user in users
        users.add(user)
        billed[name] = used
    for name, used in billed.items():
        _weigh(books, calls.get(name, []), used)
    books.unasked = len(billed.keys() - calls.keys())
    books.missing = len(calls.keys() - billed.keys())
    books.missing += sum(f"soak-{serial}" not in users for serial, seen in enumerate(outcome.answered) if seen)
    return books


def _weigh(books: Books, calls: list[Used], billed: Used) -> None:
    prompt = abs(sum(call.prompt for call in calls) - billed.prompt)
    completion = abs(sum(call.completion for call in calls) - billed.completion)
    if billed.how == "ok":
        books.whole += prompt + completion
        return
    books.cut_calls += 1
    books.cut_prompt += prompt
    books.cut_completion += completion
    books.cut_most = max(books.cut_most, completion)


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


if __name__ == "__main__":
    sys.exit(main())
