"""`trimtab quantize WEIGHTS`: a model in 4 bits, and what that cost in perplexity, size and time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ...protocol.errors import TrimtabError


def run(weights: str, method: str, bits: int, group: int, data: list[Path], out: Path | None, tokens: int) -> int:
    """0 when it worked, 1 when the weights, the texts or the folder are to blame."""
    try:
        from ...backends.engine.quantize_job import quantize_job
    except ImportError as e:
        print(f"trimtab: {e}; the bundled engine is not installed: pip install 'trimtab[engine]'", file=sys.stderr)
        return 1
    try:
        with _Bar() as bar:
            lines = quantize_job(weights, method, bits, group, data, out, tokens, bar.at)
    except (TrimtabError, OSError, ValueError) as e:
        print(f"trimtab: {e}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


class _Bar:
    """A progress bar on standard error; nothing where that is no terminal."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
        self._task = self._progress.add_task("quantizing")
        self._progress.start()
        self.at: Callable[[int, int], None] = self._at
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def _at(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)
