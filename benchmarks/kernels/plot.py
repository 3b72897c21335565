"""A picture of a report: how much of the device's bound each kernel reaches. Needs matplotlib; knows only rows."""

from __future__ import annotations

from pathlib import Path

from report import Report


def draw(report: Report, path: Path) -> None:
    """One bar a case, by topic, with the must of its bar where it has one."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    shares = {row.metric.rpartition("/")[0]: row for row in report.rows if row.metric.endswith("/of_bound")}
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.22 * len(shares)), layout="constrained")
    names = list(shares)[::-1]
    axes.barh(names, [100 * shares[name].value for name in names], color="#4878a8", height=0.7)
    axes.axvline(100, color="black", linewidth=0.8)
    axes.set_xlabel("% of the larger of the two bounds: bytes at the copy bandwidth, operations at the matmul rate")
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title(next(iter(report.notes), ""), fontsize=8)
    figure.savefig(path)
    pyplot.close(figure)
