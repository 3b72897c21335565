"""One connection to a Redis or Valkey, as `link.py` wants it: opened, proven, used by one task, closed.

A command is a plain one of the server's, or (name of a script, key, key, arguments...). It knows no cache and no
limits. The only file that imports redis.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError

from .link import Command, WireFault


class _WrongType:
    """What a plain command gets from a key that holds something else: the key's fault and not the server's."""


WRONG_TYPE: Final = _WrongType()


class Dialler:
    """Makes connections to one address, with the scripts loaded and proof that it carries out `probe` in time.

    A server that is full, paused or a replica answers a PING all the same; so whoever writes, probes with a write.
    `timeout` in seconds. Raises ValueError for an address that is none, without repeating it.
    """

    def __init__(self, url: str, scripts: Mapping[str, str], timeout: float, probe: Command) -> None:
        self._probe = probe
        self._scripts = scripts
        self._timeout = timeout
        try:
            self._pool = ConnectionPool.from_url(
                url,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                socket_connect_timeout=1.0,
                socket_timeout=None,  # the link has the one clock
                client_name="trimtab",
            )
            self._pool.make_connection()  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, RedisError):
            # `from None`: the address holds a password, and the library's error may repeat it.
            raise ValueError("not an address of a store: redis://, rediss:// or unix:// is needed") from None

    async def __call__(self) -> RedisWire:
        wire = RedisWire(self._pool.make_connection(), self._scripts)  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(2.0):
                await wire.open()
            async with asyncio.timeout(self._timeout):
                reply = (await wire.exchange([self._probe]))[0]
            if isinstance(reply, RedisError):
                raise reply
        except WireFault:
            await wire.close()
            raise
        except Exception as e:
            await wire.close()
            raise WireFault(_plain(e)) from None
        except BaseException:
            await wire.close()
            raise
        return wire


class RedisWire:
    """Replies are the server's, as bytes; WRONG_TYPE where a plain command met a key of another type."""

    def __init__(self, connection: AbstractConnection, scripts: Mapping[str, str]) -> None:
        self._connection = connection
        self._scripts = scripts
        # The server names a script by this digest; it protects nothing.
        self._digests = {n: hashlib.sha1(s.encode(), usedforsecurity=False).hexdigest() for n, s in scripts.items()}

    async def open(self) -> None:
        await self._connection.connect()  # type: ignore[no-untyped-call]
        await self._load()

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        try:
            calls = [self._call(command) for command in commands]
            replies = await self._send(calls)
            unknown = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:  # a restarted or flushed server; these were not carried out, so they may be sent again
                await self._load()
                for i, reply in zip(unknown, await self._send([calls[i] for i in unknown]), strict=True):
                    replies[i] = reply
        except Exception as e:  # the library raises whatever it meets in bytes that are no protocol
            raise WireFault(_plain(e)) from None
        for i, reply in enumerate(replies):
            if isinstance(reply, ResponseError) and commands[i][0] not in self._digests:
                replies[i] = WRONG_TYPE if str(reply).startswith("WRONGTYPE") else reply
        return replies

    async def close(self) -> None:
        await self._connection.disconnect(nowait=True)

    def _call(self, command: Command) -> Command:
        digest = self._digests.get(command[0])
        return command if digest is None else ("EVALSHA", digest, 2, *command[1:])

    async def _load(self) -> None:
        for reply in await self._send([("SCRIPT", "LOAD", source) for source in self._scripts.values()]):
            if isinstance(reply, Exception):
                raise reply

    async def _send(self, calls: Sequence[Command]) -> list[Any]:
        connection = self._connection
        await connection.send_packed_command(connection.pack_commands(calls), check_health=False)
        replies: list[Any] = []
        for _ in calls:
            try:
                replies.append(await connection.read_response())
            except ResponseError as e:
                replies.append(e)
        return replies


def _plain(error: Exception) -> str:
    """What went wrong, in our words: the library's may hold addresses."""
    if isinstance(error, AuthenticationError):
        return "it refuses our credentials"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, ResponseError):
        return f"it refuses a command ({type(error).__name__})"
    return f"the connection failed ({type(error).__name__})"
