"""What a serving process sets up for itself, seen from outside: in a process of its own, as it stays set."""

from __future__ import annotations

import json
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


_HALF = """
import asyncio, os, signal, socket, sys, threading, time
from trimtab.gateway.config import Config
from trimtab.gateway.server import build, serve

written = {{"ledger": {{"path": {ledger!r}}}, "server": {{"port": 0, "drain_s": 600}}}}
config = Config.model_validate(written, context={{"environ": {{}}}})
gateway = build(config)

def client(host, port):
    with socket.create_connection((host, port)) as half:
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: 100\\r\\n\\r\\n{{")
        while not gateway.in_flight:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        print(b"".join(iter(lambda: half.recv(65536), b"")).decode())

def ready(host, port):
    threading.Thread(target=client, args=(host, port)).start()

asyncio.run(serve(gateway, config, ready=ready))
"""


def test_a_half_sent_request_does_not_hold_up_the_end(tmp_path: object) -> None:
    """It is refused at once, by an answer that says try again, though whoever is answered has ten minutes."""
    code = _HALF.format(ledger=f"{tmp_path}/ledger.db")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    head, _, body = done.stdout.partition("\n\n")
    assert head.startswith("HTTP/1.1 503 ")
    assert "retry-after: 1" in head
    assert json.loads(body)["error"]["code"] == "server_shutdown"
