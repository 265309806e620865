"""Draw a chart of the load: the calls a second by the number of threads or processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .chart import BACKENDS, COLORS, STYLE

TITLES = {
    "reuse": "reuse()",
    "hit": "get_or_generate(), stored",
    "create": "create()",
    "claim": "claim(), complete()",
}
_DASHES = {"processes": "-", "threads": "--"}
_CONTESTANTS = ("driver", "aicontent")


def draw(results: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw a row of panels per backend and a panel per operation, and write the figure as SVG.

    PostgreSQL is drawn with `synchronous_commit = on`, its default.

    Args:
        results: the results of the part load.
        file: the SVG file to write.
    """
    drawn = [each for each in results if each["synchronous_commit"] != "off"]
    backends = [name for name in BACKENDS if any(each["backend"] == name for each in drawn)]
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(9.6, 0.6 + 2.9 * len(backends)), layout="constrained", facecolor="white"
        )
        panels = figure.subplots(len(backends), len(TITLES), squeeze=False, sharey="row")
        for row, backend in enumerate(backends):
            for column, (operation, title) in enumerate(TITLES.items()):
                axes = panels[row, column]
                axes.set_title(title, loc="left", fontsize="medium")
                _draw_panel(
                    axes,
                    [
                        each
                        for each in drawn
                        if (each["backend"], each["operation"]) == (backend, operation)
                    ],
                )
            panels[row, 0].set_ylim(bottom=0)  # of the whole row
            panels[row, 0].set_ylabel(f"{BACKENDS[backend]}, calls a second")
        lines, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _draw_panel(axes: Axes, results: Sequence[dict[str, Any]]) -> None:
    """Draw a line per contestant for processes, and one for threads."""
    numbers = sorted({each["number"] for each in results})
    for contestant in _CONTESTANTS:
        for workers, dashes in _DASHES.items():
            # One process with one thread begins both lines.
            rates = {
                each["number"]: each[contestant]["a_second"]
                for each in results
                if each["workers"] == workers or each["number"] == 1
            }
            axes.plot(
                sorted(rates),
                [rates[number] for number in sorted(rates)],
                color=COLORS[contestant],
                linestyle=dashes,
                label=f"{contestant}, {workers}",
                marker="o",
                markersize=3,
            )
    axes.set_xscale("log")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("threads or processes")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(axis="y", color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
