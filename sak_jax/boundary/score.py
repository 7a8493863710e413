"""Boundary score (odsF, oisF, AP), the BSDS benchmark without MATLAB.

A prediction is thinned (`boundary_maps`), binarised at 99 thresholds, and its pixels are matched one to one with the
true ones (`boundary_matching`). Per threshold that gives four counts, in this order everywhere:
matched truth, truth, matched prediction, prediction. They add up over images, and `scores` turns them into F-measures.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import signal
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8
from scipy.special import expit

from sak_jax.boundary.maps import PROTOCOLS, Thinner, boundary_of_labels, protocol_named, suppress_non_maxima, thin
from sak_jax.boundary.matching import Matcher
from sak_jax.errors import UserError
from sak_jax.metrics.metric import Metric
from sak_jax.tasks import IGNORE

__all__ = [
    "COUNTS",
    "PROTOCOLS",
    "THRESHOLDS",
    "TRUTHS",
    "Boundary",
    "best_counts",
    "boundary_of_labels",
    "evaluate_image",
    "scores",
    "truth_of_boundary",
]

THRESHOLDS = np.arange(1, 100) / 100
"""The thresholds on a prediction in 0..1: 0.01, 0.02 .. 0.99."""

COUNTS = ("matched_truth", "truth", "matched_prediction", "prediction")
"""What the last axis of an array of counts holds, in pixels."""

TRUTHS = {"label_map": boundary_of_labels, "boundary": thin}
"""How a binary boundary map becomes the truth: outlined like a label map and thinned, or just thinned."""


def truth_of_boundary(boundary: Bool[np.ndarray, "h w"], truth: str) -> Bool[np.ndarray, "h w"]:
    """Thin truth from a binary boundary map.

    Args:
      boundary: the annotated boundary, of any thickness.
      truth: a key of `TRUTHS`. "label_map" is what published scores on NYUD-v2 rest on: the map is taken for a label
        map, so that each curve is outlined before it is thinned. "boundary" thins the curves themselves.

    Raises:
      UserError: `truth` is no key of `TRUTHS`.
    """
    if truth not in TRUTHS:
        raise UserError(f"the truth cannot be made by {truth!r}; take one of {', '.join(TRUTHS)}")
    return TRUTHS[truth](boundary)


def evaluate_image(
    prediction: UInt8[np.ndarray, "h w"], boundary: Bool[np.ndarray, "h w"], max_distance: float, protocol: str
) -> Int[np.ndarray, "99 4"]:
    """Counts of matched and of all boundary pixels of one image, per threshold.

    Args:
      prediction: boundary probability quantised to 0..255.
      boundary: the truth, thin already (`boundary_of_labels`, `truth_of_boundary`).
      max_distance: how far apart matched pixels may be, as a fraction of the image's diagonal (0.0075 for
        PASCAL-Context, 0.011 for NYUD-v2).
      protocol: "sak" or "invpt"; their scores are not comparable.

    Returns:
      int64 pixels, a row for each of `THRESHOLDS`, the columns `COUNTS`.

    Raises:
      UserError: arrays of other types or sizes, an unknown protocol, or a distance that is not in 0..1.

    Method: section 6; Martin, Fowlkes and Malik (2004). The original matcher drops some candidate pairs at random; this
    one finds the true maximum, up to 0.3 % more pairs at the size of NYUD-v2.
    """
    _check(prediction, boundary, max_distance, protocol)
    height, width = prediction.shape
    thinned = suppress_non_maxima(prediction, protocol).ravel().astype(np.int32)
    candidates = np.flatnonzero(thinned * 100 >= 255)
    strength = thinned[candidates]
    truth = np.flatnonzero(boundary)
    matcher = Matcher(truth, candidates, height, width, max_distance * np.hypot(height, width))
    thinner = Thinner(height, width)

    counts = np.zeros((len(THRESHOLDS), len(COUNTS)), np.int64)
    counts[:, 1] = len(truth)
    before = -1
    for row in range(len(THRESHOLDS)):
        pixels = candidates[strength * 100 >= 255 * (row + 1)]
        if len(pixels) == before:
            counts[row] = counts[row - 1]  # the same pixels, hence the same result
            continue
        before = len(pixels)
        predicted = thinner(pixels)
        matched = matcher(predicted)
        counts[row, [0, 2, 3]] = matched, matched, len(predicted)
    return counts


def _check(prediction, boundary, max_distance, protocol):
    protocol_named(protocol)
    if prediction.dtype != np.uint8 or boundary.dtype != bool:
        raise UserError(
            f"the boundary score takes a uint8 prediction and a bool truth, not {prediction.dtype} and {boundary.dtype}"
        )
    if prediction.ndim != 2 or prediction.shape != boundary.shape or min(prediction.shape) < 2:
        raise UserError(
            f"prediction {prediction.shape} and truth {boundary.shape} must be maps of one size, 2 x 2 pixels at least"
        )
    if not 0 <= max_distance <= 1:
        raise UserError(f"max_distance is a fraction of the image's diagonal, in 0..1, not {max_distance}")


def _rates(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recall, precision and F-measure from counts [.., 4]; 0 where there is nothing to divide by."""
    recall = counts[..., 0] / np.maximum(counts[..., 1], 1)
    precision = counts[..., 2] / np.maximum(counts[..., 3], 1)
    return recall, precision, 2 * recall * precision / np.maximum(recall + precision, 1e-12)


