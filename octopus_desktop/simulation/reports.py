"""A simulation's rounds as a file: CSV, Parquet, TensorBoard events, or curves as SVG (or PNG). No torch of its own."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from octopus_desktop.simulation.simulator import SimulationResult

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito: told apart by everybody
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 260, 62, 16, 34, 40
Curve = Sequence[tuple[float, float]]


def rows(result: SimulationResult) -> list[dict[str, Any]]:
    """One mapping a round, the model that the run began with as round 0. ``time``: seconds since the begin, simulated
    ones where time is simulated."""
    names = sorted({name for row in result.rounds for name in row.metrics} | set(result.first))
    first: dict[str, Any] = {
        "round": 0,
        **{n: result.first.get(n) for n in names},
        "answered": None,
        "seconds": None,
        "model": None,
    }
    table, time = [{**first, "time": 0.0}], 0.0
    for row in result.rounds:
        time += row.seconds
        values = {name: row.metrics.get(name) for name in names}
        facts = {"answered": len(row.answered), "seconds": row.seconds, "model": row.model.digest, "time": time}
        table.append({"round": row.round, **values, **facts})
    return table


def write(path: Path, result: SimulationResult) -> None:
    """CSV or Parquet, by the file's name.

    Raises:
        UserError: OCT-CLI-USAGE for another ending.
    """
    table = rows(result)
    if path.suffix.lower() == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            for row in table:
                seconds = "" if row["seconds"] is None else f"{row['seconds']:.6f}"
                plain = {name: "" if value is None else value for name, value in row.items()}
                writer.writerow({**plain, "seconds": seconds, "time": f"{row['time']:.6f}"})
    elif path.suffix.lower() == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(table), path)
    else:
        raise UserError(
            "OCT-CLI-USAGE",
            f"Metrics cannot be written to {path.name}.",
            "The ending says how: .csv or .parquet.",
            "Name the file so.",
        )


def write_events(folder: Path, result: SimulationResult) -> None:
    """For TensorBoard: one scalar a metric, one step a round.

    Raises:
        UserError: OCT-PACKAGE-MISSING when tensorboard is not installed.
    """
    require("tensorboard", "tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for row in rows(result):
            for name, value in row.items():
                if "/" in name and value is not None:
                    writer.add_scalar(name, value, row["round"])


def curves(result: SimulationResult) -> dict[str, Curve]:
    """Metric to (round, value)."""
    table = rows(result)
    names = [name for name in table[0] if "/" in name and not name.endswith(("/examples", "/rate_sum"))]
    return {name: [(row["round"], row[name]) for row in table if row[name] is not None] for name in names}


def plot(path: Path, panels: Mapping[str, Mapping[str, Curve]], across: str = "round") -> None:
    """Panels one below the other: title to curves by name. ``across``: what the horizontal axis shows.

    Raises:
        UserError: OCT-CLI-USAGE for another ending than .svg and .png, OCT-PACKAGE-MISSING for .png without matplotlib.
    """
    if path.suffix.lower() == ".svg":
        path.write_text(svg(panels, across), encoding="utf-8")
    elif path.suffix.lower() == ".png":
        require("matplotlib", "plots")
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH / 90, HEIGHT / 90 * len(panels)), layout="constrained")
        for number, (title, lines) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(len(panels), 1, number, title=title, xlabel=across)
            for colour, (name, points) in zip(_colours(len(lines)), lines.items(), strict=True):
                axes.plot(*zip(*points, strict=True), label=name, color=colour)
            axes.legend()
        figure.savefig(path, dpi=150)
    else:
        raise UserError(
            "OCT-CLI-USAGE",
            f"Curves cannot be drawn to {path.name}.",
            "The ending must be .svg or .png.",
            "Name it so.",
        )


def panels_of(result: SimulationResult) -> dict[str, dict[str, Curve]]:
    """A panel for each kind of metric, training and evaluation together."""
    panels: dict[str, dict[str, Curve]] = {}
    for name, points in curves(result).items():
        panels.setdefault(name.partition("/")[2], {})[name] = points
    return {title: lines for title, lines in panels.items() if any(lines.values())}


def svg(panels: Mapping[str, Mapping[str, Curve]], across: str) -> str:
    size = f'width="{WIDTH}" height="{HEIGHT * max(1, len(panels))}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">'
        f'<rect {size} fill="#ffffff"/>'
    ]
    for number, (title, lines) in enumerate(panels.items()):
        parts.append(f'<g transform="translate(0 {number * HEIGHT})">{_panel(title, lines, across)}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(title: str, lines: Mapping[str, Curve], across: str) -> str:
    points = [point for line in lines.values() for point in line] or [(0.0, 0.0)]
    (x0, x1), (y0, y1) = (_span([p[axis] for p in points]) for axis in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        right, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + (x - x0) / (x1 - x0) * right, HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * down

    parts = [f'<text x="{LEFT}" y="16" font-size="13" font-weight="bold">{escape(title)}</text>']
    for step in range(5):
        x, y = x0 + (x1 - x0) * step / 4, y0 + (y1 - y0) * step / 4
        across_x, up = at(x, y)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up:.1f}" y2="{up:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{y:.4g}</text>')
        parts.append(f'<text x="{across_x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{x:.4g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(across)}</text>')
    for number, (colour, (name, line)) in enumerate(zip(_colours(len(lines)), lines.items(), strict=True)):
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        place = LEFT + 130 * number
        parts.append(f'<text x="{place}" y="29" fill="{colour}">{escape(name)}</text>')
    return "".join(parts)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _colours(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]


def require(package: str, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(
            "OCT-PACKAGE-MISSING",
            f"The Python package {package!r} is not installed.",
            "It is wanted for what was asked, and for nothing else.",
            f"Install the extra: pip install 'octopus-desktop[{extra}]'.",
        )
