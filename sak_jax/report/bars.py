"""Means and deviations over seeds as one SVG file: a row a name, each seed a dot, the deviation a bar."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from sak_jax.report.curves import Scale

ROW, CHARACTER, PLOT, MARGIN = 24, 7.4, 460, 16

STYLE = """
svg { color: #1c1c1e; background: #fff; font: 13px system-ui, sans-serif }
text { fill: currentColor }
.grid { stroke: currentColor; opacity: .15 }
.zero { stroke: currentColor; opacity: .6 }
.seed { fill: #1f77b4; opacity: .45 }
.bar { stroke: #1f77b4; stroke-width: 2 }
.mean { fill: #1f77b4 }
@media (prefers-color-scheme: dark) {
  svg { color: #eee; background: #1c1c1e } .seed, .mean { fill: #6db3f2 } .bar { stroke: #6db3f2 }
}
"""


def svg(title: str, rows: Mapping[str, Sequence[float]]) -> str:
    """The picture as a file of its own, for a light and a dark page.

    Args:
      title: of the axis.
      rows: values by name, one a seed, from top to bottom; there is one at least, and all are finite.
    """
    values = [value for row in rows.values() for value in row] + [0.0]
    margin = 0.05 * (max(values) - min(values)) or 1.0
    left = MARGIN + CHARACTER * max(map(len, rows))
    width, height = left + PLOT + 90, ROW * (len(rows) + 2)
    x = Scale(min(values) - margin, max(values) + margin, left + 10, left + PLOT)
    parts = [f'<text x="{left + 10}" y="16">{escape(title)}</text>']
    bottom = ROW * (len(rows) + 1)
    for tick in x.ticks(6):
        at, kind = f"{x(tick):.1f}", "grid" if tick else "zero"
        parts.append(f'<line class="{kind}" x1="{at}" x2="{at}" y1="{ROW}" y2="{bottom}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for index, (name, row) in enumerate(rows.items()):
        y = ROW * (index + 1.5)
        mean, deviation = float(np.mean(row)), float(np.std(row))
        parts.append(f'<text x="{left}" y="{y}" dy=".35em" text-anchor="end">{escape(name)}</text>')
        parts += [f'<circle class="seed" cx="{x(value):.1f}" cy="{y}" r="3"/>' for value in row]
        parts.append(
            f'<line class="bar" x1="{x(mean - deviation):.1f}" x2="{x(mean + deviation):.1f}" y1="{y}" y2="{y}"/>'
        )
        parts.append(f'<circle class="mean" cx="{x(mean):.1f}" cy="{y}" r="5"/>')
        text = f"{mean:+z.1f} ± {deviation:.1f}"
        parts.append(f'<text x="{left + PLOT + 8}" y="{y}" dy=".35em">{text}</text>')
    label = escape(
        f"{title}: " + "; ".join(f"{name} {np.mean(row):+z.2f} ± {np.std(row):.2f}" for name, row in rows.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" aria-label="{label}">'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )
