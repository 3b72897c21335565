"""Several processes on one port: a parent that binds the socket, starts the workers, restarts a dead one.

Limits must be shared between workers, or each would grant the whole; so without a Redis or Valkey store, tenants with
limits are refused here rather than served N times what they may have.
"""

from __future__ import annotations

import contextlib
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

_SHORT_LIFE = 5.0  # seconds; a worker that dies sooner has hardly served
_MOST_SHORT_LIVES = 5  # in a row, before we give up


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
        self._workers: dict[int, float] = {}  # process id -> when it was started
        self._short_lives = 0
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
            born = self._workers.pop(pid, None)
            if born is None:
                continue
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                # One that had not begun to serve dies of the signal itself: nothing was lost with it.
                worst = worst if code == -signal.SIGTERM else max(worst, abs(code))
            elif not self._replace(pid, code, time.monotonic() - born):
                worst = max(worst, abs(code)) or 1
                self._tell_all(signal.SIGTERM)
        return worst

    def _replace(self, pid: int, code: int, age: float) -> bool:
        """Start another in its place; False when they die as soon as they are born, so that this would never end."""
        self._short_lives = self._short_lives + 1 if age < _SHORT_LIFE else 0
        if self._short_lives > _MOST_SHORT_LIVES:
            log.error("worker %d ended with %d; workers do not live, so there is no point in starting more", pid, code)
            self._stopping = True
            return False
        log.error("worker %d ended with %d; starting another", pid, code)
        self._start()
        return True

    def _start(self) -> None:
        # A group of its own: Ctrl-C reaches the parent alone, which passes it on once.
        worker = subprocess.Popen(self._command, pass_fds=(self._fd,), process_group=0)  # noqa: S603
        worker.returncode = 0  # it is os.wait() that reaps it, not this object
        self._workers[worker.pid] = time.monotonic()

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        if number != signal.SIGHUP:
            self._stopping = True
        self._tell_all(number)

    def _tell_all(self, number: int) -> None:
        for pid in list(self._workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
