"""Reading HTTP/1.1 requests off a buffer, for the fake upstream. Lenient and pure; no server of users' traffic."""

from __future__ import annotations

from typing import NamedTuple

_MAX_HEAD = 64 << 10


class Raw(NamedTuple):
    """A request as it came. Header names keep their spelling."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    head: bytes
    body: bytes


def take_request(buffer: bytearray) -> Raw | None:
    """The first whole request, taken off the buffer; None while it is not all there. Raises ValueError on nonsense."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > _MAX_HEAD:
            raise ValueError("the head is too long")
        return None
    head = bytes(buffer[: end + 4])
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    lower = {name.lower(): value for name, value in headers}
    if "chunked" in lower.get("transfer-encoding", "").lower():
        taken = _take_chunks(buffer, end + 4)
    else:
        stop = end + 4 + int(lower.get("content-length", "0"))
        taken = (bytes(buffer[end + 4 : stop]), stop) if len(buffer) >= stop else None
    if taken is None:
        return None
    body, stop = taken
    del buffer[:stop]
    return Raw(method, path, headers, head, body)


def _take_chunks(buffer: bytearray, at: int) -> tuple[bytes, int] | None:
    """A chunked body and where it ends; trailers are not expected of our clients."""
    parts: list[bytes] = []
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(buffer[at:line].split(b";")[0], 16)
        at = line + 2 + size + 2
        if len(buffer) < at:
            return None
        if size == 0:
            return b"".join(parts), at
        parts.append(bytes(buffer[line + 2 : at - 2]))
