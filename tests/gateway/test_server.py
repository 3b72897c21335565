"""What a serving process sets up for itself, seen from outside: in a process of its own, as it stays set."""

from __future__ import annotations

import subprocess
import sys

_SERVE = """
import asyncio, os, signal, sys
from trimtab.gateway.config import Config
from trimtab.gateway.server import build, serve

written = {{"ledger": {{"path": {ledger!r}}}, "server": {{"port": 0}}}}
config = Config.model_validate(written, context={{"environ": {{}}}})

def ready(host, port):
    print(sys.getswitchinterval())
    os.kill(os.getpid(), signal.SIGTERM)

asyncio.run(serve(build(config), config, ready=ready))
"""


def test_threads_that_compute_let_the_event_loop_in_between(tmp_path: object) -> None:
    """At Python's own 5 ms, every call that leaves the interpreter would wait for so long behind a busy thread."""
    code = _SERVE.format(ledger=f"{tmp_path}/ledger.db")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) < 0.002
