"""The parts of a page that look inside a student: routing, features, confusion."""

from collections.abc import Sequence
from html import escape

import numpy as np

from sak_jax.report import elements
from sak_jax.report.elements import Shown, dot
from sak_jax.report.record import union

MAX_CLASSES = 60


def routing(shown: Shown) -> str:
    """The routers' weights, a table a task: a row a level, a column an expert."""
    parts = []
    for index, run in enumerate(shown.runs):
        tables = [
            f'<div class="routed" data-run="{index}" data-task="{escape(task)}">'
            f"{elements.heat_table(task, rows, run.experts, 'level')}</div>"
            for task, rows in run.routing.items()
            if rows and rows[0]
        ]
        if tables:
            over = f"Means over {run.routing_images} validation images." if run.routing_images else ""
            parts.append(
                f'{_title(index, shown)}<p class="quiet over">{over}</p><div class="heats">{"".join(tables)}</div>'
            )
    if not parts:
        return ""
    numbers = sorted({one["number"] for ones in shown.examples for one in ones if one["routing"]})
    options = "".join(f'<option value="{number}">image {number}</option>' for number in numbers)
    choice = (
        f'<p><label>Weights of <select id="routed"><option value="">the mean over images</option>{options}</select>'
        '</label> <img id="routed-image" alt="" hidden></p>'
    )
    return (
        '<p class="quiet">How much each task takes from the stem and from each teacher\'s path, at each level; '
        f"a row sums to one.</p>{choice if numbers else ''}{''.join(parts)}"
    )


def features(shown: Shown) -> str:
    """Fidelity of the distilled features, and their principal components in colour."""
    parts = []
    for index, run in enumerate(shown.runs):
        names = union([example["features"] for example in shown.examples[index]])
        if run.fidelity or names:
            parts.append(_title(index, shown))
        if run.fidelity:
            levels = max(map(len, run.fidelity.values()))
            head = ['<th scope="col">teacher</th>', *(f'<th scope="col">level {i + 1}</th>' for i in range(levels))]
            rows = [
                f'<tr><th scope="row">{escape(name)}</th>{"".join(map(elements.heat_cell, row))}</tr>'
                for name, row in run.fidelity.items()
            ]
            over = f", mean over {run.routing_images} images" if run.routing_images else ""
            parts.append(elements.table(f"Cosine of the path's features with the teacher's{over}", head, rows, "heat"))
        if names:
            pictures = "".join(
                f'<figure class="feature" data-run="{index}" data-feature="{escape(name)}"><div class="stage">'
                f'<img alt="Features of {escape(name)}"></div><figcaption>{escape(name)}</figcaption></figure>'
                for name in names
            )
            parts.append(
                '<p class="quiet">The three main components of the last level\'s features as red, green and blue, of '
                f'the image chosen under Predictions.</p><div class="viewers">{pictures}</div>'
            )
    return "".join(parts)


def classes(shown: Shown) -> str:
    """IoU of every class, and which classes are taken for which."""
    parts = []
    head = [
        '<th scope="col">class</th>',
        '<th scope="col" class="num">IoU</th>',
        '<th scope="col" class="num">% of pixels</th>',
        '<th scope="col">taken for</th>',
    ]
    for index, run in enumerate(shown.runs):
        for task, confusion in run.confusion.items():
            rows = _class_rows(confusion["classes"], np.asarray(confusion["counts"], np.float64))
            over = f" over {run.routing_images} images" if run.routing_images else ""
            left = len(confusion["classes"]) - MAX_CLASSES
            more = f'<p class="quiet">{left} more classes are in report.json.</p>' if left > 0 else ""
            name = f"{run.name}: {task}" if len(shown.runs) > 1 else task
            table = elements.table(f"Every class of {task}{over}", head, rows)
            parts.append(f"<h3>{dot(index, shown)}{escape(name)}</h3>{table}{more}")
    return "".join(parts)


def _class_rows(names: Sequence[str], counts: np.ndarray) -> list[str]:
    """A row a class: IoU, share of all pixels, and the classes that at least a twentieth of it is taken for."""
    hits, true = np.diag(counts), counts.sum(axis=1)
    either = true + counts.sum(axis=0) - hits
    shares = counts / np.maximum(true[:, None], 1)
    rows = []
    for row, name in enumerate(names[:MAX_CLASSES]):
        iou = 100 * hits[row] / either[row] if either[row] else None
        meter = "" if iou is None else f'<span style="width:{iou:.0f}%"></span>'
        others = [other for other in np.argsort(-shares[row]) if other != row and shares[row, other] >= 0.05]
        mistaken = ", ".join(f"{escape(names[other])} {100 * shares[row, other]:.0f} %" for other in others[:3])
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th><td class="num">{"-" if iou is None else f"{iou:.1f}"}'
            f'<span class="meter" aria-hidden="true">{meter}</span></td>'
            f'<td class="num">{100 * true[row] / max(true.sum(), 1):.1f}</td><td>{mistaken}</td></tr>'
        )
    return rows


def _title(index: int, shown: Shown) -> str:
    """The run's name, where there are several."""
    return f"<h3>{dot(index, shown)}{escape(shown.runs[index].name)}</h3>" if len(shown.runs) > 1 else ""
