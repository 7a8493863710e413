"""The losses against reference values, and their behaviour where nothing is valid."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax import tasks
from sak_jax.errors import UserError
from sak_jax.tasks import KINDS, TASKS

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "losses_and_metrics.npz")
DATA_TASKS = {
    "nyud": ("semseg", "normals", "edge", "depth"),
    "pascalcontext": ("semseg", "human_parts", "normals", "edge", "sal"),
}
TOLERANCE = 1e-5  # float32 sums of up to 1e5 terms in another order


def example(data: str, task: str) -> tuple[jax.Array, jax.Array]:
    prediction = jnp.asarray(REFERENCE[f"{data}/prediction/{task}"].transpose(0, 2, 3, 1))
    label = REFERENCE[f"{data}/label/{task}"].transpose(0, 2, 3, 1)
    return prediction, jnp.asarray(label if task == "normals" else label[..., 0])


@pytest.mark.parametrize("data", DATA_TASKS)
def test_task_losses_match_the_reference_in_total_and_a_task(data):
    total = 0.0
    for name in DATA_TASKS[data]:
        value = TASKS[name].weight * tasks.loss(TASKS[name], *example(data, name))
        np.testing.assert_allclose(value, REFERENCE[f"{data}/loss/{name}"], rtol=TOLERANCE, err_msg=name)
        total += value
    np.testing.assert_allclose(total, REFERENCE[f"{data}/loss/total"], rtol=TOLERANCE)


@pytest.mark.parametrize("name", TASKS)
def test_no_valid_pixel_gives_zero_with_a_zero_gradient(name):
    prediction, label = example("nyud" if name == "depth" else "pascalcontext", name)
    nothing = jnp.full_like(label, 255)
    value, gradient = jax.value_and_grad(lambda p: tasks.loss(TASKS[name], p, nothing))(prediction)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", TASKS)
def test_gradient_is_finite_for_zero_and_for_huge_predictions(name):
    prediction, label = example("nyud" if name == "depth" else "pascalcontext", name)
    for scale in (0.0, 1e4):
        gradient = jax.grad(lambda p: tasks.loss(TASKS[name], p, label))(prediction * scale)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() <= 1  # a zero normal must not drown the other pixels


@pytest.mark.parametrize("name", TASKS)
def test_bfloat16_predictions_are_computed_in_float32(name):
    prediction, label = example("nyud" if name == "depth" else "pascalcontext", name)
    low = prediction.astype(jnp.bfloat16)
    value = tasks.loss(TASKS[name], low, label)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, tasks.loss(TASKS[name], low.astype(jnp.float32), label), rtol=1e-6)


@pytest.mark.parametrize("name", ["semseg", "human_parts", "sal"])
def test_uint8_labels_equal_float_labels(name):
    prediction, label = example("pascalcontext", name)
    assert label.dtype == jnp.float32
    narrow = tasks.loss(TASKS[name], prediction, label.astype(jnp.uint8))
    assert narrow == tasks.loss(TASKS[name], prediction, label)


@pytest.mark.parametrize("name", TASKS)
def test_sums_of_two_batches_give_the_loss_of_both(name):
    prediction, label = example("nyud" if name == "depth" else "pascalcontext", name)
    task, kind = TASKS[name], KINDS[TASKS[name].kind]
    halves = [kind.loss_sums(task, prediction[rows], label[rows]) for rows in (slice(0, 1), slice(1, None))]
    pooled = kind.loss_mean(jax.tree.map(lambda a, b: a + b, *halves))
    np.testing.assert_allclose(pooled, tasks.loss(TASKS[name], prediction, label), rtol=TOLERANCE)


def test_a_prediction_with_other_channels_is_the_users_mistake():
    with pytest.raises(UserError, match="2 channels, not 40"):
        tasks.loss(TASKS["sal"], *example("nyud", "semseg"))
