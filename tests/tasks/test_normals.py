import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax import tasks
from sak_jax.tasks import TASKS
from tests.tasks.streams import REFERENCE, TOLERANCE, batches, check_streaming, nothing_valid, score

METRIC = tasks.metric(TASKS["normals"])


@pytest.mark.parametrize("data", ["nyud", "pascalcontext"])
def test_matches_the_reference(data):
    expected = REFERENCE[f"{data}/metric/score/normals/mErr"]
    np.testing.assert_allclose(score(METRIC, batches(data, "normals")), expected, rtol=TOLERANCE)
    check_streaming(METRIC, data, "normals")


@pytest.mark.parametrize("degrees", [0.0, 0.01, 45.0, 90.0, 179.9])
def test_angle_does_not_depend_on_length_and_is_exact_when_small(degrees):
    radians = np.deg2rad(degrees)
    label = jnp.asarray([[[[0.0, 0.0, 1.0], [255.0, 255.0, 255.0]]]])
    prediction = 7 * jnp.asarray([[[[np.sin(radians), 0.0, np.cos(radians)], [1.0, 0.0, 0.0]]]])
    # float32 directions: 1e-7 radians, i.e. 6e-6 degrees, at best
    np.testing.assert_allclose(score(METRIC, [(prediction, label)]), degrees, atol=2e-5)


def test_zero_prediction_is_90_degrees_off():
    label = jnp.asarray([[[[0.0, 0.0, 1.0]]]])
    np.testing.assert_allclose(score(METRIC, [(jnp.zeros_like(label), label)]), 90, rtol=1e-6)


def test_no_valid_pixel_is_not_a_number():
    assert np.isnan(nothing_valid(METRIC, "nyud", "normals"))
