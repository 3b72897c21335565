"""Reading the configuration again while serving: on SIGHUP, and when the file changes.

An invalid file changes nothing: the old configuration goes on serving, and the complaint is kept for readiness and
metrics. Secrets behind `file:` and `env:` are looked up afresh at every reload, but only the file itself is watched.
What a new configuration means for backends and limits is whoever's `apply` it is.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from .config import Config
from .config_file import ConfigError, load_config
from .listen import OpenDoor, check_listen

log = logging.getLogger("trimtab.config")

POLL_S = 1.0
Stamp = tuple[int, int, int]  # when it was modified (ns), its size, its inode


class ConfigWatcher:
    """Watches one file. `apply` takes the new configuration, or raises and nothing has changed.

    `outcome` is told what became of each reload: None, or why not. `host` is where we listen in truth (the command line
    may have overruled the file): a configuration that may not be served there is refused. With `current`, the log names
    what changed in the file and waits for a restart.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        apply: Callable[[Config], Awaitable[None] | None],
        outcome: Callable[[str | None], None] | None = None,
        *,
        host: str | None = None,
        current: Config | None = None,
        load: Callable[[Path], Config] = load_config,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.last_error: str | None = None
        self._path = Path(path)
        self._apply = apply
        self._outcome = outcome
        self._host = host
        self._current = current
        self._load = load
        self._sleep = sleep
        self._asked = asyncio.Event()
        self._loaded = self._seen = self._stamp()

    def request(self) -> None:
        """Ask for a reload now, changed or not; for signal handlers."""
        self._asked.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self._pause()
            asked = self._asked.is_set()
            self._asked.clear()
            if self._settled() or asked:
                await self.reload()

    async def reload(self) -> bool:
        """Read the file and apply it. Whether that worked; if not, `last_error` says why."""
        self._loaded = self._seen = self._stamp()  # before reading: a change in between is seen by the next poll
        if self._loaded is not None and not self._loaded[1]:
            # Good at the start, where it means every default. Now it is a file cut short, and a gateway without keys.
            return self._failed(f"{self._path}: is empty")
        try:
            # Off the loop: a large file takes longer than a stream should have to wait for its next chunk.
            config = await asyncio.to_thread(self._load, self._path)
            if self._host is not None:
                check_listen(config, self._host)
        except (ConfigError, OpenDoor) as e:
            return self._failed(str(e))
        try:
            applied = self._apply(config)
            if inspect.isawaitable(applied):
                await applied
        except Exception as e:  # whatever a backend's start raises, the old configuration must go on serving
            log.debug("the configuration was not applied", exc_info=True)
            return self._failed(f"{self._path}: cannot be served: {e or type(e).__name__}")
        self._tell(None)
        late = needs_restart(self._current, config) if self._current is not None else []
        if late:
            log.warning("changed in %s and taken up at the next start: %s", self._path, ", ".join(late))
        self._current = config
        log.info("the configuration was read again from %s", self._path)
        return True

    def _failed(self, error: str) -> bool:
        log.error("the old configuration goes on serving: %s", error)
        self._tell(error)
        return False

    def _tell(self, error: str | None) -> None:
        self.last_error = error
        if self._outcome is not None:
            self._outcome(error)

    def _settled(self) -> bool:
        """Whether the file differs from the one last read and has stayed the same for one poll: written to its end."""
        stamp, before = self._stamp(), self._seen
        self._seen = stamp
        return stamp != self._loaded and stamp == before

    def _stamp(self) -> Stamp | None:
        # Follows links: a ConfigMap is changed by turning a link to another folder.
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    async def _pause(self) -> None:
        tick = asyncio.ensure_future(self._sleep(POLL_S))
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait((tick, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in (tick, asked):
                waiting.cancel()
            await asyncio.gather(tick, asked, return_exceptions=True)


def needs_restart(old: Config, new: Config) -> list[str]:
    """The keys that changed and that a running process cannot change any more."""
    fixed = [f"server.{name}" for name in ("host", "port", "workers", "headers_s", "body_s", "keep_alive_s", "drain_s")]
    fixed += ["ledger.path", "store.redis"]

    def value(config: Config, key: str) -> object:
        section, name = key.split(".")
        return getattr(getattr(config, section), name)

    return [key for key in fixed if value(old, key) != value(new, key)]
