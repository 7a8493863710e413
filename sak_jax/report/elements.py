"""The elements that the parts of a page are made of; names from a run are escaped here."""

import dataclasses
import math
from html import escape
from typing import Any

from sak_jax.report import curves
from sak_jax.report.curves import COLOURS
from sak_jax.report.record import Run


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a page shows.

    Attributes:
      runs: side by side, in this order.
      charts: see `curves.charts`.
      examples: each run's images, see `embed.examples`.
    """

    runs: list[Run]
    charts: list[curves.Chart]
    examples: list[list[dict[str, Any]]]


def table(caption: str, head: list[str], rows: list[str], style: str = "") -> str:
    """A table in a box that scrolls, by keyboard too."""
    return (
        f'<div class="box" role="region" aria-label="{escape(caption)}" tabindex="0"><table class="{style}">'
        f"<caption>{escape(caption)}</caption><thead><tr>{''.join(head)}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def heat_table(name: str, rows: list[list[float]], columns: list[str], row_name: str) -> str:
    """A table of values in 0..1 with coloured cells; its rows are numbered from 1."""
    width = max(map(len, rows))
    columns = [columns[i] if i < len(columns) else f"expert {i + 1}" for i in range(width)]
    head = [f'<th scope="col">{row_name}</th>'] + [f'<th scope="col">{escape(column)}</th>' for column in columns]
    body = [f'<tr><th scope="row">{i + 1}</th>{"".join(map(heat_cell, row))}</tr>' for i, row in enumerate(rows)]
    return table(name, head, body, "heat")


def heat_cell(value: float | None) -> str:
    """A cell whose colour is the value, of 0..1."""
    if value is None or not math.isfinite(value):
        return '<td class="num">-</td>'
    strength = 100 * min(max(value, 0.0), 1.0)
    return f'<td class="num{_shade(strength)}" style="--v:{strength:.0f}%">{value:.2f}</td>'


# The page's script colours the weights of a chosen image by the same two thresholds.
def _shade(strength: float) -> str:
    """The class of a cell whose text must change its colour to be read: on the light page, on the dark page."""
    return " high mid" if strength > 62 else " mid" if strength > 48 else ""


def dot(index: int, shown: Shown) -> str:
    """The run's colour, where there are several."""
    return f'<span class="dot run{index % COLOURS}" aria-hidden="true"></span>' if len(shown.runs) > 1 else ""


def bar(percent: float | None, longest: float, alone: bool) -> str:
    """A change in percent; in a column of its own with a bar to the right where better, to the left where worse."""
    if percent is None:
        return ""
    sign, width = ("good" if percent >= 0 else "bad"), 50 * abs(percent) / (longest or 1)
    if not alone:
        return f'<span class="change {sign}">{percent:+z.1f} %</span>'
    return (
        f'<span class="change alone {sign}">{percent:+z.1f} %<span class="bar" aria-hidden="true">'
        f'<span style="width:{width:.1f}%"></span></span></span>'
    )
