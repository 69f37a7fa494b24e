"""Lines over the number of clients, as an SVG that needs nothing to be drawn. Pure."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 60, 190, 40, 50
COLORS = ("#c2255c", "#1971c2", "#2f9e44", "#e8590c", "#7048e8", "#495057", "#868e96")
STEPS = (1, 2, 2.5, 5, 10)


def line_plot(title: str, across: Sequence[int], lines: Mapping[str, Sequence[float]]) -> str:
    """An SVG with a line for each name; `across` are the places of its values, evenly spaced.

    Values that are nan are left out.
    """
    top_value = max((value for line in lines.values() for value in line if not math.isnan(value)), default=1.0)
    step = _step(top_value)
    top_value = step * math.ceil(top_value / step)
    parts = [_text(LEFT, 22, title, "start", 15), *_grid(across, top_value, step)]
    for line, color in zip(lines.values(), COLORS, strict=False):
        points = [
            (_x(place, len(across)), _y(value, top_value)) for place, value in enumerate(line) if not math.isnan(value)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points]
    parts += _legend(list(lines))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *parts, "</svg>", ""])


def _step(top_value: float) -> float:
    """A round distance between about five lines."""
    power: float = 10 ** math.floor(math.log10(max(top_value, 1e-9) / 5))
    return next(power * each for each in STEPS if power * each >= top_value / 5)


def _x(place: int, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (place / (count - 1) if count > 1 else 0.5)


def _y(value: float, top_value: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top_value


def _grid(across: Sequence[int], top_value: float, step: float) -> list[str]:
    parts = []
    for number in range(round(top_value / step) + 1):
        y = _y(number * step, top_value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#dee2e6"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{number * step:g}", "end"))
    for place, clients in enumerate(across):
        parts.append(_text(_x(place, len(across)), HEIGHT - BOTTOM + 20, f"{clients}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "clients", "middle"))
    return parts


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    for number, (name, color) in enumerate(zip(names, COLORS, strict=False)):
        y = TOP + 10 + 22 * number
        parts.append(f'<rect x="{WIDTH - RIGHT + 16}" y="{y - 9}" width="12" height="4" fill="{color}"/>')
        parts.append(_text(WIDTH - RIGHT + 34, y - 3, name, "start"))
    return parts


def _text(x: float, y: float, words: str, anchor: str, size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(words)}</text>'
