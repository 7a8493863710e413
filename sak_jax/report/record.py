"""What a report shows of a run: the record, written beside the run's results and read back for any workdir."""

import dataclasses
import importlib.metadata
import io
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import Image

from sak_jax import paths
from sak_jax.errors import UserError
from sak_jax.report import machine

FOLDER = "report"
FILE = "report.json"

Picture = UInt8[np.ndarray, "h w 3"]
Weights = dict[str, list[list[float]]]
"""For each task (or teacher) one row a level."""


@dataclasses.dataclass
class Run:
    """One run, as the report shows it. Whatever is unknown is empty.

    Attributes:
      name: the heading; a workdir's name.
      command: the command line that made the run.
      config: the recipe as a plain dict.
      versions: `{"jax": "0.10.2", ..}`.
      scores: `{"semseg/mIoU": ..}`; NaN or None where a task could not be scored.
      baselines, published: scores under the same keys, and `delta_m` in `published`.
      higher_is_better: whether the greater score is the better one, by key.
      delta_m: in percent.
      steps, seconds: of the training.
      curves: the lines of metrics.jsonl, `{"step": .., "split": .., "values": {name: value or None}}`.
      pictures: one dict an image: `image`, `tasks` {name: (prediction, truth or None, error or None)}, and where
        known `features` {name: picture} and `routing` {task: levels x experts}.
      routing: each task's mean weights, a row a level and a column an expert.
      experts: the columns' names.
      routing_images: how many images the means of `routing`, `fidelity` and `confusion` are over.
      fidelity: each teacher's mean cosine with the student's aligned features, `{teacher: [level, ..]}`.
      confusion: `{task: {"classes": [name, ..], "counts": [[..]]}}`, a row a true class.
      notes: what the reader is to know, a line each: files that could not be read, teachers that were random.
    """

    name: str
    command: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    scores: dict[str, float | None] = dataclasses.field(default_factory=dict)
    baselines: dict[str, float] = dataclasses.field(default_factory=dict)
    published: dict[str, float] = dataclasses.field(default_factory=dict)
    higher_is_better: dict[str, bool] = dataclasses.field(default_factory=dict)
    delta_m: float | None = None
    steps: int | None = None
    seconds: float | None = None
    curves: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    pictures: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    routing: Weights = dataclasses.field(default_factory=dict)
    experts: list[str] = dataclasses.field(default_factory=list)
    routing_images: int | None = None
    fidelity: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    confusion: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


_SAVED = ("command", "versions", "higher_is_better", "routing", "experts", "routing_images", "fidelity", "confusion")


def save(workdir: epath.PathLike, run: Run) -> None:
    """Writes `report/report.json` and `report/pictures/`: what a report needs and no other file of the run holds."""
    folder = epath.Path(workdir) / FOLDER
    saved = {key: getattr(run, key) for key in _SAVED} | {"pictures": []}
    for index, example in enumerate(run.pictures):
        # Files are numbered: names of tasks and teachers come from the user and may be anything.
        place = f"pictures/{index:03d}"
        paths.write_bytes(folder / place / "image.png", png(example["image"]))
        entry: dict[str, Any] = {"image": f"{place}/image.png", "tasks": {}, "features": {}}
        for number, (task, drawn) in enumerate(example["tasks"].items()):
            names = []
            for kind, picture in zip(("prediction", "truth", "error"), drawn, strict=True):
                names.append(None if picture is None else f"{place}/{number}-{kind}.png")
                if picture is not None:
                    paths.write_bytes(folder / names[-1], png(picture))
            entry["tasks"][task] = names
        for number, (name, picture) in enumerate(example.get("features", {}).items()):
            entry["features"][name] = f"{place}/feature-{number}.png"
            paths.write_bytes(folder / entry["features"][name], png(picture))
        if example.get("routing"):
            entry["routing"] = example["routing"]
        saved["pictures"].append(entry)
    paths.write_text(folder / FILE, json.dumps(saved, indent=1) + "\n")


def collect(workdir: epath.PathLike) -> Run:
    """The record of a workdir, whatever state the run is in: not evaluated, still training, with damaged files.

    A file that can't be read is left out, and `notes` says so.

    Raises:
      UserError: the folder is missing, or holds neither a recipe nor curves nor results.
    """
    workdir = paths.given(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir} is not there: give the workdir of a run")
    names = ("config.json", "metrics.jsonl", "results.json")
    if not any((workdir / name).exists() for name in names):
        raise UserError(f"{workdir} holds no run: none of {', '.join(names)} is in it")
    run = Run(name=paths.absolute(workdir).name)
    config = _read_object(workdir / "config.json", run.notes)
    results = _read_object(workdir / "results.json", run.notes)
    run.config = config
    run.baselines, run.published = _numbers(config.get("baselines")), _numbers(config.get("published"))
    run.scores = _scores(results.get("metrics"))
    run.delta_m, run.steps, run.seconds = (_finite(results.get(key)) for key in ("delta_m", "steps", "seconds"))
    run.curves = _read_curves(workdir / "metrics.jsonl", run.notes)
    if results.get("teachers_random"):
        run.notes.append("the teachers were random: these scores say nothing about the method")
    if results.get("skipped"):
        run.notes.append(f"images that could not be read and are not in the scores: {results['skipped']}")
    if not run.scores:
        run.notes.append("this run has no finished evaluation")
    _read_saved(workdir / FOLDER, run)
    return run


def command() -> str:
    """This process's command line as one would type it: without the folders of Python and of `sak-jax`."""
    first, *rest = sys.orig_argv
    if rest and os.path.basename(rest[0]) == "sak-jax":
        return shlex.join(["sak-jax", *rest[1:]])
    return shlex.join([os.path.basename(first), *rest])


