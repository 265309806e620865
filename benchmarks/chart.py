"""Draw a chart of the hot paths: the time of a call by the rows of the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

OPERATIONS = {
    "reuse": "reuse()",
    "first_reusable": "first_reusable()",
    "get_or_generate hit": "get_or_generate() of stored content",
}
"""The titles of the panels, by operation."""
BACKENDS = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
COLORS = {
    "aicontent": "#0b6e4f",
    "aicontent, prepared": "#3fbf8f",
    "driver": "#222222",
    "driver, prepared": "#888888",
    "peewee": "#c8553d",
    "sqlalchemy": "#3d5a80",
}

# The SVG keeps text as text, and equal results give equal files.
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "aicontent",
    "font.family": ["DejaVu Sans", "sans-serif"],
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.12,
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "ytick.minor.size": 0,
}


def draw(results: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw a panel per operation and backend, and write the figure as SVG.

    Args:
        results: the results of the hot paths. Only the first document size is drawn, and only
            operations that all results have.
        file: the SVG file to write.
    """
    drawn = [each for each in results if each["characters"] == results[0]["characters"]]
    backends = [name for name in BACKENDS if any(each["backend"] == name for each in drawn)]
    operations = [
        name for name in OPERATIONS if all(name in each["microseconds"] for each in drawn)
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(6.4 * len(backends), 4 * len(operations)),
            layout="constrained",
            facecolor="white",
        )
        panels = figure.subplots(len(operations), len(backends), squeeze=False)
        for row, operation in enumerate(operations):
            for column, backend in enumerate(backends):
                axes = panels[row, column]
                axes.set_title(f"{BACKENDS[backend]}: {OPERATIONS[operation]}", loc="left")
                medians = {
                    each["rows"]: each["microseconds"][operation]
                    for each in drawn
                    if each["backend"] == backend
                }
                _draw_panel(axes, medians)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _draw_panel(axes: Axes, medians: dict[int, dict[str, float]]) -> None:
    """Draw a line per contestant on logarithmic axes.

    Args:
        axes: the panel.
        medians: the microseconds by number of rows and by contestant.
    """
    sizes = sorted(medians)
    last = medians[sizes[-1]]
    # The legend lists the contestants in the order of the lines' right ends.
    for name in sorted(last, key=lambda name: -last[name]):
        times = [medians[rows][name] for rows in sizes]
        axes.plot(sizes, times, color=COLORS.get(name), label=name, marker="o", markersize=3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{rows:,}" for rows in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("rows")
    axes.set_yscale("log")
    axes.set_ylabel("µs per call")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