def best_counts(counts: Int[np.ndarray, "99 4"]) -> Int[np.ndarray, "4"]:
    """One image's counts at the threshold where its own F-measure is highest; what oisF adds up over images."""
    return counts[np.argmax(_rates(counts)[2])]


def scores(counts: Shaped[np.ndarray, "99 4"], best: Shaped[np.ndarray, "4"]) -> dict[str, float]:
    """The scores of a data set, each in 0..1.

    Args:
      counts: `evaluate_image`'s counts, added up over the images.
      best: `best_counts`, added up over the images.

    Returns:
      `odsF`: the highest F-measure of any one threshold, and `threshold`, where it is reached (0.01 .. 0.99);
      `oisF`: the F-measure with each image at its own best threshold;
      `AP`: precision averaged over recall 0, 0.01 .. 1, interpolated linearly, 0 outside the recalls reached.
      All NaN if there is no true pixel.

    AP is that of BSDS-style toolboxes (Dollar and Zitnick, 2015), which divide the sum of these 101 values by 100.
    """
    counts, best = np.asarray(counts), np.asarray(best)
    if not counts[0, 1]:
        return dict.fromkeys(("odsF", "oisF", "AP", "threshold"), float("nan"))
    recall, precision, f_measure = _rates(counts)
    at = int(np.argmax(f_measure))
    reached, first = np.unique(recall, return_index=True)
    average = 0.0
    if len(reached) > 1:
        at_recall = np.interp(np.arange(101) / 100, reached, precision[first], left=0, right=0)
        average = float(at_recall.sum() / 100)
    return {
        "odsF": float(f_measure[at]),
        "oisF": float(_rates(best)[2]),
        "AP": average,
        "threshold": float(THRESHOLDS[at]),
    }


