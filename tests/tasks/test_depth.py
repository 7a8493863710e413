import jax.numpy as jnp
import numpy as np

from sak_jax import tasks
from sak_jax.tasks import TASKS
from tests.tasks.streams import REFERENCE, TOLERANCE, batches, check_streaming, nothing_valid, score

METRIC = tasks.metric(TASKS["depth"])


def test_matches_the_reference():
    expected = REFERENCE["nyud/metric/score/depth/RMSE"]
    np.testing.assert_allclose(score(METRIC, batches("nyud", "depth")), expected, rtol=TOLERANCE)
    check_streaming(METRIC, "nyud", "depth")


def test_counts_only_depths_between_0_and_80_and_clips_predictions_at_0():
    label = jnp.asarray([[[0.0, 3.0, 80.0, 255.0, 4.0]]])
    prediction = jnp.asarray([[[9.0, -2.0, 9.0, 9.0, 8.0]]])[..., None]
    np.testing.assert_allclose(score(METRIC, [(prediction, label)]), np.sqrt((3**2 + 4**2) / 2), rtol=1e-6)


def test_sums_stay_accurate_over_a_large_batch():
    rng = np.random.default_rng(0)
    label, prediction = rng.uniform(0.5, 10, (2, 4, 448, 576)).astype(np.float32)
    expected = np.sqrt(np.mean((prediction.astype(np.float64) - label) ** 2))
    measured = score(METRIC, [(jnp.asarray(prediction)[..., None], jnp.asarray(label))])
    np.testing.assert_allclose(measured, expected, rtol=TOLERANCE)


def test_no_valid_pixel_is_not_a_number():
    assert np.isnan(nothing_valid(METRIC, "nyud", "depth"))
