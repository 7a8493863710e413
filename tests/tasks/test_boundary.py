import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from sak_jax.errors import UserError
from sak_jax.tasks import TASKS
from sak_jax.tasks.boundary import BoundaryScore

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "boundary.npz")
IMAGES = range(3)


def score_of_edges(**options):
    return BoundaryScore(TASKS["edge"], **options)


def padded_batch():
    """The reference's predictions as logits with their truth, centred in one size, and one row that only fills up."""
    height, width = 153, 161
    prediction = np.full((4, height, width, 1), 9, np.float32)  # the padding predicts boundary everywhere
    label = np.full((4, height, width), 255, np.float32)
    size = np.full((4, 2), (height, width), np.int32)
    for image in IMAGES:
        soft = REFERENCE[f"{image}/prediction"]
        size[image] = soft.shape
        top, left = (height - soft.shape[0]) // 2, (width - soft.shape[1]) // 2
        window = slice(top, top + soft.shape[0]), slice(left, left + soft.shape[1])
        probability = np.minimum((soft + 0.5) / 255, 1 - 1e-12)  # inside the grey level: quantises to it again
        prediction[image, ..., 0][window] = np.log(probability / (1 - probability))
        label[image][window] = REFERENCE[f"{image}/boundary"]
    return prediction, label, np.array([True, True, True, False]), size


def test_metric_crops_masks_and_adds_up():
    prediction, label, mask, size = padded_batch()
    metric = score_of_edges(max_distance=0.0075, protocol="sak", truth="boundary", workers=1)
    assert metric.on_host and metric.higher_is_better
    whole = metric.batch(prediction, label, mask, size)
    expected = sum(REFERENCE[f"{image}/sak/0.0075/counts"] for image in IMAGES)
    np.testing.assert_allclose(whole["counts"], expected, rtol=0.01)
    parts = [metric.batch(*(a[rows] for a in (prediction, label, mask, size))) for rows in (slice(1), slice(1, 4))]
    for name, total in whole.items():
        np.testing.assert_array_equal(total, parts[0][name] + parts[1][name])
    result = metric.result({name: total.astype(np.float64) for name, total in whole.items()})
    assert result["odsF"] == pytest.approx(100 * float(REFERENCE["sak/0.0075/odsF"]), abs=0.2)
    assert set(result) == {"odsF", "oisF", "AP"}
    nothing = metric.batch(prediction, label, np.zeros(4, bool), size)
    assert all(not total.any() and total.shape == whole[name].shape for name, total in nothing.items())


def test_metric_in_processes_equals_the_metric_in_this_one():
    batch = padded_batch()
    metrics = [score_of_edges(truth="label_map", workers=workers) for workers in (1, 2)]
    alone, parallel = (metric.batch(*batch) for metric in metrics)
    for metric in metrics:
        metric.close()
    assert not multiprocessing.active_children()
    for name in alone:
        np.testing.assert_array_equal(alone[name], parallel[name])


def test_metric_refuses_unknown_settings():
    with pytest.raises(UserError, match="protocol 'x'"):
        score_of_edges(protocol="x")
    with pytest.raises(UserError, match="'x'"):
        score_of_edges(truth="x")
