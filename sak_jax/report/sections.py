"""The parts of a page that every run has: summary, results, curves, predictions, details; all names are escaped."""

import json
import math
from html import escape

from sak_jax.report import curves, elements
from sak_jax.report.elements import Shown, dot
from sak_jax.report.record import flatten, union
from sak_jax.report.table import change, number

MAX_CHARTS = 60


def summary(shown: Shown) -> str:
    """A card a run: its Delta_m, length and notes."""
    cards = []
    for index, run in enumerate(shown.runs):
        facts = []
        if run.delta_m is not None:
            sign = "good" if run.delta_m >= 0 else "bad"
            facts.append(f'<p class="delta {sign}"><span>Δ<sub>m</sub></span> {run.delta_m:+z.2f} %</p>')
        length = [f"{run.steps:,} steps" if run.steps else "", _duration(run.seconds)]
        if any(length):
            facts.append(f'<p class="quiet">{" · ".join(filter(None, length))}</p>')
        facts += [f'<p class="note">{escape(note)}</p>' for note in run.notes]
        name = f'<h2 class="name">{dot(index, shown)}{escape(run.name)}</h2>' if len(shown.runs) > 1 else ""
        cards.append(f'<div class="card">{name}{"".join(facts)}</div>' if name or facts else "")
    return f'<div class="cards">{"".join(cards)}</div>'


