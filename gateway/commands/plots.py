"""Pictures of what a router does and a model gives, as PNG or SVG by the file's ending.

Needs matplotlib: pip install 'trimtab[plot]'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backends.registry import require
from ...routing.worth import curve
from .prompts import Array, Unusable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...backends.engine.poisson import Load

_DAY_S = 86_400.0


@contextmanager
def _axes(path: Path, title: str, across: str, up: str) -> Iterator[Any]:
    """One figure, drawn without a display and written when the block ends. Raises MissingExtra, Unusable."""
    require("drawing", "plot", ("matplotlib",))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    yield axes
    try:
        figure.savefig(path)
    except (OSError, ValueError) as e:
        raise Unusable(f"{path} cannot be drawn: {e}") from None


def quality_over_share(path: Path, gain: Array, small: Array, large: Array, name: str) -> None:
    """The router's curve between the small model alone and the large one alone, beside a coin and the best."""
    title = "Quality over the large model's share"
    with _axes(path, title, "share of requests the large model answers", "share of good answers") as axes:
        share, quality = curve(gain, small, large, 100)
        axes.plot(share, quality, label=name, linewidth=2)
        best_share, best = curve(large - small, small, large, 100)
        axes.plot(best_share, best, ":", color="grey", label="if it were known beforehand")
        axes.plot([0, 1], [small.mean(), large.mean()], "--", color="grey", label="a coin")
        axes.legend(loc="lower right")


def quality_over_money(path: Path, points: Mapping[str, tuple[float, float]], frontier: tuple[Array, Array]) -> None:
    """`points`: dollars and quality of each policy; `frontier`: the same for every share the router could hold."""
    with _axes(path, "What each policy costs and gives", "US dollars", "share of good answers") as axes:
        axes.plot(*frontier, color="grey", alpha=0.6, label="every share, by this calibration")
        for name, (dollars, quality) in points.items():
            axes.plot([dollars], [quality], "o", label=name)
        axes.legend(loc="lower right")


def money_over_time(path: Path, spent: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """`spent`: for each policy, seconds and the dollars spent until then."""
    with _axes(path, "Money over the log", "days", "US dollars") as axes:
        begin = min((at[0] for at, _ in spent.values() if len(at)), default=0.0)
        for name, (at, dollars) in spent.items():
            axes.step((np.asarray(at) - begin) / _DAY_S, dollars, where="post", label=name)
        axes.legend(loc="upper left")


def share_over_time(path: Path, shares: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """`shares`: for each policy, seconds and the large model's share of the requests around then."""
    with _axes(path, "The large model's share", "days", "share of requests") as axes:
        begin = min((at[0] for at, _ in shares.values() if len(at)), default=0.0)
        for name, (at, share) in shares.items():
            axes.plot((np.asarray(at) - begin) / _DAY_S, share, label=name)
        axes.set_ylim(-0.02, 1.02)
        axes.legend(loc="upper left")


def times_over_rate(path: Path, loads: Sequence[Load], capacity: float) -> None:
    """Waiting times, on a logarithmic scale, and tokens a second, at each rate of requests; `capacity` is a line."""
    rates = [one.rate for one in loads]
    with _axes(path, "Under random arrivals", "requests a second", "milliseconds") as axes:
        axes.set_yscale("log")
        for name, mark in (("ttft_p50", "-o"), ("ttft_p99", "--o"), ("itl_p50", "-s"), ("itl_p99", "--s")):
            label = name.replace("ttft", "first text").replace("itl", "between texts").replace("_p", ", P")
            axes.plot(rates, [getattr(one, name) for one in loads], mark, label=label)
        axes.axvline(capacity, color="grey", linestyle=":", label="capacity")
        right = axes.twinx()
        right.set_ylabel("tokens a second")
        right.plot(rates, [one.tokens_s for one in loads], "-", color="grey", alpha=0.6, label="tokens a second")
        right.set_ylim(bottom=0)
        lines = [*axes.get_lines(), *right.get_lines()]
        axes.legend(lines, [str(line.get_label()) for line in lines], loc="upper left")
