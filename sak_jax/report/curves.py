"""Learning curves as inline SVG, a chart a value, with the points that a page shows when one hovers over them."""

import dataclasses
import math
from collections.abc import Sequence
from html import escape
from typing import Any

from sak_jax.report.record import Run
from sak_jax.report.table import number

WIDTH, HEIGHT = 400, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 12, 12, 26
POINTS = 400
FLOAT32_MAX = 3.5e38
COLOURS = 6
"""Runs have colours of their own up to this many; the stylesheet holds them."""

Points = list[tuple[int, float | None]]


@dataclasses.dataclass(frozen=True)
class Chart:
    """One value of one split, a line a run.

    Attributes:
      split: the stage's name, or `val`.
      name: of the value.
      lines: (run's index, points by step); a point that is not finite is None.
      baseline: a level to compare with, or None.
    """

    split: str
    name: str
    lines: tuple[tuple[int, Points], ...]
    baseline: float | None = None


def charts(runs: Sequence[Run]) -> list[Chart]:
    """Every value that any run logged: scores first, then each stage's losses with the total ahead."""
    found: dict[tuple[str, str], dict[int, dict[int, float | None]]] = {}
    for index, run in enumerate(runs):
        for entry in run.curves:
            for name, value in entry["values"].items():
                points = found.setdefault((entry["split"], name), {}).setdefault(index, {})
                # A resumed run may have written a step twice: the later one counts. Beyond float32 nothing is finite.
                points[entry["step"]] = None if value is None or abs(value) > FLOAT32_MAX else value
    splits = list(dict.fromkeys(split for split, _ in found))
    order = {split: (split != "val", splits.index(split)) for split in splits}
    keys = sorted(found, key=lambda key: (order[key[0]], key[1] != "total"))
    result = []
    for split, name in keys:
        if split == "val" and all(len(points) < 2 for points in found[split, name].values()):
            continue  # The table of results holds it.
        lines = tuple((index, thin(sorted(points.items()))) for index, points in found[split, name].items())
        levels = {run.baselines[name] for run in runs if name in run.baselines} if split == "val" else set()
        result.append(Chart(split, name, lines, levels.pop() if len(levels) == 1 else None))
    return result


def thin(points: Points, limit: int = POINTS) -> Points:
    """At most about `limit` points: the least and the greatest of each stretch, and one that is not finite if any is.

    What a chart of a few hundred pixels shows of a long run is unchanged, spikes and gaps among it.
    """
    if len(points) <= limit:
        return points
    stretches = max(limit // 3, 1)
    kept = {0, len(points) - 1}
    for part in range(stretches):
        indices = range(part * len(points) // stretches, (part + 1) * len(points) // stretches)
        finite = [index for index in indices if points[index][1] is not None]
        kept |= set([index for index in indices if points[index][1] is None][:1])
        if finite:
            kept |= {min(finite, key=lambda i: points[i][1]), max(finite, key=lambda i: points[i][1])}
    return [points[index] for index in sorted(kept)]


@dataclasses.dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (math.log10(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * ((value - low) / (high - low) if high > low else 0.5)

    def ticks(self, wanted: int = 4) -> list[float]:
        """Round values within the axis."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [10.0**power for power in powers]
            inside = [value for value in values if self.low <= value <= self.high]
            return inside[:: max(1, round(len(inside) / wanted))] if len(inside) > 1 else [self.low, self.high]
        span = self.high - self.low
        if not span > 0:
            return [self.low]
        rough = span / wanted
        power = 10 ** math.floor(math.log10(rough))
        step = next((power * factor for factor in (1, 2, 5, 10) if power * factor >= rough), 10 * power)
        first = math.ceil(self.low / step - 1e-9)
        return [round(index * step, 12) for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def scales(chart: Chart) -> tuple[Scale, Scale]:
    """The axes that hold all of a chart; losses that fall by more than a factor of fifty get a logarithmic one."""
    steps = [step for _, points in chart.lines for step, _ in points]
    values = [value for _, points in chart.lines for _, value in points if value is not None]
    if chart.baseline is not None:
        values.append(chart.baseline)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    log = low > 0 and high / low > 50
    if not log:
        margin = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
        low, high = low - margin, high + margin
    x = Scale(min(steps, default=0), max(steps, default=1), LEFT, WIDTH - RIGHT)
    return x, Scale(low, high, HEIGHT - BOTTOM, TOP, log)


def svg(chart: Chart, names: Sequence[str]) -> str:
    """The chart as an SVG element; its label tells a screen reader where each line starts and ends."""
    x, y = scales(chart)
    parts = []
    for tick in y.ticks():
        at = f"{y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at}" dy=".32em" text-anchor="end">{_short(tick)}</text>')
    for tick in x.ticks(5):
        if tick == int(tick):
            parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_short(tick)}</text>')
    if chart.baseline is not None:
        at = f"{y(chart.baseline):.1f}"
        parts.append(f'<line class="baseline" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
    for index, points in chart.lines:
        parts.append(f'<g class="run{index % COLOURS}{" again" if index >= COLOURS else ""}">{_line(points, x, y)}</g>')
    parts.append('<g class="cursor"></g>')
    label = escape(f"{chart.split}: {chart.name}. " + " ".join(_sentence(names[i], p) for i, p in chart.lines))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" aria-label="{label}">{"".join(parts)}</svg>'
        + ('<span class="log">logarithmic</span>' if y.log else "")
    )


def data(chart: Chart) -> dict[str, Any]:
    """What the page's script needs to show values: axes and points."""
    x, y = scales(chart)
    return {
        "x": [x.low, x.high, x.start, x.end],
        "y": [y.low, y.high, y.start, y.end],
        "log": y.log,
        "lines": [{"run": index, "points": [list(point) for point in points]} for index, points in chart.lines],
    }


def _line(points: Points, x: Scale, y: Scale) -> str:
    """The line, broken where a value is not finite; marks at the bottom say where, and dots show single points."""
    path, marks, pen = [], [], "M"
    finite = [point for point in points if point[1] is not None]
    for step, value in points:
        if value is None:
            marks.append(f'<path class="nan" d="M{x(step) - 3:.1f} {HEIGHT - BOTTOM - 6}l6 6m0-6l-6 6"/>')
            pen = "M"
            continue
        path.append(f"{pen}{x(step):.1f} {y(value):.1f}")
        pen = "L"
    dots = finite if len(finite) <= 12 else [b for a, b, c in _triples(points) if a is None and c is None and b]
    circles = "".join(f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="2.5"/>' for s, v in dots)
    return (f'<path class="line" d="{"".join(path)}"/>' if path else "") + circles + "".join(marks)


def _triples(points: Points):
    """Each point with its neighbours; None where there is none or where it is not finite."""
    known = [None, *(point if point[1] is not None else None for point in points), None]
    return zip(known, known[1:], known[2:], strict=False)


def _sentence(name: str, points: Points) -> str:
    finite = [point for point in points if point[1] is not None]
    if not finite:
        return f"{name}: no finite value."
    (first, start), (last, end) = finite[0], finite[-1]
    text = f"{name}: {number(start)} at step {first}"
    text += f", {number(end)} at step {last}" if last != first else ""
    return text + (f"; {len(points) - len(finite)} points are not finite." if len(finite) < len(points) else ".")


def _short(value: float) -> str:
    """A tick's label: thousands as k, few digits."""
    if value == int(value) and 10_000 <= abs(value) < 1e9:
        return f"{value / 1000:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"
    return f"{value:g}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.0e}".replace("e-0", "e-")