def results(shown: Shown) -> str:
    """Every score of every run beside the single-task baseline and the published one."""
    runs, many = shown.runs, len(shown.runs) > 1
    keys = union([run.scores for run in runs])
    if not keys:
        return '<p class="quiet">There are no scores yet.</p>'
    baselines, published = _agreed([run.baselines for run in runs]), _agreed([run.published for run in runs])
    head = ['<th scope="col">metric</th>']
    head += [
        f'<th scope="col" class="num">{dot(i, shown)}{escape(run.name) if many else "student"}</th>'
        for i, run in enumerate(runs)
    ]
    if baselines:
        head.insert(2, '<th scope="col">change</th>') if not many else None
        head.append('<th scope="col" class="num">single-task</th>')
    if published:
        head.append('<th scope="col" class="num">published</th>')
    rows = []
    changes = {
        (index, key): change(run.scores.get(key), run.baselines.get(key), run.higher_is_better.get(key))
        for index, run in enumerate(runs)
        for key in keys
    }
    longest = max((abs(percent) for percent in changes.values() if percent is not None), default=1)
    for key in keys:
        better = next((run.higher_is_better[key] for run in runs if key in run.higher_is_better), None)
        arrow = {True: "↑", False: "↓", None: ""}[better]
        words = {True: "higher is better", False: "lower is better", None: ""}[better]
        hint = (
            f'&nbsp;<span class="quiet" role="img" aria-label="{words}" title="{words}">{arrow}</span>' if arrow else ""
        )
        values = [run.scores.get(key) for run in runs]
        best = _best(values, better) if many else None
        cells = [f'<th scope="row">{escape(key)}{hint}</th>']
        for index, (run, value) in enumerate(zip(runs, values, strict=True)):
            text = number(math.nan if value is None and key in run.scores else value)
            text = f"<strong>{text}</strong>" if value is not None and value == best else text
            shown_bar = elements.bar(changes[index, key], longest, alone=not many)
            cells.append(f'<td class="num">{text}{shown_bar if many else ""}</td>')
            if baselines and not many:
                cells.append(f"<td>{shown_bar}</td>")
        for column in filter(None, (baselines, published)):
            cells.append(f'<td class="num">{number(column.get(key))}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    if any(run.delta_m is not None for run in runs):
        cells = ['<th scope="row">Δ<sub>m</sub> <span class="quiet">%</span></th>']
        for run in runs:
            text = "" if run.delta_m is None else f"{run.delta_m:+z.2f}"
            cells.append(f'<td class="num"><strong>{text}</strong></td>')
            cells += ["<td></td>"] if baselines and not many else []
        cells += ['<td class="num"></td>'] if baselines else []
        cells += [f'<td class="num">{_signed(published.get("delta_m"))}</td>'] if published else []
        rows.append(f'<tr class="total">{"".join(cells)}</tr>')
    caption = "Scores on the validation set"
    caption += "; change is relative to the single-task student, positive where better" if baselines else ""
    return elements.table(caption, head, rows)


def learning_curves(shown: Shown) -> str:
    """A chart a value; the values under the pointer, or under the arrow keys, are read out below it."""
    if not shown.charts:
        return ""
    names = [run.name for run in shown.runs]
    groups: dict[str, list[str]] = {}
    for index, chart in enumerate(shown.charts[:MAX_CHARTS]):
        groups.setdefault(chart.split, []).append(
            f'<figure class="chart" data-chart="{index}"><figcaption>{escape(chart.name)}</figcaption>'
            f'{curves.svg(chart, names)}<output aria-live="polite">{_last(chart, shown)}</output></figure>'
        )
    titles = {"val": "Validation"}
    parts = [
        f'<h3>{escape(titles.get(split, split))}</h3><div class="charts">{"".join(figures)}</div>'
        for split, figures in groups.items()
    ]
    left = len(shown.charts) - MAX_CHARTS
    more = f'<p class="quiet">{left} more values are in metrics.jsonl.</p>' if left > 0 else ""
    hint = "Hover over a chart, or focus it and press the arrow keys, to read values."
    if any(chart.baseline is not None for chart in shown.charts):
        hint += " The dashed line is the single-task baseline."
    return f'<p class="quiet">{hint}</p>{"".join(parts)}{more}'


def predictions(shown: Shown) -> str:
    """Every task's picture with one slider that wipes from the image over the prediction to the truth."""
    if not any(shown.examples):
        return ""
    total = max(len(run.pictures) for run in shown.runs)
    count = max(map(len, shown.examples))
    tasks = union([example["tasks"] for examples in shown.examples for example in examples])
    some = f" {count} of {total} images, evenly spaced, so that the page stays small." if count < total else ""
    many = len(shown.runs) > 1
    rows = []
    for task in tasks:
        figures = []
        for index, (run, examples) in enumerate(zip(shown.runs, shown.examples, strict=True)):
            if any(task in example["tasks"] for example in examples):
                caption = f"{dot(index, shown)}{escape(run.name)}" if many else escape(task)
                figures.append(
                    f'<figure class="viewer" data-run="{index}" data-task="{escape(task)}"><div class="stage">'
                    f'<img class="base" alt=""><img class="top" alt=""><span class="edge"></span>'
                    f'<span class="tag left" aria-hidden="true"></span><span class="tag right" aria-hidden="true">'
                    f"</span></div>"
                    f"<figcaption>{caption}</figcaption></figure>"
                )
        rows.append(f'<h3>{escape(task)}</h3><div class="viewers">{"".join(figures)}</div>' if many else figures[0])
    body = "".join(rows) if many else f'<div class="viewers">{"".join(rows)}</div>'
    return (
        '<div class="controls"><div class="wipe"><label for="wipe">Wipe</label><input type="range" id="wipe" min="0" '
        'max="300" value="50" step="1"><div class="stops" role="group" aria-label="Show"></div></div>'
        f'<div class="strip" role="radiogroup" aria-label="Image"></div></div>'
        f'<p class="quiet">Drag the slider, or a picture, from the image over the prediction to the truth.{some}</p>'
        f"<noscript><p>The pictures are shown by a script, which this browser does not run.</p></noscript>{body}"
    )


def details(shown: Shown) -> str:
    """Commands, versions and recipes."""
    many, parts = len(shown.runs) > 1, []
    for index, run in enumerate(shown.runs):
        title = f"<h3>{dot(index, shown)}{escape(run.name)}</h3>" if many else "<h3>Command</h3>"
        command = escape(run.command) or '<span class="quiet">not recorded</span>'
        copy = '<button type="button" class="copy">Copy</button>' if run.command else ""
        parts.append(f'{title}<div class="command"><pre tabindex="0"><code>{command}</code></pre>{copy}</div>')
        if run.versions:
            found = " · ".join(f"{escape(name)} {escape(str(version))}" for name, version in run.versions.items())
            parts.append(f'<p class="quiet">{found}</p>')
    configs = [flatten(run.config) for run in shown.runs]
    keys = union(configs)
    if keys:
        head = ['<th scope="col">key</th>'] + [
            f'<th scope="col">{dot(i, shown)}{escape(run.name) if many else "value"}</th>'
            for i, run in enumerate(shown.runs)
        ]
        rows = []
        for key in keys:
            values = [_value(config[key]) if key in config else "" for config in configs]
            same = ' class="same"' if many and len(set(values)) == 1 else ""
            cells = "".join(f"<td><code>{escape(value)}</code></td>" for value in values)
            rows.append(f'<tr{same}><th scope="row"><code>{escape(key)}</code></th>{cells}</tr>')
        only = '<label class="only"><input type="checkbox" id="only" checked> Only what differs</label>' if many else ""
        parts.append(f"<h3>Recipe</h3>{only}{elements.table('Every key of the recipe', head, rows, 'recipe')}")
    return "".join(parts)


def _last(chart: curves.Chart, shown: Shown) -> str:
    """What is read out below a chart before anything is pointed at: the last values."""
    parts = []
    for index, points in chart.lines:
        finite = [point for point in points if point[1] is not None]
        name = f"{dot(index, shown)}{escape(shown.runs[index].name)} " if len(shown.runs) > 1 else ""
        text = f"<b>{number(finite[-1][1])}</b> at step {finite[-1][0]:,}" if finite else "<b>-</b> not finite"
        parts.append(f"<span>{name}{text}</span>")
    return "".join(parts)


def _agreed(groups: list[dict[str, float]]) -> dict[str, float]:
    """The entries that no two runs give differently."""
    return {
        key: values.pop()
        for key in union(groups)
        if len(values := {group[key] for group in groups if key in group}) == 1
    }


def _best(values: list[float | None], better: bool | None) -> float | None:
    finite = [value for value in values if value is not None]
    return None if better is None or len(finite) < 2 else (max if better else min)(finite)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+z.2f}"


def _duration(seconds: float | None) -> str:
    if not seconds:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _value(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value or '""'
    return text if len(text) <= 300 else f"{text[:300]}…"
