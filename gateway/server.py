"""The life of a serving process: start, serve, reload, drain, close.

start    raise the limit on open files, open the ledger and the backends
serve    uvicorn with uvloop, httptools and our strict protocol
reload   SIGHUP or a changed file: another configuration, or the old one and a complaint
drain    SIGTERM or Ctrl-C: not ready, nothing new, streams finish within `drain_s`, the rest get an error event
close    everything settled and written; exit 0. A second signal cuts the drain short.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from .app import create_app
from .caching import open_cache
from .config import Config
from .http import StrictProtocol
from .ledger import Ledger
from .limits import Limiter
from .limits_local import LocalLimiter
from .live import Gateway
from .metrics import shared
from .reload import ConfigWatcher

log = logging.getLogger("trimtab.server")


def build(config: Config) -> Gateway:
    """A gateway with the stores that its configuration names."""
    return Gateway(config, Ledger(config.ledger.path), _limiter(config), cache=open_cache(config))


def _limiter(config: Config) -> Limiter:
    if config.store.redis is None:
        return LocalLimiter()
    from .limits_redis import RedisLimiter

    return RedisLimiter(
        config.store.redis.get_secret_value(), when_down=config.store.when_down, replicas=config.server.workers
    )


class Server(uvicorn.Server):
    """uvicorn, with the signals and the shutdown ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    gateway: Gateway,
    config: Config,
    *,
    path: Path | None = None,
    written: Config | None = None,
    listener: socket.socket | None = None,
    ready: Callable[[str, int], None] | None = None,
) -> None:
    """Serve until a signal says stop. `ready` is told the address once requests are accepted; `written` is the
    configuration as the file at `path` has it, without what the command line changed.

    Raises LedgerUnavailable when the books cannot be opened and OSError when the port is taken.
    """
    _raise_file_limit()
    StrictProtocol.head_seconds, StrictProtocol.body_seconds = config.server.headers_s, config.server.body_s
    sock = listener or bind(config.server.host, config.server.port)
    await gateway.start()
    server = Server(uvicorn_config(gateway, config))
    watcher = None
    if path is not None:
        host = sock.getsockname()[0]
        watcher = ConfigWatcher(path, gateway.apply, gateway.config_failed, host=host, current=written)
    _calm_collector()
    _share_the_interpreter()
    loop = asyncio.get_running_loop()
    stop = _Stop(gateway, server, config.server.drain_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if watcher is not None:
        loop.add_signal_handler(signal.SIGHUP, watcher.request)
    else:
        loop.add_signal_handler(signal.SIGHUP, log.warning, "SIGHUP: there is no configuration file to read again")
    chores = [asyncio.ensure_future(watcher.run())] if watcher is not None else []
    if shared():
        chores.append(asyncio.ensure_future(_refresh(gateway)))
    try:
        serving = asyncio.ensure_future(server.serve(sockets=[sock]))
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        if ready is not None and server.started:
            ready(*sock.getsockname()[:2])
        await serving
    finally:
        for chore in chores:
            chore.cancel()
        await gateway.close()


async def _refresh(gateway: Gateway) -> None:
    """Another worker's scrape shows our state too, so it has to be fresh without being asked."""
    while True:
        gateway.refresh_gauges()
        await gateway.measure_cache()
        await asyncio.sleep(2)


class _Stop:
    """What a stop signal does: the first drains, the second cuts."""

    def __init__(self, gateway: Gateway, server: Server, seconds: float) -> None:
        self._gateway = gateway
        self._server = server
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._drain())
        else:
            log.warning("second signal: cutting what is in flight")
            self._gateway.cut()

    async def _drain(self) -> None:
        gateway = self._gateway
        gateway.drain()
        for connection in list(self._server.server_state.connections):
            if isinstance(connection, StrictProtocol):
                connection.drain()
        log.info("draining: %d requests in flight, at most %g s", gateway.in_flight, self._seconds)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        while gateway.in_flight and loop.time() < end and not gateway.cutting:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        if gateway.in_flight:
            gateway.cut()
            await asyncio.sleep(0.1)
        self._server.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError naming the address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as e:
        cure = "; choose another port with --port" if e.errno == errno.EADDRINUSE else ""
        raise OSError(f"cannot listen on {host}:{port}: {e.strerror or e}{cure}") from e
    sock.listen(2048)
    sock.setblocking(False)
    sock.set_inheritable(True)
    return sock


def uvicorn_config(gateway: Gateway, config: Config) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(gateway),
        loop="uvloop",
        http=StrictProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=int(config.server.keep_alive_s),
        timeout_graceful_shutdown=5,
    )


def _share_the_interpreter() -> None:
    """Let the event loop in between what threads compute: at Python's own 5 ms it waits that long after each call that
    leaves the interpreter, which is several times a request."""
    sys.setswitchinterval(0.0005)


def _calm_collector() -> None:
    """Keep the garbage collector from walking through everything that was imported, again and again under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def _raise_file_limit() -> None:
    """Every client is a file, and so is every upstream connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
