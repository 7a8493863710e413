"""Results as pictures for people: natural colours with a legend, and all tasks in one montage."""

import math
from collections.abc import Mapping

import cv2
import numpy as np

from sak_jax import tasks
from sak_jax.pictures import Picture
from sak_jax.predict import Prediction, Result
from sak_jax.tasks.classes import Classes
from sak_jax.tasks.depth import Depth

LEAST_WIDTH = 240
"""Narrower pictures are enlarged, pixel by pixel, so that their legend can be read."""
MOST_SIDE = 4096
"""No side is made longer than this by enlarging."""

_ROW, _BAR, _GAP = 18, 10, 6
_WHITE = 255


def draw(result: Result, farthest: float | None = None, every_class: bool = False) -> Picture:
    """A result in its natural colours, with a legend below where its kind has one.

    Args:
      result: of one task.
      farthest: metres at the far end of a depth's colours, for pictures that are to be compared (frames of a video);
        None: its own largest depth.
      every_class: the legend shows all classes, so that pictures that are to be compared have one size; otherwise those
        that are seen, the commonest first.
    """
    kind, task = tasks.kind_of(result.task), result.task
    scale = (
        None if farthest is None or not isinstance(kind, Depth) else np.full(result.raw.shape[:2], farthest, np.float32)
    )
    picture = enlarged(kind.draw_prediction(task, result.raw, scale))
    if isinstance(kind, Depth):
        return np.concatenate([picture, _bar(result, picture.shape[1], farthest or farthest_of(result))])
    if isinstance(kind, Classes) and "names" in kind.options:
        return np.concatenate([picture, _legend(result, picture.shape[1], every_class)])
    return picture


def farthest_of(result: Result) -> float:
    """The largest depth of a result in metres; at least a millimetre."""
    return max(float(result.raw.max()), 1e-3)


def montage(picture: Picture, drawn: Mapping[str, Picture]) -> Picture:
    """The picture and what was drawn of each task, side by side in rows, with titles."""
    cells = [("picture", enlarged(picture)), *drawn.items()]
    columns = math.ceil(math.sqrt(len(cells)))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    width = max(cell.shape[1] for _, cell in cells)
    lines = []
    for row in rows:
        height = max(cell.shape[0] for _, cell in row) + _ROW
        line = [_cell(title, cell, height, width) for title, cell in row]
        line += [np.full((height, width, 3), _WHITE, np.uint8)] * (columns - len(row))
        lines.append(np.concatenate([_spaced(cell) for cell in line], axis=1))
    return np.concatenate(lines)


def draw_all(
    picture: Picture, prediction: Prediction, farthest: Mapping[str, float] | None = None
) -> tuple[dict[str, Picture], Picture]:
    """What is drawn of each task, and the montage, see `draw`.

    Args:
      picture: what was predicted.
      prediction: of it.
      farthest: by task, of pictures that are to be compared: their legends show every class.
    """
    scales, compared = farthest or {}, farthest is not None
    drawn = {name: draw(result, scales.get(name), compared) for name, result in prediction.items()}
    return drawn, montage(picture, drawn)


def enlarged(picture: Picture, least: int = LEAST_WIDTH) -> Picture:
    """A picture of at least this width: its pixels are repeated, and a very long one is laid on white."""
    factor = min(-(-least // picture.shape[1]), max(1, MOST_SIDE // max(picture.shape[:2])))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else picture
    missing = max(0, least - picture.shape[1])
    return np.pad(picture, ((0, 0), (0, missing), (0, 0)), constant_values=_WHITE) if missing else picture


def _bar(result: Result, width: int, farthest: float) -> Picture:
    """The colours of depths from 0 to `farthest`, with ticks in metres."""
    ramp = np.broadcast_to(np.linspace(0, farthest, width, dtype=np.float32)[:, None], (_BAR, width, 1))
    strip = np.full((_GAP + _BAR + _ROW, width, 3), _WHITE, np.uint8)
    strip[_GAP : _GAP + _BAR] = tasks.kind_of(result.task).draw_prediction(result.task, ramp)
    words = [f"{share * farthest:.3g} m" for share in (0, 0.5, 1)]
    sizes = [_width(word) for word in words]
    for word, left in zip(words, (0, (width - sizes[1]) // 2, width - sizes[2]), strict=True):
        _write(strip, word, left, _GAP + _BAR)
    return strip


def _legend(result: Result, width: int, every_class: bool) -> Picture:
    """Colour and name (else number) of classes: those that the picture shows, the commonest first, or every one."""
    task = result.task
    if every_class:
        shown = list(range(task.channels))
    else:
        counts = np.bincount(result.raw.argmax(-1).ravel(), minlength=task.channels)
        shown = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    names = task.option("names") or tuple(map(str, range(task.channels)))
    colours = tasks.kind_of(task).draw_label(task, np.asarray([shown], np.uint8))[0]
    places, left, row = [], 0, 0
    for index in shown:
        needed = _ROW + _width(names[index]) + _GAP
        if left and left + needed > width:
            left, row = 0, row + 1
        places.append((left, _GAP + row * _ROW))
        left += needed
    strip = np.full((_GAP + (row + 1) * _ROW, width, 3), _WHITE, np.uint8)
    for index, colour, (left, top) in zip(shown, colours, places, strict=True):
        strip[top + 3 : top + 15, left + 2 : left + 14] = colour
        _write(strip, names[index], left + _ROW, top)
    return strip


def _cell(title: str, picture: Picture, height: int, width: int) -> Picture:
    cell = np.full((height, width, 3), _WHITE, np.uint8)
    _write(cell, title, 0, 0)
    cell[_ROW : _ROW + picture.shape[0], : picture.shape[1]] = picture
    return cell


def _spaced(cell: Picture) -> Picture:
    return np.pad(cell, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=_WHITE)


_FONT = (cv2.FONT_HERSHEY_SIMPLEX, 0.42)


def _width(text: str) -> int:
    return cv2.getTextSize(text, *_FONT, 1)[0][0] + 2


def _write(picture: Picture, text: str, left: int, top: int) -> None:
    cv2.putText(picture, text, (left, top + 13), *_FONT, (0, 0, 0), 1, cv2.LINE_AA)
