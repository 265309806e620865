"""The hot paths as a picture: how the time of a call grows with the rows, ours and others'."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

_WIDTH, _HEIGHT = 400, 300
"""Of one panel, in pixels, without its margins."""
_LEFT, _TOP, _BETWEEN, _BOTTOM = 60, 60, 150, 50
_COLORS = {
    "aicontent": "#0b6e4f",
    "aicontent, prepared": "#3fbf8f",
    "driver": "#222222",
    "driver, prepared": "#888888",
    "peewee": "#c8553d",
    "sqlalchemy": "#3d5a80",
}
_OPERATIONS = ("reuse", "first_reusable")
_TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def drawn(measured: Sequence[dict[str, Any]]) -> str:
    """Return an SVG: a panel for each backend and operation, logarithmic both ways.

    Args:
        measured: each with its backend, its rows, and microseconds by operation and rival.
    """
    backends = list(dict.fromkeys(each["backend"] for each in measured))
    width = _LEFT + len(_OPERATIONS) * (_WIDTH + _BETWEEN)
    height = len(backends) * (_TOP + _HEIGHT + _BOTTOM)
    panels = [
        _panel(measured, backend, operation, _LEFT + column * (_WIDTH + _BETWEEN), row)
        for row, backend in enumerate(backends)
        for column, operation in enumerate(_OPERATIONS)
    ]
    lines = "\n".join(line for panel in panels for line in panel)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{width}" height="{height}" fill="white"/>\n{lines}\n</svg>\n'
    )


def _panel(
    measured: Sequence[dict[str, Any]], backend: str, operation: str, left: int, row: int
) -> Iterator[str]:
    top = row * (_TOP + _HEIGHT + _BOTTOM) + _TOP
    took = {
        each["rows"]: each["microseconds"][operation]
        for each in measured
        if each["backend"] == backend
    }
    every = [value for by_rival in took.values() for value in by_rival.values()]
    x = _scale(min(took), max(took), left, left + _WIDTH)
    y = _scale(min(every) / 1.2, max(every) * 1.2, top + _HEIGHT, top)
    yield f'<text x="{left}" y="{top - 16}" font-size="15">{_TITLES[backend]}: {operation}()</text>'
    yield f'<path d="M{left},{top}V{top + _HEIGHT}H{left + _WIDTH}" fill="none" stroke="#999"/>'
    yield from _ticks(y, every, left)
    for rows in took:
        place = f'x="{x(rows):.0f}" y="{top + _HEIGHT + 18}"'
        yield f'<text {place} text-anchor="middle">{rows:,}</text>'
    yield f'<text x="{left + _WIDTH / 2}" y="{top + _HEIGHT + 36}" text-anchor="middle">rows</text>'
    yield f'<text x="{left - 6}" y="{top - 4}" text-anchor="end">µs</text>'
    for rival in next(iter(took.values())):
        points = " ".join(f"{x(n):.1f},{y(each[rival]):.1f}" for n, each in took.items())
        color = _COLORS.get(rival, "#555")
        yield f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
    yield from _labels({rival: y(value) for rival, value in took[max(took)].items()}, left)


def _labels(places: dict[str, float], left: int) -> Iterator[str]:
    """Name each line at its end, none over another."""
    lowest = -math.inf
    for rival, place in sorted(places.items(), key=lambda each: each[1]):
        lowest = max(place + 4, lowest + 13)
        color = _COLORS.get(rival, "#555")
        yield f'<text x="{left + _WIDTH + 4}" y="{lowest:.1f}" fill="{color}">{rival}</text>'


def _ticks(y: Any, every: Sequence[float], left: int) -> Iterator[str]:
    for power in range(6):
        for tick in (10**power, 2 * 10**power, 5 * 10**power):
            if min(every) / 1.2 <= tick <= max(every) * 1.2:
                place = f"{y(tick):.1f}"
                yield (
                    f'<path d="M{left},{place}H{left + _WIDTH}" stroke="#eee"/>'
                    f'<text x="{left - 6}" y="{float(place) + 4:.1f}" '
                    f'text-anchor="end">{tick:,}</text>'
                )


def _scale(low: float, high: float, first: float, last: float) -> Any:
    """Return the function that takes a value to its place, logarithmically."""
    span = math.log(high / low) or 1.0

    def place(value: float) -> float:
        return first + (last - first) * math.log(value / low) / span

    return place
