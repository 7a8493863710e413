"""From a student and validation samples to what a report shows: pictures, routing, features, fidelity, confusion."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sak_jax import normalisation
from sak_jax.nn.resize import resize_bilinear
from sak_jax.report import figures
from sak_jax.report.record import Run
from sak_jax.tasks import Task, kind_of
from sak_jax.tasks.classes import Classes

Maps = Mapping[str, Sequence[Float[Array, "b _ _ _"]]]


def gather(
    run: Run,
    forward: Callable[[Float[np.ndarray, "b h w 3"]], Any],
    samples: Sequence[Mapping[str, np.ndarray]],
    tasks: Sequence[Task],
    *,
    stem: Callable[[Float[np.ndarray, "b h w 3"]], Float[Array, "b _ _ _"]] | None = None,
    teachers: Callable[[Float[np.ndarray, "b h w 3"]], Maps] | None = None,
    shown: int = 8,
    batch: int = 8,
) -> None:
    """Fills in the run's pictures, routing, fidelity and confusion.

    Args:
      run: `experts` is set by the caller, who knows the order.
      forward: the student in evaluation mode; its result has `predictions`, `aligned` and `routing`.
      samples: transformed validation samples: `image` (normalised, all of one size) and each task's label. Means are
        over all of them.
      tasks: what to draw.
      stem: images -> the stem's last map, to show; None leaves it out.
      teachers: images -> each teacher's maps at its levels, to show and to compare with; None leaves them out.
      shown: so many samples, evenly spaced, become pictures.
      batch: images of one call. All calls are of this size, so that one program is compiled.
    """
    chosen = {index * len(samples) // min(shown, len(samples)) for index in range(min(shown, len(samples)))}
    routing: dict[str, list[np.ndarray]] = {}
    cosines: dict[str, list[np.ndarray]] = {}
    counts = {task.name: np.zeros((task.channels,) * 2, int) for task in tasks if isinstance(kind_of(task), Classes)}
    maps: dict[str, list[np.ndarray]] = {}
    run.pictures = []
    for start in range(0, len(samples), batch):
        part = samples[start : start + batch]
        images = np.stack([sample["image"] for sample in part])
        padded = np.concatenate([images, np.repeat(images[-1:], batch - len(part), axis=0)])
        outputs, theirs = forward(padded), teachers(padded) if teachers else {}
        own = np.asarray(stem(padded), np.float32) if stem else None
        for task, weights in outputs.routing.items():
            routing.setdefault(task, []).extend(np.asarray(weights, np.float64)[: len(part)])
        for name, levels in theirs.items():
            if name in outputs.aligned:
                pairs = zip(outputs.aligned[name], levels, strict=True)
                similar = np.stack([_cosine(ours, level)[: len(part)] for ours, level in pairs], axis=1)
                cosines.setdefault(name, []).extend(similar)
        predictions = {name: np.asarray(value) for name, value in outputs.predictions.items()}
        for row, sample in enumerate(part):
            for name in counts:
                counts[name] += figures.confusion(predictions[name][row].argmax(-1), sample[name], len(counts[name]))
            if start + row not in chosen:
                continue
            image = np.asarray(sample["image"]) * normalisation.STD + normalisation.MEAN
            example: dict[str, Any] = {
                "image": np.clip(255 * image + 0.5, 0, 255).astype(np.uint8),
                "tasks": {
                    task.name: figures.draw(task, predictions[task.name][row], sample[task.name]) for task in tasks
                },
                "routing": {task: np.asarray(weights)[row].tolist() for task, weights in outputs.routing.items()},
            }
            run.pictures.append(example)
            if own is not None:
                maps.setdefault("stem", []).append(own[row])
            for name in _ordered(outputs.aligned, run.experts):
                for title, found in (("path", outputs.aligned), ("teacher", theirs)):
                    if name in found:
                        one = np.asarray(found[name][-1], np.float32)[row]
                        maps.setdefault(f"{name}: {title}", []).append(one)
    for name, ones in maps.items():
        for example, picture in zip(run.pictures, figures.principal_components(ones), strict=True):
            example.setdefault("features", {})[name] = picture
    # A jitted function sorts its dicts; the recipe's order is what the reader knows.
    run.routing = {
        task: np.mean(routing[task], axis=0).tolist() for task in _ordered(routing, [task.name for task in tasks])
    }
    run.fidelity = {name: np.mean(cosines[name], axis=0).tolist() for name in _ordered(cosines, run.experts)}
    run.confusion = {}
    for task in tasks:
        if task.name in counts:
            names = dict(task.options).get("names") or [f"class {index}" for index in range(task.channels)]
            run.confusion[task.name] = {"classes": list(names), "counts": counts[task.name].tolist()}
    run.routing_images = len(samples)


def logged(run: Run, shown: int = 4) -> tuple[dict[str, float], dict[str, dict[str, figures.Picture]]]:
    """What of a run's pictures and routing goes to its loggers.

    Args:
      run: filled in.
      shown: the most images that predictions are shown of.

    Returns:
      Each task's mean weights, `{"depth/level1/stem": .., ..}`, and pictures: of `predictions` a montage an image, of
      `routing` a heat map a task (a row a level, a column an expert).
    """
    weights = {
        f"{task}/level{level}/{run.experts[index] if index < len(run.experts) else f'expert{index + 1}'}": weight
        for task, rows in run.routing.items()
        for level, row in enumerate(rows, 1)
        for index, weight in enumerate(row)
    }
    montages = {f"image{number}": figures.montage([one]) for number, one in enumerate(run.pictures[:shown], 1)}
    return weights, {
        "predictions": montages,
        "routing": {task: figures.heat_map(rows) for task, rows in run.routing.items()},
    }


def _ordered(found: Mapping[str, Any], order: Sequence[str]) -> list[str]:
    """The keys of `found`, those of `order` first and in its order."""
    return [*(name for name in order if name in found), *(name for name in found if name not in order)]


def _cosine(ours: Float[Array, "b h w d"], theirs: Float[Array, "b h w d"]) -> Float[np.ndarray, "b"]:
    """Mean over positions of the cosine of two maps' features, the smaller map resized as the distillation does."""
    size = max(ours.shape[1:3], theirs.shape[1:3])
    ours, theirs = (np.asarray(resize_bilinear(jnp.asarray(x), size), np.float32) for x in (ours, theirs))
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return ((ours * theirs).sum(-1) / np.maximum(norms, 1e-12)).mean(axis=(1, 2))
