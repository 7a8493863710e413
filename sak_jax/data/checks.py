"""One pass over all labels at the start, so that what is wrong with any of them is said before hours of training.

What a file was found to hold is kept in the cache folder by its size and time of change: the next start looks at new
and changed files alone.
"""

import concurrent.futures
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping

import cv2
import numpy as np
from tqdm import tqdm

from sak_jax.data import cache
from sak_jax.data.source import FileSource, Source, times
from sak_jax.errors import UserError
from sak_jax.tasks import Task, kind_of, named

logger = logging.getLogger(__name__)

MODES = ("full", "fast")
_THREADS, _SHOW_FROM = 16, 100
_VERSION = 1
"""Of what is kept; another is not read."""


def check_labels(
    source: Source,
    tasks: Iterable[str | Task],
    largest: tuple[int, int] | None = None,
    mode: str = "full",
) -> None:
    """Reads every label of a data set made of files, and says, by file, all that is wrong; rooms are left alone.

    Args:
      source: what `create_source` gave. Under `on_error="skip"` samples at fault are taken out of it.
      tasks: whose labels it gives; their kinds say what values there may be.
      largest: height and width that no image may exceed (those that evaluation pads to), or None.
      mode: "full", or "fast", which checks nothing beyond what `create_source` did.

    Raises:
      UserError: files that do not hold what their encoding allows, classes out of range, images that are too large.
    """
    if mode not in MODES:
        raise UserError(f"data.check={mode!r} must be one of {', '.join(MODES)}")
    if mode == "fast" or not isinstance(source, FileSource) or not source.tasks:
        return
    found = _inspect_all(source, [named(task) for task in tasks])
    problems = {sample_id: held for sample_id, held in found.items() if isinstance(held, str)}
    whole = {sample_id: held for sample_id, held in found.items() if not isinstance(held, str)}
    for sample_id, held in whole.items():
        if largest and (held["size"][0] > largest[0] or held["size"][1] > largest[1]):
            problems[sample_id] = (
                f"{source.file(sample_id, 'image')} is {times(held['size'])}, larger than image_size {times(largest)}: "
                "set data.resize=True, or image_size to the largest image"
            )
    _check_masks(source, whole.values())
    source.drop(problems)


def _inspect_all(source: FileSource, tasks: list[Task]) -> dict:
    """By id what its files hold, `{"size": .., "values": {task: ..}}`, or what is wrong with them."""
    place = os.path.join(
        cache.folder("labels"), f"{hashlib.sha256(os.fsencode(f'{source.identity} {tasks}')).hexdigest()[:16]}.json"
    )
    kept = _read(place)
    stamps = [source.stamp(index) for index in range(len(source))]
    found = {
        sample_id: kept[str(sample_id)][1]
        for sample_id, stamp in zip(source.ids, stamps, strict=True)
        if str(sample_id) in kept and kept[str(sample_id)][0] == stamp
    }
    new = [index for index, sample_id in enumerate(source.ids) if sample_id not in found]

    def inspect(index: int) -> dict | str:
        try:
            size, labels = source.inspect(index)
            for task in tasks:
                if task.name in labels:
                    where = source.file(source.ids[index], task.name)
                    kind_of(task).check(task, labels[task.name], where)
            return {"size": [int(extent) for extent in size], "values": _values(labels)}
        except UserError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        held = pool.map(inspect, new)
        hidden = len(new) < _SHOW_FROM
        for index, value in zip(new, tqdm(held, "checking labels", len(new), disable=hidden), strict=True):
            found[source.ids[index]] = value
    if new:
        stamp = dict(zip(map(str, source.ids), stamps, strict=True))
        _keep(place, {str(key): [stamp[str(key)], value] for key, value in found.items() if not isinstance(value, str)})
    return {sample_id: found[sample_id] for sample_id in source.ids}


def _values(labels: Mapping[str, np.ndarray]) -> dict[str, list[int]]:
    """By task whose labels are bytes, which there are."""
    counts = {
        task: cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()
        for task, label in labels.items()
        if label.dtype == np.uint8
    }
    return {task: np.flatnonzero(count).tolist() for task, count in counts.items()}


def _check_masks(source: FileSource, found: Iterable[dict]) -> None:
    for task in source.tasks:
        values = {value for held in found for value in held["values"].get(task, ())}
        if 255 in values and values <= {0, 255}:
            raise UserError(
                f"{source.name}: all labels of {task} are {' or '.join(map(str, sorted(values)))}, and 255 is void: "
                f"set data.encodings.{task} to binary if these are masks"
            )


def _read(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        held = content["samples"] if content["version"] == _VERSION else {}
        for stamp, value in held.values():
            if not isinstance(stamp, str) or len(value["size"]) != 2 or not isinstance(value["values"], dict):
                return {}
        return held
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # None yet, or damaged.
        return {}


def _keep(path: str, samples: dict) -> None:
    try:
        cache.write(path, json.dumps({"version": _VERSION, "samples": samples}).encode())
    except OSError as error:
        logger.warning("%s: what labels hold could not be kept (%s)", path, error)
