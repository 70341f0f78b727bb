"""A line chart as SVG text, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 70, 130, 20, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#7f7f7f")


def growth(sizes: Sequence[int], lines: Mapping[str, Sequence[float]], x_title: str, y_title: str) -> str:
    """One line per name over `sizes`, and a dashed one of linear growth from the first line's first point."""
    values = [value for line in lines.values() for value in line]
    first = next(iter(lines.values()))[0]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def x(size: float) -> float:
        span = math.log(sizes[-1] / sizes[0])
        return LEFT + math.log(size / sizes[0]) / span * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(value) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def path(points: Sequence[tuple[float, float]], colour: str, extra: str = "") -> str:
        joined = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in points)
        return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"{extra}/>'

    def text(left: float, top: float, words: str, anchor: str = "middle", colour: str = "#333") -> str:
        place = f'x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}" fill="{colour}"'
        return f"<text {place}>{escape(words)}</text>"

    parts = []
    for power in range(low, high + 1):
        level = y(10.0**power)
        parts.append(f'<path d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(text(LEFT - 8, level + 4, f"{10.0**power:g}", "end"))
    parts += [text(x(size), HEIGHT - BOTTOM + 18, f"{size:,}") for size in sizes]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_title))
    parts.append(text(LEFT - 8, TOP - 6, y_title, "end"))
    top = min(sizes[-1], sizes[0] * 10**high / first)
    linear = [(sizes[0], first), (top, first * top / sizes[0])]
    parts.append(path(linear, "#999", ' stroke-dasharray="5 4"'))
    parts.append(text(x(top) - 6, y(linear[1][1]) + 14, "linear", "end", "#777"))
    for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
        parts.append(path(list(zip(sizes, line, strict=True)), colour))
        parts.append(text(WIDTH - RIGHT + 8, y(line[-1]) + 4, name, "start", colour))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )
