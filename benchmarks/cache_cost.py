"""What an exact hit costs beside the least that a gateway can cost, and what recall adds where it finds nothing.

    python benchmarks/cache_cost.py [--bench DIR] [--json OUT] [--quick] [--secs 3] [--runs 5]

It needs the shared load (docs/benchmarks.md, "gateway"), wrk and two cores. One gateway serves two tenants, one with
the exact cache and one without; it and the floor run on the first core, their upstream and the load on the second. The
cases take turns, a slice of each in each run, so that what else the machine does falls on all alike; a ratio is taken
within a run.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cache_house import alone, note
from gateway_load import FLOOR_PORT, KEY, PORT, UPSTREAM_PORT, CannotRun, Setting, check, command, configuration
from report import Row, at_most

from trimtab.gateway.keys import hash_key

SHARED = Path(__file__).resolve().parent.parent.parent / "shared/bench/gateway"
PLAIN_KEY = "sk-0123456789abcdef-no-cache"  # the tenant that has no cache
TICK = os.sysconf("SC_CLK_TCK")
CONCURRENCY = 32
SYSTEM = "You are a careful assistant for a software team. Answer in plain words and cite the file you used. " * 7
QUESTION = "How do I set the retry policy for the billing service, and what happens when the upstream answers 429?"
SERIAL = "00000000"
# Like the load's own script; with CHANGE set, each request asks something else, at the same length.
SCRIPT = """
local f = io.open(os.getenv("BODY"), "rb"); local body = f:read("*a"); f:close()
wrk.method = "POST"; wrk.body = body; wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer " .. os.getenv("KEY")
if os.getenv("CHANGE") ~= "" then
  local at = body:find("00000000", 1, true)
  local head, tail = body:sub(1, at - 1), body:sub(at + 8)
  local n = tonumber(os.getenv("CHANGE"))
  request = function() n = n + 1; return wrk.format(nil, nil, nil, head .. string.format("%08d", n) .. tail) end
end
done = function(s, l, r)
  io.write(string.format("JSON {\\"n\\":%d,\\"p50_ms\\":%.4f,\\"p99_ms\\":%.4f,\\"bad\\":%d}\\n", s.requests,
    l:percentile(50)/1e3, l:percentile(99)/1e3,
    s.errors.status + s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout))
