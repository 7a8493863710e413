"""The page that goes with a student: what it is, what it scored, and whose licences bind it; written by code."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sak_jax import tasks
from sak_jax.report import machine
from sak_jax.report.table import change, number
from sak_jax.teachers import registry

IDENTIFIERS = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0"}
"""What the Hugging Face Hub calls those licences of the registry that it knows."""


def write(name: str, config: Mapping[str, Any], stage: str, about: Mapping[str, Any], parameters: int) -> str:
    """A model card in Markdown, with the Hub's front matter.

    Args:
      name: the heading.
      config: the recipe as plain data.
      stage: that the student was trained in.
      about: what is known of the run: `metrics`, `steps`, `seconds`, `command`, `versions`.
      parameters: how many numbers the model has.
    """
    teachers = _teachers(config)
    selected = tasks.select(config.get("tasks", {})) if stage == "multitask" else ()
    height, width = config["image_size"]
    lines = [
        *_front_matter(teachers, selected),
        f"# {_line(name)}",
        "",
        f"A student of the method `{config['method']}` ({parameters / 1e6:.2f} M parameters, trained with images of "
        f"{height} x {width} pixels of the data set `{config['data']['name']}`), made with sak_jax.",
        "",
        "```python",
        "import sak_jax",
        "",
        f'student = sak_jax.from_pretrained("{_line(name)}")',
        'prediction = student.predict("picture.jpg")',
        "```",
        "",
    ]
    if selected:
        lines += ["| task | kind | channels |", "|---|---|---|"]
        lines += [f"| {_cell(task.name)} | {task.kind} | {task.channels} |" for task in selected]
        lines.append("")
    lines += ["## Scores", "", *_scores(config, selected, about), ""]
    lines += ["## Teachers", "", *_licences(teachers, config), ""]
    lines += ["## Training", "", *_training(config, about), ""]
    return "\n".join(lines)


def _teachers(config: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(name, model, source, licence) of each teacher, or of the foundation model that is the encoder."""
    rows = {name: row["model"] for name, row in config.get("teachers", {}).items() if _names_model(row)}
    encoder = config.get("model", {}).get("encoder", {})
    if _names_model(encoder):
        rows = {"encoder": encoder["model"]}
    found = []
    for name, model in rows.items():
        known = registry.TEACHERS.get(model)
        source, licence = (known.source, known.licence) if known else ("", "unknown: not a teacher of the registry")
        found.append((name, model, source, licence))
    return found


def _names_model(row: object) -> bool:
    return isinstance(row, Mapping) and bool(row.get("model"))


def _front_matter(teachers: Sequence[tuple[str, str, str, str]], selected: Sequence[tasks.Task]) -> list[str]:
    licences = {IDENTIFIERS.get(licence) for *_, licence in teachers}
    lines = ["---", "library_name: sak_jax"]
    if len(licences) == 1 and None not in licences:
        lines.append(f"license: {licences.pop()}")
    elif licences:
        lines += ["license: other", "license_name: those-of-the-teachers"]
    tags = ["jax", "flax", "knowledge-distillation", "multi-task", "dense-prediction"]
    lines += ["tags:", *(f"- {tag}" for tag in (*tags, *dict.fromkeys(task.kind for task in selected))), "---", ""]
    return lines


def _scores(config: Mapping[str, Any], selected: Sequence[tasks.Task], about: Mapping[str, Any]) -> list[str]:
    scores = {key: math.nan if value is None else value for key, value in (about.get("metrics") or {}).items()}
    if not scores:
        return ["No scores were measured of this checkpoint with sak_jax."]
    baselines, published = config.get("baselines", {}), config.get("published", {})
    lines = ["| metric | student | single-task | change | published |", "|---|---|---|---|---|"]
    for key, value in scores.items():
        try:
            better = tasks.higher_is_better(key.rpartition("/")[-1])
        except ValueError:  # of a kind that the recipe brought
            better = None
        percent = change(value, baselines.get(key), better)
        shown = "" if percent is None else f"{percent:+z.1f} %"
        cells = (_cell(key), number(value), number(baselines.get(key)), shown, number(published.get(key)))
        lines.append(f"| {' | '.join(cells)} |")
    try:
        delta = tasks.relative(selected, scores, baselines)  # Of this table's baselines: a run's are of its last end.
    except (KeyError, ValueError):  # A task that was not scored, or of a kind that the recipe brought.
        delta = None
    if delta is not None:
        lines += ["", f"Delta_m, the mean relative change against the single-task models: {delta:+z.2f} %."]
    if about.get("teachers_random"):
        lines += ["", "**The teachers were random: these scores say nothing about the method.**"]
    return lines


def _licences(teachers: Sequence[tuple[str, str, str, str]], config: Mapping[str, Any]) -> list[str]:
    start = config.get("model", {}).get("stem_init", "")
    begun = [f"The stem started from `{_line(start)}`."] if start else []
    begun += [f"Training started from `{_line(config['init_from'])}`."] if config.get("init_from") else []
    if not teachers:
        return ["It learned from no teacher.", *begun]
    lines = ["It learned from these models. **Their licences bind it and what is made of it.**", ""]
    lines += ["| name | model | weights | licence |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in teachers]
    return [*lines, "", *begun] if begun else lines


def _training(config: Mapping[str, Any], about: Mapping[str, Any]) -> list[str]:
    facts = []
    if about.get("command"):
        facts.append(f"- command: `{_line(about['command'])}`")
    versions = about.get("versions") or {}
    if hardware := machine.hardware(versions):
        facts.append(f"- hardware: {_line(hardware)}")
    versions = {key: value for key, value in versions.items() if key not in ("device", "processor")}
    if about.get("steps") is not None:
        facts.append(f"- steps: {about['steps']}, {about.get('seconds') or 0:.0f} seconds")
    if versions:
        facts.append("- versions: " + ", ".join(f"{_line(key)} {_line(value)}" for key, value in versions.items()))
    facts.append(f"- precision: {config['dtype']}; seed {config['seed']}")
    return [*facts, "- the whole recipe: `config.json`"]


def _line(text: object) -> str:
    """Text of others on one line."""
    return " ".join(str(text).replace("`", "'").split())


def _cell(text: object) -> str:
    return _line(text).replace("|", "\\|").replace("<", "&lt;")