class Boundary(Metric):
    """odsF, and oisF and AP beside it, in percent.

    Predictions are quantised to 0..255 as if they had been saved as PNG (rounded down, as published predictions are),
    and the padding around each image is cut off first. Images are evaluated in parallel by processes of their own,
    started (not forked: JAX has threads) when the first batch arrives and ended by `close`. A script that uses them
    needs the usual `if __name__ == "__main__":`.

    Args:
      max_distance: how far apart matched pixels may be, as a fraction of the diagonal: 0.011 for NYUD-v2, 0.0075 for
        PASCAL-Context.
      protocol: "sak" or "invpt"; their scores are not comparable.
      truth: "label_map" or "boundary", see `truth_of_boundary`.
      workers: processes; None for one a processor, 1 for none (in this process).

    Raises:
      UserError: an unknown protocol or truth.
    """

    name = "odsF"
    higher_is_better = True
    on_host = True

    def __init__(
        self,
        max_distance: float = 0.011,
        protocol: str = "sak",
        truth: str = "label_map",
        workers: int | None = None,
    ):
        protocol_named(protocol)
        if truth not in TRUTHS:
            raise UserError(f"the truth cannot be made by {truth!r}; take one of {', '.join(TRUTHS)}")
        self._settings = {"max_distance": max_distance, "protocol": protocol, "truth": truth}
        self._workers = workers or os.cpu_count() or 1

    @functools.cached_property
    def _pool(self) -> concurrent.futures.ProcessPoolExecutor:
        return worker_pool(self._workers)

    def batch(
        self,
        prediction: Float[Array, "b h w 1"],
        label: Float[Array, "b h w"],
        mask: Bool[Array, " b"],
        size: Int[Array, "b 2"] | None = None,
    ) -> dict[str, np.ndarray]:
        """Counts summed over the images of a batch, int64.

        Args:
          prediction: boundary logits at image size.
          label: boundary strength in 0..1; above 0 is boundary, 255 (ignore) is not.
          mask: False for rows that only fill up the batch.
          size: height and width of each image inside its centred padding, in pixels; None if there is no padding.

        Returns:
          `counts` [99, 4] and `best` [4], see `scores`.
        """
        prediction, label, mask = np.asarray(prediction, np.float32), np.asarray(label), np.asarray(mask)
        images = []
        for index in np.flatnonzero(mask):
            window = ... if size is None else _window(label.shape[1:], np.asarray(size)[index])
            # float32 throughout: the last bit decides which side of a whole number a value falls on.
            quantised = (expit(prediction[index, ..., 0][window]) * np.float32(255)).astype(np.uint8)
            boundary = label[index][window]
            images.append((quantised, (boundary > 0) & (boundary != IGNORE)))
        evaluate = functools.partial(_evaluate_annotated, **self._settings)
        apply = map if self._workers == 1 or len(images) == 1 else self._pool.map
        results = list(apply(evaluate, *zip(*images, strict=True))) if images else []
        return {
            "counts": np.sum(results, axis=0) if results else np.zeros((len(THRESHOLDS), len(COUNTS)), np.int64),
            "best": np.sum([best_counts(counts) for counts in results], axis=0)
            if results
            else np.zeros(len(COUNTS), np.int64),
        }

    def close(self) -> None:
        """Ends the processes, if there are any."""
        if "_pool" in self.__dict__:
            self._pool.shutdown(cancel_futures=True)
            del self._pool

    def result(self, totals: Mapping[str, np.ndarray | float]) -> dict[str, float]:
        """odsF, oisF and AP in percent; NaN if there is no true pixel."""
        values = scores(totals["counts"], totals["best"])
        return {name: 100 * values[name] for name in ("odsF", "oisF", "AP")}


def _window(padded: tuple[int, int], size: np.ndarray) -> tuple[slice, slice]:
    """The image inside its centred padding; an odd pixel of padding is after it."""
    top, left = ((int(outer) - int(inner)) // 2 for outer, inner in zip(padded, size, strict=True))
    return slice(top, top + int(size[0])), slice(left, left + int(size[1]))


def _evaluate_annotated(prediction, boundary, *, max_distance, protocol, truth):
    return evaluate_image(prediction, truth_of_boundary(boundary, truth), max_distance, protocol)


def worker_pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Processes that evaluate images. Spawned, because a process that runs JAX must not be forked.

    Ctrl-C, which a terminal sends to them too, is left to the process that started them.
    """
    ignore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    return concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=ignore)
