"""The report of a run: a table of scores, and image, prediction and truth for every task on a few scenes."""

import base64
import html
from collections.abc import Callable, Mapping, Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Shaped, UInt8

from sak_jax import paths, tasks
from sak_jax.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from sak_jax.engine.stage import Evaluation
from sak_jax.report.table import number

Picture = UInt8[np.ndarray, "h w 3"]


def write(
    workdir: epath.Path,
    evaluation: Evaluation,
    selected: Sequence[tasks.Task],
    student: Callable,
    scores: Mapping[str, float],
    delta: float | None,
    baselines: Mapping[str, float],
    published: Mapping[str, float],
):
    """Writes `report/predictions.png` and `report/index.html` into the workdir.

    Args:
      workdir: of the run.
      evaluation: has the validation images.
      selected: the tasks.
      student: the trained student, a module.
      scores: each task's scores.
      delta: Delta_m in percent, or None.
      baselines, published: scores of single-task students and scores in print, by the same keys.
    """
    folder = workdir / "report"
    picture = predictions(evaluation, selected, student, images=4)
    ok, encoded = cv2.imencode(".png", picture[..., ::-1])
    if not ok:
        raise OSError("the picture of predictions could not be encoded")
    paths.write_bytes(folder / "predictions.png", encoded.tobytes())
    page = _page(workdir.name, scores, baselines, published, delta, encoded.tobytes())
    paths.write_bytes(folder / "index.html", page.encode())


def predictions(evaluation: Evaluation, selected: Sequence[tasks.Task], student: Callable, images: int) -> Picture:
    """Rows: image, then prediction above truth for each task; a column a task, titles on top."""
    count = min(images, evaluation.images)
    # Evenly spaced over the set, the same scenes every time.
    samples = [evaluation.sample(index * evaluation.images // count) for index in range(count)]
    batch = jnp.asarray(np.stack([sample["image"] for sample in samples]))
    height, width = batch.shape[1:3]
    outputs = jax.device_get(jax.jit(evaluation.predict)(student, batch))
    scale = max(1, round(160 / height))
    rows = [_titles(["image", *(task.name for task in selected)], width * scale)]
    for index, sample in enumerate(samples):
        image = np.clip((sample["image"] * IMAGENET_STD + IMAGENET_MEAN) * 255, 0, 255).astype(np.uint8)
        predicted, true = [image], [np.full_like(image, 255)]
        for task in selected:
            ours, truth = draw(task, outputs[task.name][index], sample[task.name])
            predicted.append(ours)
            true.append(truth)
        rows += [_enlarge(np.concatenate(row, axis=1), scale) for row in (predicted, true)]
    return np.concatenate(rows)


def draw(
    task: tasks.Task, prediction: Float[Array, "h w c"], label: Shaped[np.ndarray, "h w *c"]
) -> tuple[Picture, Picture]:
    """A task's prediction and truth as pictures on one scale; what is to be ignored is grey."""
    kind, label = tasks.kind_of(task), np.asarray(label)
    return kind.draw_prediction(task, np.asarray(prediction), label), kind.draw_label(task, label)


def _enlarge(picture: Picture, scale: int) -> Picture:
    return np.repeat(np.repeat(picture, scale, axis=0), scale, axis=1)


def _titles(names: list[str], width: int) -> Picture:
    strip = np.full((24, width * len(names), 3), 255, np.uint8)
    for column, name in enumerate(names):
        cv2.putText(strip, name, (column * width + 4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return strip


def _page(name: str, scores: dict[str, float], baselines, published, delta: float | None, picture: bytes) -> str:
    columns = {"student": scores, "single-task": baselines, "published": published}
    columns = {title: column for title, column in columns.items() if column}
    head = "".join(f"<th>{title}" for title in ("metric", *columns))
    rows = "".join(
        f"<tr><td>{html.escape(key)}" + "".join(f"<td>{number(column.get(key))}" for column in columns.values())
        for key in scores
    )
    printed = f" (published: {published['delta_m']:+.2f} %)" if "delta_m" in published else ""
    total = "" if delta is None else f"<p>Delta<sub>m</sub> {delta:+.2f} %{printed}</p>"
    data = base64.b64encode(picture).decode()
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(name)}</title>"
        "<style>body{font:16px sans-serif;margin:2em}td,th{padding:.2em 1em;text-align:left}img{max-width:100%}</style>"
        f"<h1>{html.escape(name)}</h1><table><tr>{head}{rows}</table>{total}"
        f"<p>Image with each task's prediction; truth below.</p><img alt=predictions src=data:image/png;base64,{data}>"
    )
