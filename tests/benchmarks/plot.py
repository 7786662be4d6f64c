"""Bars as an SVG file, by hand: one group a row of the table, one bar a way, a line at its floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2a6f97", "#e07a5f", "#3d8361", "#8d6a9f", "#c9a227", "#5c677d", "#bc4749")
BAR, GAP, HEIGHT, LEFT, TOP, BOTTOM = 34, 28, 300, 64, 64, 56


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """``value`` and ``floor`` in seconds; ``floor`` 0: none."""

    name: str
    value: float
    floor: float = 0.0


def bars(title: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """The picture. Each group has its own scale, which its label tells, for sizes differ by a thousand."""
    names = list(dict.fromkeys(bar.name for _, group in groups for bar in group))
    width = LEFT + sum(len(group) * BAR + GAP for _, group in groups) + GAP
    width = max(width, LEFT + 110 * len(names))
    drawn = [_text(LEFT, 22, title, size=15)]
    for number, name in enumerate(names):
        x = LEFT + 110 * number
        drawn.append(f'<rect x="{x}" y="34" width="12" height="12" fill="{_colour(names, name)}"/>')
        drawn.append(_text(x + 16, 44, name, size=11))
    x = LEFT
    for label, group in groups:
        most = max((max(bar.value, bar.floor) for bar in group), default=0.0) or 1.0
        left = x
        for bar in group:
            height = HEIGHT * bar.value / most
            y = TOP + HEIGHT - height
            colour = _colour(names, bar.name)
            drawn.append(f'<rect x="{x}" y="{y:.1f}" width="{BAR - 4}" height="{height:.1f}" fill="{colour}"/>')
            drawn.append(_text(x + BAR / 2 - 2, y - 3, f"{bar.value:.3g}", size=9, anchor="middle"))
            if bar.floor:
                y = TOP + HEIGHT * (1 - bar.floor / most)
                drawn.append(f'<path d="M{x - 1} {y:.1f}h{BAR - 2}" stroke="#111" stroke-width="2"/>')
            x += BAR
        drawn.append(f'<path d="M{left - 4} {TOP + HEIGHT}H{x}" stroke="#888"/>')
        drawn.append(_text((left + x) / 2, TOP + HEIGHT + 18, label, size=12, anchor="middle"))
        x += GAP
    drawn.append(
        _text(LEFT, TOP + HEIGHT + 42, "Seconds a round; each group has its own scale; black: the floor.", size=11)
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{TOP + HEIGHT + BOTTOM}">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *drawn, "</svg>", ""])


def _colour(names: Sequence[str], name: str) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def _text(x: float, y: float, words: str, *, size: int, anchor: str = "start") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {where} font-family="sans-serif" fill="#222">{escape(words)}</text>'
