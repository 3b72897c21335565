"""Several processes on one port: a parent that binds the socket, starts the workers, restarts a dead one.

Limits must be shared between workers, or each would grant the whole; so without a Redis or Valkey store, tenants with
limits are refused here rather than served N times what they may have.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from .config import Config
from .server import bind

log = logging.getLogger("trimtab.workers")

_SHORT_LIFE = 5.0  # a worker that dies sooner is not restarted at once


def supervise(config: Config, arguments: list[str]) -> int:
    """Run the workers until a signal says stop; the exit status is 0 when all of them drained.

    Raises ValueError when tenants have limits that the workers could not share, OSError when the port is taken.
    """
    limited = [name for name, tenant in config.tenants.items() if tenant.limits.resolved().any]
    if limited and config.store.redis is None:
        raise OSError(
            f"{config.server.workers} workers cannot share the limits of {', '.join(limited)} without a store; "
            "set store.redis, or run one worker"
        )
    sock = bind(config.server.host, config.server.port)
    with tempfile.TemporaryDirectory(prefix="trimtab-metrics-") as metrics:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        return _run(config, arguments, sock)


def _run(config: Config, arguments: list[str], sock: socket.socket) -> int:
    fleet = _Fleet(config.server.workers, [*arguments, "--fd", str(sock.fileno())], sock.fileno())
    print(f"trimtab: {config.server.workers} workers on {config.server.host}:{sock.getsockname()[1]}", flush=True)
    return fleet.run()


class _Fleet:
    def __init__(self, size: int, arguments: list[str], fd: int) -> None:
        self._command = [sys.executable, "-m", "trimtab.gateway.cli", *arguments]
        self._fd = fd
        self._workers: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
        self._size = size
        self._stopping = False

    def run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._pass_on)
        for _ in range(self._size):
            self._start()
        worst = 0
        while self._workers:
            pid, status = os.wait()
            worker = self._workers.pop(pid, None)
            if worker is None:
                continue
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
            worker[0].returncode = os.waitstatus_to_exitcode(status)
            code = worker[0].returncode
            if self._stopping:
                # One that had not begun to serve dies of the signal itself: nothing was lost with it.
                worst = worst if code == -signal.SIGTERM else max(worst, abs(code))
            else:
                self._replace(pid, code, worker[1])
        return worst

    def _replace(self, pid: int, code: int, born: float) -> None:
        log.error("worker %d ended with %d; starting another", pid, code)
        if time.monotonic() - born < _SHORT_LIFE:
            time.sleep(1.0)
        if not self._stopping:
            self._start()

    def _start(self) -> None:
        # A group of its own: Ctrl-C reaches the parent alone, which passes it on once.
        worker = subprocess.Popen(self._command, pass_fds=(self._fd,), process_group=0)  # noqa: S603
        self._workers[worker.pid] = worker, time.monotonic()

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGHUP:
            self._stopping = True
        for worker, _born in list(self._workers.values()):
            worker.send_signal(number)