end
"""


@dataclass(frozen=True)
class Case:
    """`changing`: no request is the same as one before."""

    name: str
    port: int
    key: str = KEY
    stream: bool = False
    temperature: float = 0
    changing: bool = False
    concurrency: int = CONCURRENCY


CASES = (
    Case("floor", FLOOR_PORT),
    Case("hit", PORT),
    Case("floor_stream", FLOOR_PORT, stream=True),
    Case("hit_stream", PORT, stream=True),
    Case("off", PORT, PLAIN_KEY, temperature=1),
    Case("not_cacheable", PORT, temperature=1),
    Case("off_changing", PORT, PLAIN_KEY, changing=True),
    Case("miss", PORT, changing=True),
    Case("off_stream_changing", PORT, PLAIN_KEY, stream=True, changing=True),
    Case("miss_stream", PORT, stream=True, changing=True),
    Case("floor_c1", FLOOR_PORT, concurrency=1),
    Case("hit_c1", PORT, concurrency=1),
)


@dataclass
class Slice:
    """One case for a while: CPU in milliseconds a request, latencies in milliseconds."""

    n: int
    cpu_ms: float
    p50_ms: float
    p99_ms: float
    bad: int


def rows(options: Any) -> list[Row]:
    """`options` has `quick`, and perhaps `bench`, `secs` and `runs`. None without the shared load, but a note."""
    seconds = 1.0 if options.quick else getattr(options, "secs", 3.0)
    runs = 1 if options.quick else getattr(options, "runs", 5)
    try:
        bench = check(getattr(options, "bench", None) or (SHARED if SHARED.is_dir() else None))
    except CannotRun as e:
        note(options, f"no rows about what a hit costs: {e}")
        return []
    with tempfile.TemporaryDirectory(prefix="trimtab-hits-") as scratch:
        found = measure(Setting(bench, None, Path(scratch)), seconds, runs)
    return reported(found)


def measure(setting: Setting, seconds: float, runs: int) -> dict[str, list[Slice]]:
    """Every case, `runs` times."""
    script = setting.scratch / "post.lua"
    script.write_text(SCRIPT)
    found: dict[str, list[Slice]] = {case.name: [] for case in CASES}
    with _systems(setting) as pids:
        for run in range(runs + 1):
            for place, case in enumerate(CASES):
                start = (run * len(CASES) + place) * 1_000_000
                taken = _slice(setting, script, case, pids[case.port], seconds if run else 0.5, start)
                if run:  # the first one warms up
                    found[case.name].append(taken)
    return found


@contextlib.contextmanager
def _systems(setting: Setting) -> Iterator[dict[int, int]]:
    """The upstream, the floor and the gateway; the process ids of the latter two by port."""
    words = command(setting)
    (setting.scratch / "trimtab.yaml").write_text(yaml.safe_dump(_configuration(setting), sort_keys=False))
    floor = [sys.executable, "-m", "uvicorn", "floor_asgi:app", "--port", str(FLOOR_PORT), "--log-level", "warning"]
    floor += ["--no-access-log", "--loop", "uvloop", "--http", "httptools"]
    mock = [sys.executable, str(setting.bench / "mock_upstream.py"), "--port", str(UPSTREAM_PORT)]
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    with contextlib.ExitStack() as stack:
        pids = {}
        for line, port, core, folder in (
            (mock, UPSTREAM_PORT, 1, setting.scratch),
            (floor, FLOOR_PORT, 0, setting.bench),
            (words, PORT, 0, setting.scratch),
        ):
            pinned = ["taskset", "-c", str(core), *line]
            process = subprocess.Popen(pinned, cwd=folder, env=environ, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            pids[port] = process.pid
            _listening(port, process)
        yield pids


def _configuration(setting: Setting) -> dict[str, Any]:
    made = configuration(setting.scratch / "ledger.db")
    cached = made["tenants"]["bench"] | {"policy": {}}
    without = {**cached, "keys": [hash_key(PLAIN_KEY)], "policy": {"cache": {"exact": False}}}
    return {**made, "tenants": {"bench": cached, "without": without}}


def _listening(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.connect()
            connection.close()
            return
        except OSError:
            if process.poll() is not None:
                raise CannotRun(f"what should listen on port {port} ended with {process.returncode}") from None
            time.sleep(0.025)
    raise CannotRun(f"nothing listens on port {port}")


def _slice(setting: Setting, script: Path, case: Case, pid: int, seconds: float, start: int) -> Slice:
    body = setting.scratch / f"{case.name}.json"
    body.write_text(_body(case))
    environ = {**os.environ, "BODY": str(body), "KEY": case.key, "CHANGE": str(start) if case.changing else ""}
    url = f"http://127.0.0.1:{case.port}/v1/chat/completions"
    words = ["taskset", "-c", "1", "wrk", "-t1", f"-c{case.concurrency}", f"-d{max(1, round(seconds))}s"]
    words += ["--timeout", "10s", "-s", str(script), url]
    before = cpu_s(pid)
    out = subprocess.run(words, env=environ, capture_output=True, text=True, check=True).stdout
    used = cpu_s(pid) - before
    told = json.loads(next(line for line in out.splitlines() if line.startswith("JSON "))[5:])
    return Slice(told["n"], used * 1000 / max(1, told["n"]), told["p50_ms"], told["p99_ms"], told["bad"])


def _body(case: Case) -> str:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"{SERIAL} {QUESTION}"}]
    asked: dict[str, Any] = {"model": "mock", "messages": messages, "max_tokens": 256, "temperature": case.temperature}
    return json.dumps({**asked, "stream": True, "stream_options": {"include_usage": True}} if case.stream else asked)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, its threads included; neither system here has children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def reported(found: dict[str, list[Slice]]) -> list[Row]:
    def over(metric: str, above: str, below: str, bar: float | None = None) -> Row:
        each = [a.cpu_ms / b.cpu_ms for a, b in zip(found[above], found[below], strict=True)]
        n = sum(taken.n for taken in found[above])
        more: dict[str, Any] = {"unit": "times", "n": n, "interval": (min(each), max(each))}
        value = statistics.median(each)
        return Row(metric, value, **more) if bar is None else at_most(metric, value, bar, **more)

    alone_ = found["hit_c1"]
    p50 = [taken.p50_ms for taken in alone_]
    n = sum(taken.n for taken in alone_)
    return [
        over("exact_hit_cpu_vs_floor", "hit", "floor", 2.0),
        over("exact_hit_cpu_vs_floor_stream", "hit_stream", "floor_stream", 2.0),
        at_most("exact_hit_p50_ms", statistics.median(p50), 1.0, unit="ms", n=n, interval=(min(p50), max(p50))),
        Row("exact_hit_p99_ms", statistics.median([taken.p99_ms for taken in alone_]), unit="ms", n=n),
        Row(
            "floor_p50_ms",
            statistics.median([taken.p50_ms for taken in found["floor_c1"]]),
            unit="ms",
            system="floor_asgi",
        ),
        over("recall_cpu_not_cacheable", "not_cacheable", "off"),
        over("recall_cpu_miss", "miss", "off_changing"),
        over("recall_cpu_miss_stream", "miss_stream", "off_stream_changing"),
        over("exact_hit_cpu_vs_upstream_call", "hit", "off"),
        at_most("cost_errors", sum(taken.bad for each in found.values() for taken in each), 0),
    ]


def main() -> int:
    return alone(
        "cache_cost",
        __doc__,
        rows,
        ("--bench", {"type": Path, "metavar": "DIR", "help": "the shared load: mock_upstream.py, floor_asgi.py"}),
        ("--secs", {"type": float, "default": 3.0, "help": "seconds a slice"}),
        ("--runs", {"type": int, "default": 5, "help": "slices of each case"}),
    )


if __name__ == "__main__":
    sys.exit(main())
