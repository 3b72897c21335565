"""The protocol probes: what a client sees through the gateway, held against what it sees of the upstream itself.

Some probes are for the gateway alone: the upstream of the load takes any key, any model and any JSON. Those are listed
with what they should give; every other probe must answer as the upstream does.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from gateway_load import KEY, PORT, UPSTREAM_PORT, CannotRun, Setting, command

# Where a gateway has to answer for itself, and the status that it should give.
OWN = {
    "no key": 401,
    "bad key": 401,
    "bad JSON": 400,
    "no messages": 400,
    "unknown model": 404,
    "messages is a string": 400,
    "GET /health/liveliness": 200,
    "GET /health/readiness": 200,
    "GET /metrics": 200,
    "GET /v1/models": 200,
}
_SOURCE = ',"source":"upstream"'  # says who failed; the one field that a gateway adds to an upstream's error
_LINE = re.compile(r"(?P<name>.{34}) (?P<status>\d{3}) (?P<headers>\{.*?\}) (?P<body>.*)")
_STREAM = re.compile(r"(?P<name>stream include_usage=\w+): (?P<rest>.*)")
_DROP = re.compile(r"client disconnect stream=(?P<stream>\w+): upstream (?:aborted after (?P<seconds>[\d.]+) s|NOT)")


@dataclass(frozen=True)
class Seen:
    """One probe's outcome: a status and what else of the answer counts."""

    status: int
    rest: str


@dataclass(frozen=True)
class Probes:
    """What was found. `aborts` are seconds from a client's leaving to the upstream's end, None where it never came."""

    same: int
    own: list[str]  # answered by the gateway itself, as it should
    different: list[str]
    aborts: dict[str, float | None]


def probe(setting: Setting) -> Probes:
    """Ask both. Starts the upstream and trimtab, and stops them. Raises CannotRun."""
    mock = [sys.executable, str(setting.bench / "mock_upstream.py"), "--port", str(UPSTREAM_PORT)]
    upstream = f"http://127.0.0.1:{UPSTREAM_PORT}"
    ours = f"http://127.0.0.1:{PORT}"
    with (
        _running(setting, mock, f"{upstream}/v1/models"),
        _running(setting, command(setting), f"{ours}/health/readiness"),
    ):
        direct, through = _ask(setting, upstream), _ask(setting, ours)
    return compare(direct, through)


def compare(direct: str, through: str) -> Probes:
    """Two outputs of probe.py, line by line."""
    expected, found = read(direct), read(through)
    own, different, same = [], [], 0
    for name in expected:
        want, got = expected[name], found.get(name, Seen(0, "no answer"))
        if want == got:
            same += 1
        elif OWN.get(name) == got.status:
            own.append(f"{name}: {got.status}")
        else:
            shown = [f"{seen.status} {seen.rest[:160]}" for seen in (got, want)]
            different.append(f"{name}: {shown[0]} where the upstream gives {shown[1]}")
    aborts = {"stream": _abort(through, "True"), "plain": _abort(through, "False")}
    return Probes(same, own, different, aborts)


def read(output: str) -> dict[str, Seen]:
    """The probes of one output, by name. What is each system's own (request ids, its headers) is left out."""
    found: dict[str, Seen] = {}
    for line in output.splitlines():
        if match := _LINE.match(line):
            kept = [part for part in ("retry-after", "content-type") if f"'{part}'" in match["headers"]]
            body = match["body"].replace(_SOURCE, "")
            found[match["name"].strip()] = Seen(int(match["status"]), f"{kept} {body}")
        elif match := _STREAM.match(line):
            status, _, rest = match["rest"].partition(" ")
            found[match["name"]] = Seen(int(status), _stream(rest, asked=match["name"].endswith("True")))
        elif line.startswith("body keys: "):
            found["body keys"] = Seen(200, line)
    return found


def _stream(rest: str, asked: bool) -> str:
    """A stream's line. The upstream sends usage to whoever did not ask, too; a gateway that asked must not."""
    if asked:
        return rest
    figures = dict(re.findall(r"(events|usage_chunks)=(\d+)", rest))
    content = int(figures.get("events", 0)) - int(figures.get("usage_chunks", 0))
    done = "done=True" in rest
    return f"chunks={content} done={done} {rest[rest.find('first=') :]}"


def _abort(output: str, stream: str) -> float | None:
    for match in _DROP.finditer(output):
        if match["stream"] == stream:
            return None if match["seconds"] is None else float(match["seconds"])
    return None


def _ask(setting: Setting, base: str) -> str:
    asked = [sys.executable, str(setting.bench / "probe.py"), base, "-k", KEY]
    asked += ["--mock", f"http://127.0.0.1:{UPSTREAM_PORT}"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise CannotRun(f"the probes of {base} failed: {done.stderr[-400:]}")
    return done.stdout


@contextlib.contextmanager
def _running(setting: Setting, words: list[str], url: str) -> Iterator[None]:
    with open(setting.scratch / "probe.log", "a") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=setting.scratch, env=dict(os.environ))
        try:
            _wait(process, url)
            yield
        finally:
            process.terminate()
            process.wait(20)


def _wait(process: subprocess.Popen[bytes], url: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(url, timeout=2).close()
            return
        time.sleep(0.05)
    raise CannotRun(f"{process.args} did not come up")
