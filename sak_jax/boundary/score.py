"""Boundary score (odsF, oisF, AP), the BSDS benchmark without MATLAB.

A prediction is thinned (`maps`), binarised at 99 thresholds, and its pixels are matched one to one with the
true ones (`matching`). Per threshold that gives four counts, in this order everywhere:
matched truth, truth, matched prediction, prediction. They add up over images, and `scores` turns them into F-measures.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from sak_jax.boundary.maps import PROTOCOLS, Thinner, boundary_of_labels, protocol_named, suppress_non_maxima, thin
from sak_jax.boundary.matching import Matcher
from sak_jax.boundary.pool import WorkerPool
from sak_jax.errors import UserError

__all__ = [
    "COUNTS",
    "PROTOCOLS",
    "THRESHOLDS",
    "TRUTHS",
    "WorkerPool",
    "best_counts",
    "boundary_of_labels",
    "check_truth",
    "evaluate_annotated",
    "evaluate_image",
    "scores",
    "total",
    "truth_of_boundary",
]

THRESHOLDS = np.arange(1, 100) / 100
"""The thresholds on a prediction in 0..1: 0.01, 0.02 .. 0.99."""

COUNTS = ("matched_truth", "truth", "matched_prediction", "prediction")
"""What the last axis of an array of counts holds, in pixels."""

TRUTHS = {"label_map": boundary_of_labels, "boundary": thin}
"""How a binary boundary map becomes the truth: outlined like a label map and thinned, or just thinned."""


def check_truth(truth: str) -> None:
    """Raises UserError if `truth` is no key of `TRUTHS`."""
    if truth not in TRUTHS:
        raise UserError(f"the truth cannot be made by {truth!r}; take one of {', '.join(TRUTHS)}")


def truth_of_boundary(boundary: Bool[np.ndarray, "h w"], truth: str) -> Bool[np.ndarray, "h w"]:
    """Thin truth from a binary boundary map.

    Args:
      boundary: the annotated boundary, of any thickness.
      truth: a key of `TRUTHS`. "label_map" is what published scores on NYUD-v2 rest on: the map is taken for a label
        map, so that each curve is outlined before it is thinned. "boundary" thins the curves themselves.

    Raises:
      UserError: `truth` is no key of `TRUTHS`.
    """
    check_truth(truth)
    return TRUTHS[truth](boundary)


def evaluate_image(
    prediction: np.ndarray, boundary: np.ndarray, max_distance: float, protocol: str
) -> Int[np.ndarray, "99 4"]:
    """Counts of matched and of all boundary pixels of one image, per threshold.

    Args:
      prediction: uint8 [h, w], boundary probability quantised to 0..255.
      boundary: bool [h, w], the truth, thin already (`boundary_of_labels`, `truth_of_boundary`).
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


def evaluate_annotated(
    prediction: UInt8[np.ndarray, "h w"],
    boundary: Bool[np.ndarray, "h w"],
    *,
    max_distance: float,
    protocol: str,
    truth: str,
) -> Int[np.ndarray, "99 4"]:
    """`evaluate_image` against a boundary of any thickness, of which `truth_of_boundary` makes the truth."""
    return evaluate_image(prediction, truth_of_boundary(boundary, truth), max_distance, protocol)


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


def _rates(counts: Shaped[np.ndarray, "*n 4"]) -> tuple[Shaped[np.ndarray | np.float64, "*n"], ...]:
    """Recall, precision and F-measure from counts [.., 4]; 0 where there is nothing to divide by."""
    recall = counts[..., 0] / np.maximum(counts[..., 1], 1)
    precision = counts[..., 2] / np.maximum(counts[..., 3], 1)
    return recall, precision, 2 * recall * precision / np.maximum(recall + precision, 1e-12)


def best_counts(counts: Int[np.ndarray, "99 4"]) -> Int[np.ndarray, "4"]:
    """One image's counts at the threshold where its own F-measure is highest; what oisF adds up over images."""
    return counts[np.argmax(_rates(counts)[2])]


def total(images: Iterable) -> dict[str, np.ndarray]:
    """What `scores` takes, from each image's counts [99, 4]: `counts` [99, 4] and `best` [4]; zeros for no image."""
    counts = np.zeros((len(THRESHOLDS), len(COUNTS)), np.int64)
    best = np.zeros(len(COUNTS), np.int64)
    for image in images:
        counts += image
        best += best_counts(image)
    return {"counts": counts, "best": best}


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
