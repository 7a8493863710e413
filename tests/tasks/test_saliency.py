import jax.numpy as jnp
import numpy as np

from sak_jax import tasks
from sak_jax.tasks import TASKS
from tests.tasks.streams import REFERENCE, TOLERANCE, batches, check_streaming, nothing_valid, score

METRIC = tasks.metric(TASKS["sal"])


def test_matches_the_reference():
    # The reference also has `sal/mIoU`, a mean over images that the method does not report: it is not matched.
    expected = REFERENCE["pascalcontext/metric/score/sal/maxF"]
    np.testing.assert_allclose(score(METRIC, batches("pascalcontext", "sal")), expected, rtol=TOLERANCE)
    check_streaming(METRIC, "pascalcontext", "sal")


def test_takes_the_best_threshold_over_pooled_counts():
    probability = np.array([[[0.9, 0.4, 0.6, 0.1, 0.5]]], np.float32)
    label = jnp.asarray([[[1, 1, 0, 0, 255]]], jnp.uint8)
    prediction = jnp.asarray(np.log(np.stack([1 - probability, probability], axis=-1)))
    # From 0.65 on: precision 1, recall 1/2. Up to 0.4: precision 2/3, recall 1.
    expected = max(1.3 * 1 * 0.5 / (0.3 * 1 + 0.5), 1.3 * (2 / 3) / (0.3 * 2 / 3 + 1))
    np.testing.assert_allclose(score(METRIC, [(prediction, label)]), 100 * expected, rtol=TOLERANCE)


def test_threshold_is_inclusive():
    # Only the threshold 0.5 lies between the two pixels, and only if 0.5 itself counts as salient.
    label = jnp.asarray([[[1, 0]]], jnp.uint8)
    prediction = jnp.asarray([[[[0.0, 0.0], [0.08, 0.0]]]])  # 0.5 and 0.48
    np.testing.assert_allclose(score(METRIC, [(prediction, label)]), 100, rtol=TOLERANCE)


def test_nothing_salient_gives_zero():
    assert nothing_valid(METRIC, "pascalcontext", "sal") == 0
