"""Several workers on one port: one answer for all of them, a dead one replaced, one signal that stops them all."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.gateway.config import Config
from trimtab.gateway.keys import hash_key
from trimtab.gateway.workers import supervise


def get(url: str, body: bytes | None = None) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as response:
        return str(response.read().decode())


def until(check: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_workers_share_a_port_a_ledger_and_their_metrics(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("models:\n  m: {backend: fake}\n")
    command = [sys.executable, "-m", "trimtab.gateway.cli", "serve", "-c", "t.yaml", "--port", "0", "--workers", "2"]
    with (tmp_path / "log").open("w") as log:
        fleet = subprocess.Popen([*command, "--ledger", "l.db"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        until(lambda: "2 workers on" in (tmp_path / "log").read_text())
        found = re.search(r"on 127\.0\.0\.1:(\d+)", (tmp_path / "log").read_text())
        assert found is not None
        url = f"http://127.0.0.1:{found[1]}"
        body = json.dumps({"model": "m", "messages": []}).encode()
        for _ in range(30):
            get(f"{url}/v1/chat/completions", body)

        def counted() -> float:
            found = re.search(r'trimtab_requests_total\{.*outcome="ok".*\} (\S+)', get(f"{url}/metrics"))
            return float(found[1]) if found else 0.0

        # A request is counted after its client has the answer. A scrape answers for all workers, whichever gets it.
        until(lambda: counted() == 30)
        assert [counted() for _ in range(6)] == [30] * 6
        until(lambda: json.loads(get(f"{url}/v1/usage"))["requests"] == 30)
        before = children(fleet.pid)
        os.kill(before[0], signal.SIGKILL)
        until(lambda: len(children(fleet.pid)) == 2 and before[0] not in children(fleet.pid))
        get(f"{url}/v1/chat/completions", body)
    finally:
        fleet.send_signal(signal.SIGTERM)
        assert fleet.wait(30) == 0, (tmp_path / "log").read_text()


def test_limits_that_workers_cannot_share_are_refused(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "server": {"workers": 2},
            "models": {"m": {"backend": "fake"}},
            "tenants": {"acme": {"keys": [hash_key("tt-a-key-for-this-test")], "limits": {"requests_per_minute": 5}}},
        }
    )
    with pytest.raises(OSError, match="acme"):
        supervise(config, [])