def versions(*packages: str) -> dict[str, str]:
    """Python's and the packages' versions, those that are installed, without importing any; and the processor."""
    found = {"python": platform.python_version(), "processor": machine.processor()}
    for package in packages or ("sak_jax", "jax", "flax", "optax", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _read_object(file: epath.Path, notes: list[str]) -> dict[str, Any]:
    """A JSON object, or an empty one and a note."""
    if not file.exists():
        return {}
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{file.name} could not be read: {_one_line(error)}")
        return {}
    if not isinstance(value, dict):
        notes.append(f"{file.name} could not be read: it holds no JSON object")
        return {}
    return value


def _read_curves(file: epath.Path, notes: list[str]) -> list[dict[str, Any]]:
    """The lines that are as the training writes them; how many are not becomes a note."""
    if not file.exists():
        return []
    try:
        lines = file.read_bytes().decode(errors="replace").splitlines()
    except OSError as error:
        notes.append(f"{file.name} could not be read: {_one_line(error)}")
        return []
    curves, foreign = [], 0
    for line in filter(str.strip, lines):
        try:
            entry = json.loads(line)
            values = {str(key): _finite(value) for key, value in entry["values"].items()}
            curves.append({"step": int(entry["step"]), "split": str(entry["split"]), "values": values})
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            foreign += 1
    if foreign:
        notes.append(f"{file.name} holds lines that no training writes; left out: {foreign}")
    return curves


def _read_saved(folder: epath.Path, run: Run) -> None:
    """Adds what `save` wrote; an entry of another form, or a picture that can't be read, is left out with a note."""
    saved = _read_object(folder / FILE, run.notes)
    checks = {
        "command": lambda value: isinstance(value, str),
        "versions": lambda value: all(isinstance(name, str) for name in value.values()),
        "higher_is_better": lambda value: all(isinstance(flag, bool) for flag in value.values()),
        "routing": lambda value: all(np.asarray(rows, np.float64).ndim == 2 for rows in value.values()),
        "experts": lambda value: all(isinstance(name, str) for name in value),
        "routing_images": lambda value: value is None or isinstance(value, int),
        "fidelity": lambda value: all(np.asarray(row, np.float64).ndim == 1 for row in value.values()),
        "confusion": lambda value: all(
            np.asarray(one["counts"], np.float64).shape == (len(one["classes"]),) * 2 for one in value.values()
        ),
    }
    for key, check in checks.items():
        if key not in saved:
            continue
        try:
            fits = isinstance(saved[key], type(getattr(run, key)) if key != "routing_images" else object)
            fits = fits and check(saved[key])
        except (ValueError, TypeError, KeyError, AttributeError):
            fits = False
        if fits:
            setattr(run, key, saved[key])
        else:
            run.notes.append(f"{key} of {FILE} is not what a run writes and was left out")
    damaged = 0
    pictures = saved.get("pictures", [])
    for entry in pictures if isinstance(pictures, list) else []:
        try:
            drawn = {
                str(task): tuple(None if name is None else _read_picture(folder, name) for name in names)
                for task, names in entry["tasks"].items()
            }
            if any(len(pictures) != 3 or pictures[0] is None for pictures in drawn.values()):
                raise ValueError("a task has a prediction, a truth and an error")
            features = {str(name): _read_picture(folder, file) for name, file in entry.get("features", {}).items()}
            example = {"image": _read_picture(folder, entry["image"]), "tasks": drawn, "features": features}
            routing = entry.get("routing", {})
            tables = [np.asarray(rows, np.float64) for rows in routing.values()]
            if all(table.ndim == 2 and np.isfinite(table).all() for table in tables):  # The page's script takes no NaN.
                example["routing"] = routing
            run.pictures.append(example)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SyntaxError, Image.DecompressionBombError):
            damaged += 1
    if damaged:
        run.notes.append(f"images whose pictures could not be read; left out: {damaged}")


def _read_picture(folder: epath.Path, name: str) -> Picture:
    if ".." in name or name.startswith("/") or paths.is_remote(name):
        raise ValueError(f"{name} lies outside the report")
    with Image.open(io.BytesIO((folder / name).read_bytes())) as picture:
        return np.asarray(picture.convert("RGB"))


def png(picture: Picture) -> bytes:
    """The picture as a PNG file's content."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
    return buffer.getvalue()


def _numbers(values: object) -> dict[str, float]:
    """The entries that are finite numbers."""
    found = {str(key): _finite(value) for key, value in values.items()} if isinstance(values, Mapping) else {}
    return {key: value for key, value in found.items() if value is not None}


def _scores(values: object) -> dict[str, float | None]:
    """Every entry; what is no finite number is None."""
    return {str(key): _finite(value) for key, value in values.items()} if isinstance(values, Mapping) else {}


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # An integer of hundreds of digits.
        return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; an empty section is left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def union(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of all mappings, each once, in the order in which they come."""
    return list(dict.fromkeys(key for group in groups for key in group))


def named_apart(found: Sequence[tuple[epath.PathLike, Run]]) -> list[Run]:
    """The runs, each under the shortest end of its path that no other of them has."""
    parts = [paths.absolute(workdir).parts for workdir, _ in found]
    for (_, run), mine in zip(found, parts, strict=True):
        others = [other for other in parts if other != mine]
        length = next((n for n in range(1, len(mine)) if all(other[-n:] != mine[-n:] for other in others)), len(mine))
        run.name = "/".join(mine[-length:])
    return [run for _, run in found]
