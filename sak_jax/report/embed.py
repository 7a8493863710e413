"""Pictures as data URIs in a page, each once, as many as the page's size allows."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from sak_jax.report.record import Picture, Run

BUDGET = 14_000_000
"""Bytes of all pictures of a page together."""

SIDE = 640
"""Pictures are shrunk to at most so many pixels on the longer side."""


class Pool:
    """Data URIs, each once.

    Attributes:
      uris: in the order in which they were first asked for.
      bytes: their size altogether.
    """

    def __init__(self):
        self.uris: list[str] = []
        self.bytes = 0
        self._index: dict[str, int] = {}

    def __call__(self, picture: Picture | None) -> int | None:
        """The index of the picture's URI, None for None."""
        if picture is None:
            return None
        uri = data_uri(picture)
        if uri not in self._index:
            self._index[uri] = len(self.uris)
            self.uris.append(uri)
            self.bytes += len(uri)
        return self._index[uri]

    def forget(self, count: int) -> None:
        """Keeps the first `count` pictures alone."""
        for uri in self.uris[count:]:
            del self._index[uri]
            self.bytes -= len(uri)
        del self.uris[count:]


def examples(runs: Sequence[Run], pool: Pool, budget: int = BUDGET) -> list[list[dict[str, Any]]]:
    """Each run's images that fit, evenly spaced and the same for all runs, pictures as indices into the pool.

    One dict an image: `number` (from 1), `image`, `size` [w, h], `tasks` {name: [prediction, truth, error]},
    `features`, `routing`.
    """
    longest = max((len(run.pictures) for run in runs), default=0)
    shown: list[list[dict[str, Any]]] = [[] for _ in runs]
    # Coarse to fine, so that wherever the budget ends the images are spread over all.
    for index in _coarse_to_fine(longest):
        before = len(pool.uris)
        entries = [_example(run.pictures[index], index, pool) if index < len(run.pictures) else None for run in runs]
        if pool.bytes > budget and any(shown):
            pool.forget(before)
            break
        for one, entry in zip(shown, entries, strict=True):
            one += [] if entry is None else [entry]
    return [sorted(entries, key=lambda entry: entry["number"]) for entries in shown]


def _coarse_to_fine(count: int) -> list[int]:
    """0..count-1 in an order whose every beginning is spread out (the van der Corput sequence)."""
    bits = max(count - 1, 0).bit_length()
    order = (int(format(index, f"0{bits}b")[::-1], 2) if bits else 0 for index in range(1 << bits))
    return [index for index in order if index < count]


def _example(example: dict[str, Any], index: int, pool: Pool) -> dict[str, Any]:
    height, width = example["image"].shape[:2]
    return {
        "number": index + 1,
        "image": pool(example["image"]),
        "size": [width, height],
        "tasks": {name: [pool(picture) for picture in drawn] for name, drawn in example["tasks"].items()},
        "features": {name: pool(picture) for name, picture in example.get("features", {}).items()},
        "routing": example.get("routing", {}),
    }


def data_uri(picture: Picture) -> str:
    """PNG where that is exact and small (few colours, few pixels), else JPEG."""
    picture = np.ascontiguousarray(picture[..., :3], np.uint8)
    colours, indices = _palette(picture)
    image = Image.fromarray(picture)
    if max(image.size) > SIDE:
        ratio = SIDE / max(image.size)
        size = tuple(max(1, round(side * ratio)) for side in image.size)
        image = image.resize(size, Image.Resampling.LANCZOS if colours is None else Image.Resampling.NEAREST)
        picture = np.asarray(image)
        colours, indices = _palette(picture)
    buffer, kind = io.BytesIO(), "png"
    if colours is not None:
        _indexed(indices, colours).save(buffer, "PNG", optimize=True)
    elif picture.shape[0] * picture.shape[1] <= 20_000:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=86)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _palette(picture: Picture) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The colours and each pixel's index where there are at most 256 of them."""
    packed: np.ndarray = picture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    if len(np.unique(packed.ravel()[::97])) > 256:  # Sorting all pixels of a photograph would be most of the work.
        return None, None
    colours, indices = np.unique(packed, return_inverse=True)
    if len(colours) > 256:
        return None, None
    unpacked = np.stack([colours >> 16, (colours >> 8) & 255, colours & 255], axis=-1).astype(np.uint8)
    return unpacked, indices.reshape(picture.shape[:2]).astype(np.uint8)


def _indexed(indices: np.ndarray, colours: np.ndarray) -> Image.Image:
    height, width = indices.shape
    image = Image.frombytes("P", (width, height), np.ascontiguousarray(indices).tobytes())
    image.putpalette(colours.tobytes())
    return image
