"""The gateways under load: which ones, how each is started, and the run of the shared load over all of them.

The load itself (`bench.py`, its mock upstream, the floor) is in a folder of its own, so that every gateway is measured
by the same hand. Here trimtab is added to its targets, with keys, limits, receipts, prices and ledger on, and the floor
gets the Python that trimtab runs on. What the figures mean is gateway.py's business.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trimtab.gateway.keys import hash_key

KEY = "sk-0123456789abcdef-bench"  # the one that the load sends to every gateway
PORT, FLOOR_PORT, UPSTREAM_PORT = 4400, 4201, 9100
MODELS = ("mock", "mock-d10", "mock-t3000", "mock-e429", "mock-e500")
DIRECT, FLOOR, OURS, LITELLM = "direct", "floor_asgi", "trimtab", "litellm"
FEW = ["chat_c32", "chat_c128", "big48k_c8", "stream_c32", "paced10ms_c64"]  # not needed of the bare upstream


class CannotRun(Exception):
    """Something that the benchmark needs is not here; the message says how to get it."""


@dataclass(frozen=True)
class Setting:
    """Where everything is. `peers` holds LiteLLM, or is None; `scratch` is a folder that is thrown away."""

    bench: Path
    peers: Path | None
    scratch: Path

    def systems(self) -> list[str]:
        return [DIRECT, FLOOR, OURS, *([LITELLM] if self.peers is not None else [])]


def check(bench: Path | None) -> Path:
    """The folder of the shared load. Raises CannotRun when it, wrk, taskset or a port is missing."""
    if bench is None or not (bench / "bench.py").is_file():
        where = "" if bench is None else f" ({bench} has none)"
        raise CannotRun(f"the shared load (bench.py) was not found{where}: give its folder with --bench DIR")
    for program, cure in (("wrk", "apt-get install wrk"), ("taskset", "apt-get install util-linux")):
        if shutil.which(program) is None:
            raise CannotRun(f"{program} is missing: {cure}")
    for port in (PORT, FLOOR_PORT, UPSTREAM_PORT):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise CannotRun(f"port {port} is in use, and the load needs it")
    return bench.resolve()


def find_peers(given: Path | None) -> Path | None:
    """The folder that holds LiteLLM's environment: as given, else $PEERS, else where it is usually put."""
    for folder in (given, os.environ.get("PEERS"), Path.home() / ".cache/trimtab/peers"):
        if folder and (Path(folder) / "litellm/bin/litellm").is_file():
            return Path(folder).resolve()
    return None


def write_targets(setting: Setting) -> Path:
    """The shared targets with ours added; the file that bench.py reads."""
    targets: dict[str, Any] = json.loads((setting.bench / "targets.json").read_text())
    targets[DIRECT]["skip"] = FEW
    targets[FLOOR] |= {
        "cmd": f"{sys.executable} -m uvicorn floor_asgi:app --port {FLOOR_PORT} --log-level warning --no-access-log "
        "--loop uvloop --http httptools",
        "env": {"PYTHONDONTWRITEBYTECODE": "1"},
    }
    targets[OURS] = {
        "cmd": " ".join(command(setting)),
        "url": f"http://127.0.0.1:{PORT}/v1/chat/completions",
        "model": "mock",
        "headers": [f"Authorization: Bearer {KEY}"],
        "cwd": str(setting.scratch),
    }
    path = setting.scratch / "targets.json"
    path.write_text(json.dumps(targets, indent=1))
    return path


def command(setting: Setting) -> list[str]:
    """What starts trimtab, one worker, everything on that a paid deployment has on."""
    config = setting.scratch / "trimtab.yaml"
    config.write_text(yaml.safe_dump(configuration(setting.scratch / "ledger.db"), sort_keys=False))
    serve = ["serve", "--config", str(config), "--host", "127.0.0.1", "--port", str(PORT), "--workers", "1"]
    return [sys.executable, "-m", "trimtab.gateway.cli", *serve, "--log-level", "warning"]


def configuration(ledger: Path) -> dict[str, Any]:
    """A tenant with a key, every limit set (too high to be met), prices, a ledger on disk, no optimisation on."""
    model = {
        "backend": "openai",
        "base_url": f"http://127.0.0.1:{UPSTREAM_PORT}/v1",
        "api_key": "sk-not-looked-at-by-the-mock",
        "price": {"input": 2, "cached_input": 0.5, "output": 8},
    }
    limits = {
        "requests_per_minute": 100_000_000,
        "tokens_per_minute": 1_000_000_000_000,
        "usd_per_day": 100_000_000,
        "concurrent": 10_000,
    }
    return {
        "models": {name: dict(model) for name in MODELS},
        # The load asks the same again and again: with the cache on, it would measure nothing but that.
        "tenants": {"bench": {"keys": [hash_key(KEY)], "limits": limits, "policy": {"cache": {"exact": False}}}},
        "ledger": {"path": str(ledger)},
    }


def load(
    setting: Setting, *, runs: int, seconds: float, seed: int, skip: Sequence[str], quiet_s: float
) -> dict[str, Any]:
    """What bench.py measured, by system. The systems come in another order in each run.

    `quiet_s` bounds the wait for a quiet machine before each case.
    """
    targets, results = write_targets(setting), setting.scratch / "results.json"
    order = random.Random(seed)
    for _ in range(runs):
        systems = order.sample(setting.systems(), len(setting.systems()))
        options = ["-o", str(results), "--runs", "1", "--secs", f"{seconds:g}"]
        options += [word for name in systems for word in ("-t", name)]
        options += [word for case in skip for word in ("--skip", case)]
        _bench(setting, [str(targets), *options], quiet_s)
    found: dict[str, Any] = json.loads(results.read_text())
    return found


def _bench(setting: Setting, options: list[str], quiet_s: float) -> None:
    environ = {**os.environ, "TMPDIR": str(setting.scratch), "QUIET_WAIT": f"{quiet_s:g}"}
    if setting.peers is not None:
        environ["PEERS"] = str(setting.peers)
    try:
        subprocess.run([sys.executable, str(setting.bench / "bench.py"), *options], env=environ, check=True)
    except subprocess.CalledProcessError as e:
        raise CannotRun(f"the load ended with status {e.returncode}; its last words are above") from None
