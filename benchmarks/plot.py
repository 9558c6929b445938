"""A line chart as SVG: enough for one page of the docs, and nothing to install."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

_WIDTH: Final = 720
_HEIGHT: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 232, 40, 48
_COLOURS: Final = ("#1f6feb", "#bf3989", "#1a7f37", "#9a6700", "#6e7781")
_TICKS: Final = 5


def line_chart(
    title: str,
    *,
    columns: Sequence[str],
    lines: Mapping[str, Sequence[float]],
    unit: str,
    most: float | None = None,
) -> str:
    """Lines over equally spaced columns, from zero up. lines: by name, a value for each column. most: of the axis."""
    top = most if most is not None else max(max(values) for values in lines.values()) * 1.1
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(column: int) -> float:
        return _LEFT + (right - _LEFT) * column / max(1, len(columns) - 1)

    def y(value: float) -> float:
        return bottom - (bottom - _TOP) * value / top

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        _text(_LEFT, 22, title, size=14),
    ]
    for tick in range(_TICKS + 1):
        value = top * tick / _TICKS
        parts.append(
            f'<path d="M{_LEFT} {y(value):.1f}H{right}" stroke="#d0d7de" stroke-width="{2 if not tick else 1}"/>'
        )
        parts.append(_text(_LEFT - 8, y(value) + 4, f"{value:.2f}", anchor="end"))
    parts += [_text(x(index), bottom + 18, column, anchor="middle") for index, column in enumerate(columns)]
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 10, unit, anchor="middle"))
    for number, (name, values) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(x(index), y(value)) for index, value in enumerate(values)]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>' for across, down in points
        ]
        legend = _TOP + 20 * number
        parts.append(
            f'<path d="M{right + 16} {legend}h24" stroke="{colour}" stroke-width="2"/>'
            + _text(right + 46, legend + 4, name)
        )
    return "\n".join([*parts, "</svg>", ""])


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#1f2328">{escape(text)}</text>'
