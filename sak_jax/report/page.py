"""A report as one HTML file: no network, no server, opened from disk; one run, or several side by side."""

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Sequence
from html import escape

from etils import epath

from sak_jax import paths
from sak_jax.report import curves, embed, insight, sections
from sak_jax.report.elements import Shown
from sak_jax.report.record import Run

PANELS = (
    ("results", "Results", sections.results),
    ("curves", "Curves", sections.learning_curves),
    ("predictions", "Predictions", sections.predictions),
    ("routing", "Routing", insight.routing),
    ("features", "Features", insight.features),
    ("classes", "Classes", insight.classes),
    ("details", "Details", sections.details),
)
"""The parts of a page: anchor, title, and what makes the HTML, or nothing where the runs have none of it."""


def write(file: epath.PathLike, runs: Sequence[Run]) -> None:
    """Writes the page of `runs` to `file`, whole or not at all."""
    paths.write_text(file, render(runs))


def render(runs: Sequence[Run]) -> str:
    """The page as text. Whatever comes from the user (names of runs, tasks, teachers, paths) is shown, never run."""
    pool = embed.Pool()
    shown = Shown(list(runs), curves.charts(runs), embed.examples(runs, pool))
    panels = [(anchor, title, content) for anchor, title, make in PANELS if (content := make(shown))]
    tabs = "".join(
        f'<button role="tab" id="tab-{anchor}" aria-controls="{anchor}" '
        f'aria-selected="{"false" if index else "true"}" tabindex="{-1 if index else 0}">{title}</button>'
        for index, (anchor, title, _) in enumerate(panels)
    )
    bodies = "".join(
        f'<section class="panel" role="tabpanel" id="{anchor}" aria-labelledby="tab-{anchor}" tabindex="0">'
        f"<h2>{title}</h2>{content}</section>"
        for anchor, title, content in panels
    )
    style, script = _file("page.css"), _file("page.js")
    # Only this very script may run and only data URIs are loaded, whatever the names of tasks and teachers contain.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{_hash(script)}'"
    title = escape(" / ".join(run.name for run in runs))
    known = {
        "images": pool.uris,
        "examples": shown.examples,
        "charts": [curves.data(chart) for chart in shown.charts],
        "runs": [run.name for run in runs],
    }
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><link rel="icon" href="data:,"><title>{title}</title><style>{style}</style></head>'
        f"<body><header><h1>{title}</h1>{sections.summary(shown)}</header>"
        f'<nav role="tablist" aria-label="Parts of the report">{tabs}</nav><main>{bodies}</main>'
        f'<script type="application/json" id="data">{_json(known)}</script><script>{script}</script></body></html>\n'
    )


def _json(values: object) -> str:
    """JSON that can stand in a script element: no `<` ends it early."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _file(name: str) -> str:
    return importlib.resources.files("sak_jax.report").joinpath(name).read_text()


def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
