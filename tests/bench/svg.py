"""Plots as SVG text: ratios on a logarithmic scale, and lines over a number of sessions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

COLOURS: Final = {
    "ngxstream": "#2f6f4f",
    "nginx": "#999999",
    "haproxy": "#b07a3c",
    "dnsdist": "#5b6fa8",
    "none": "#cccccc",
}
WIDTH: Final = 860
LABELS: Final = 330
BAR: Final = 11
FONT: Final = 'font-family="sans-serif" font-size="12" fill="#333"'

# one bar: program, ratio to nginx, target or None
Bars = Sequence[tuple[str, float]]


def _text(x: float, y: float, text: str, anchor: str = "start", extra: str = "") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text {where} {FONT} {extra}>{escape(text)}</text>"


def _page(width: float, height: float, parts: Sequence[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    inner = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{inner}\n</svg>\n'
    )


def _legend(names: Sequence[str], x: float, y: float) -> list[str]:
    parts = []
    for name in names:
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{COLOURS[name]}"/>')
        parts.append(_text(x + 14, y, name))
        x += 34 + 7 * len(name)
    return parts


def ratios(
    title: str, cases: Sequence[tuple[str, Bars, float | None]], *, less_is_better: bool
) -> str:
    """Draw bars from 1.0 (nginx) to each program's ratio.

    Args: a case is (title, bars, the ratio to reach); the scale is logarithmic
    """
    values = [value for _, bars, _ in cases for _, value in bars if value > 0]
    low = min(0.5, *values) if values else 0.5
    high = max(2.0, *values) if values else 2.0
    low, high = 2 ** math.floor(math.log2(low)), 2 ** math.ceil(math.log2(high))
    span = math.log2(high / low)

    def at(value: float) -> float:
        return LABELS + math.log2(max(value, low) / low) / span * (WIDTH - LABELS - 60)

    parts = [_text(10, 22, title, extra='font-weight="bold"')]
    names = [n for n in COLOURS if any(n == name for _, bars, _ in cases for name, _ in bars)]
    parts += _legend(names, 10, 44)
    parts.append(_text(10 + 110 * len(names), 44, "| to reach"))
    top = y = 66.0
    rows: list[str] = []
    for label, bars, target in cases:
        height = BAR * max(1, len(bars))
        rows.append(_text(LABELS - 8, y + height / 2 + 4, label, "end"))
        for n, (name, value) in enumerate(bars):
            left, right = sorted((at(1), at(value)))
            where = f'x="{left:.1f}" y="{y + n * BAR:.1f}" width="{max(1.0, right - left):.1f}"'
            rows.append(f'<rect {where} height="{BAR - 2}" fill="{COLOURS[name]}"/>')
            rows.append(_text(at(max(1.0, value)) + 4, y + n * BAR + 9, f"{value:.2f}"))
        if target is not None:
            x = at(target)
            rows.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 3:.1f}" y2="{y + height + 1:.1f}" '
                'stroke="#c00" stroke-width="2"/>'
            )
        y += height + 10
    for power in range(round(math.log2(low)), round(math.log2(high)) + 1):
        x = at(2.0**power)
        colour = "#555" if power == 0 else "#ddd"
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{y:.0f}" stroke="{colour}"/>'
        )
        parts.append(_text(x, y + 14, f"{2.0**power:g}", "middle"))
    better = "shorter is better: left of 1" if less_is_better else "longer is better: right of 1"
    parts.append(_text(LABELS, y + 32, f"ratio to nginx in the same rounds; {better}"))
    return _page(WIDTH, y + 44, parts + rows)


def lines(
    title: str, label: str, series: Mapping[str, Sequence[tuple[float, float]]], *,
    logarithmic: bool = False,
) -> str:
    """Draw a line for each program.

    Args: points are (number, cost); label: below the plot; logarithmic: the scale of costs is too
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return _page(WIDTH, 40, [_text(10, 22, title)])
    most = max(y for _, y in points) * 1.15
    least = min(y for _, y in points) / 1.3
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    width, height, left, top = 560, 220, 80, 60

    def at(x: float, y: float) -> tuple[float, float]:
        along = math.log(x / low) / math.log(high / low) if high > low else 0.5
        up = math.log(max(y, least) / least) / math.log(most / least) if logarithmic else y / most
        return left + along * width, top + height - up * height

    parts = [_text(10, 22, title, extra='font-weight="bold"'), *_legend(list(series), 10, 44)]
    for step in range(5):
        value = least * (most / least) ** (step / 4) if logarithmic else most * step / 4
        _, y = at(low, value)
        parts.append(
            f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
        )
        parts.append(_text(left - 6, y + 4, f"{value:,.0f}".replace(",", " "), "end"))
    for x in sorted({x for x, _ in points}):
        px, _ = at(x, 0)
        parts.append(_text(px, top + height + 18, f"{x:,.0f}".replace(",", " "), "middle"))
    parts.append(_text(left + width / 2, top + height + 38, label, "middle"))
    for name, line in series.items():
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in (at(*point) for point in line))
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2.5"/>'
        )
        for px, py in (at(*point) for point in line):
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3.5" fill="{COLOURS[name]}"/>')
    return _page(left + width + 60, top + height + 50, parts)
