"""Pictures as arrays: predictions and their errors, features in colour, heat maps of routing and confusion."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from sak_jax import tasks
from sak_jax.report.record import Picture
from sak_jax.tasks import Task


def draw(
    task: Task, prediction: Float[Array, "h w c"], label: Shaped[np.ndarray, "h w *c"]
) -> tuple[Picture, Picture, Picture]:
    """A task's prediction and truth on one scale, and where they differ; what is to be ignored is grey."""
    prediction, label = np.asarray(prediction), np.asarray(label)
    kind = tasks.kind_of(task)
    ours, truth = kind.draw_prediction(task, prediction, label), kind.draw_label(task, label)
    ignored = (label == tasks.IGNORE) if label.ndim == 2 else (label == tasks.IGNORE).any(-1)
    error = _error(prediction, label, ours, truth)
    error[ignored] = 128
    return ours, truth, error


def _error(prediction, label, ours: Picture, truth: Picture) -> Picture:
    """Wrong pixels of classes, the angle (up to 90 degrees) of vectors, for all else the difference of the pictures."""
    if label.ndim == 3 and label.shape[-1] == 3:
        lengths = np.linalg.norm(prediction, axis=-1) * np.linalg.norm(label, axis=-1)
        return heat(
            np.degrees(np.arccos(np.clip((prediction * label).sum(-1) / np.maximum(lengths, 1e-6), -1, 1))) / 90
        )
    if label.ndim == 2 and prediction.shape[-1] > 1:
        return heat(prediction.argmax(-1) != label)
    return heat(np.abs(ours.astype(np.float32) - truth).max(-1) / 255)


def heat(values: Shaped[np.ndarray, "h w"]) -> Picture:
    """Values of 0..1 from black to light yellow; what lies outside is clipped, NaN is black."""
    return _colour(values, cv2.COLORMAP_INFERNO)


def principal_components(maps: Sequence[Float[np.ndarray, "h w d"]]) -> list[Picture]:
    """The three main components of the features of several images as red, green and blue, on one scale for all.

    A component's sign, which is arbitrary, is chosen so that its largest deviation is positive.
    """
    flat = np.concatenate([np.asarray(one, np.float64).reshape(-1, one.shape[-1]) for one in maps])
    centred = flat - flat.mean(axis=0)
    _, _, axes = np.linalg.svd(centred.T @ centred, hermitian=True)
    components = centred @ axes[:3].T
    if components.shape[1] < 3:
        components = np.pad(components, ((0, 0), (0, 3 - components.shape[1])))
    largest = components[np.abs(components).argmax(axis=0), np.arange(3)]
    components = components * np.where(largest < 0, -1, 1)
    low, high = np.quantile(components, [0.01, 0.99], axis=0)
    scaled = np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1)
    pictures, start = [], 0
    for one in maps:
        rows = one.shape[0] * one.shape[1]
        pictures.append((255 * scaled[start : start + rows]).astype(np.uint8).reshape(*one.shape[:2], 3))
        start += rows
    return pictures


def confusion(
    predicted: Int[np.ndarray, "*n"], true: Int[np.ndarray, "*n"], classes: int, ignore: int = tasks.IGNORE
) -> Int[np.ndarray, "classes classes"]:
    """How many pixels of each true class (row) are taken for each class (column)."""
    counted = (true != ignore) & (true >= 0) & (true < classes)
    pairs = true[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def heat_map(values: Float[np.ndarray, "rows columns"], cell: int = 24) -> Picture:
    """A matrix of values in 0..1 as squares: routing weights (levels x experts), shares of a confusion."""
    return heat(np.kron(np.asarray(values, np.float32), np.ones((cell, cell), np.float32)))


def montage(pictures: Sequence[Mapping], least_height: int = 160) -> Picture:
    """Every image with each task's prediction, the truths below; a column a task, titles on top."""
    names = list(pictures[0]["tasks"])
    height, width = pictures[0]["image"].shape[:2]
    scale = max(1, round(least_height / height))
    rows = [_titles(["image", *names], width * scale)]
    for example in pictures:
        blank = np.full_like(example["image"], 255)
        drawn = [example["tasks"][name] for name in names]
        ours = [example["image"], *(prediction for prediction, _, _ in drawn)]
        truths = [blank, *(blank if truth is None else truth for _, truth, _ in drawn)]
        rows += [np.kron(np.concatenate(row, axis=1), np.ones((scale, scale, 1), np.uint8)) for row in (ours, truths)]
    return np.concatenate(rows)


def _colour(values, colour_map: int) -> Picture:
    scaled = (255 * np.clip(np.nan_to_num(np.asarray(values, np.float32)), 0, 1)).astype(np.uint8)
    return cv2.applyColorMap(scaled, colour_map)[..., ::-1].copy()


def _titles(names: Sequence[str], width: int) -> Picture:
    strip = np.full((24, width * len(names), 3), 255, np.uint8)
    for column, name in enumerate(names):
        cv2.putText(strip, name, (column * width + 4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return strip
