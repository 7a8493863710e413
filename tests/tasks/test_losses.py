"""The losses against reference values, and their behaviour where nothing is valid."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax import losses
from sak_jax.errors import UserError
from sak_jax.tasks import TASKS, select

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "losses_and_metrics.npz")
TEACHERS = ("dinov2", "clip", "sam", "coarse")  # finer, equal, finer with another aspect, coarser than the student
DATA_TASKS = {
    "nyud": ("semseg", "normals", "edge", "depth"),
    "pascalcontext": ("semseg", "human_parts", "normals", "edge", "sal"),
}
TOLERANCE = 1e-5  # float32 sums of up to 1e5 terms in another order


def maps(role: str) -> dict:
    return {
        name: tuple(
            jnp.asarray(REFERENCE[f"distill/{role}/{name}/{level}"].transpose(0, 2, 3, 1)) for level in range(4)
        )
        for name in TEACHERS
    }


def example(data: str, task: str) -> tuple[jax.Array, jax.Array]:
    prediction = jnp.asarray(REFERENCE[f"{data}/prediction/{task}"].transpose(0, 2, 3, 1))
    label = REFERENCE[f"{data}/label/{task}"].transpose(0, 2, 3, 1)
    return prediction, jnp.asarray(label if task == "normals" else label[..., 0])


@pytest.mark.parametrize("kind", ["cos+l1", "cos", "l2"])
def test_distillation_matches_the_reference_in_total_and_a_level(kind):
    student, teacher = maps("student"), maps("teacher")
    total, per_teacher = losses.distillation_loss(student, teacher, kind)
    np.testing.assert_allclose(total, REFERENCE[f"distill/loss/{kind}/total"], rtol=TOLERANCE)
    np.testing.assert_allclose(sum(per_teacher.values()), total, rtol=TOLERANCE)
    for name in TEACHERS:
        for level in range(4):
            one, _ = losses.distillation_loss(
                {name: student[name][level : level + 1]}, {name: teacher[name][level : level + 1]}, kind
            )
            expected = REFERENCE[f"distill/loss/{kind}/{name}_level{level + 1}"]
            np.testing.assert_allclose(one, expected, rtol=TOLERANCE, err_msg=f"{name} {level}")


def test_distillation_computes_bfloat16_features_in_float32():
    student = {"clip": tuple(map_.astype(jnp.bfloat16) for map_ in maps("student")["clip"])}
    teacher = {"clip": maps("teacher")["clip"]}
    total, _ = losses.distillation_loss(student, teacher)
    widened = {"clip": tuple(map_.astype(jnp.float32) for map_ in student["clip"])}
    expected, _ = losses.distillation_loss(widened, teacher)
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_distillation_gradient_is_finite_for_zero_features_and_never_reaches_the_teacher():
    teacher = {"coarse": maps("teacher")["coarse"]}
    student = {"coarse": tuple(jnp.zeros_like(map_) for map_ in maps("student")["coarse"])}
    ours, theirs = jax.grad(lambda s, t: losses.distillation_loss(s, t)[0], argnums=(0, 1))(student, teacher)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(theirs))


def test_distillation_refuses_unknown_kinds_and_unlike_features():
    student = maps("student")
    with pytest.raises(UserError, match="cos\\+l1"):
        losses.distillation_loss(student, student, kind="l3")
    with pytest.raises(ValueError, match="dinov2"):
        losses.distillation_loss(student, {"clip": student["clip"]})
    with pytest.raises(ValueError, match="32 wide, not 31"):
        losses.distillation_loss({"clip": student["clip"]}, {"clip": [map_[..., 1:] for map_ in student["clip"]]})


@pytest.mark.parametrize("data", DATA_TASKS)
def test_task_losses_match_the_reference_in_total_and_a_task(data):
    total = 0.0
    for name in DATA_TASKS[data]:
        value = TASKS[name].weight * losses.task_loss(TASKS[name], *example(data, name))
        np.testing.assert_allclose(value, REFERENCE[f"{data}/loss/{name}"], rtol=TOLERANCE, err_msg=name)
        total += value
    np.testing.assert_allclose(total, REFERENCE[f"{data}/loss/total"], rtol=TOLERANCE)


@pytest.mark.parametrize("name", TASKS)
def test_no_valid_pixel_gives_zero_with_a_zero_gradient(name):
    prediction, label = example("nyud" if name == "depth" else "pascalcontext", name)
    nothing = jnp.full_like(label, 255)
    value, gradient = jax.value_and_grad(lambda p: losses.task_loss(TASKS[name], p, nothing))(prediction)
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", TASKS)
def test_gradient_is_finite_for_zero_and_for_huge_predictions(name):
    prediction, label = example("nyud" if name == "depth" else "pascalcontext", name)
    for scale in (0.0, 1e4):
        gradient = jax.grad(lambda p: losses.task_loss(TASKS[name], p, label))(prediction * scale)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() <= 1  # a zero normal must not drown the other pixels


@pytest.mark.parametrize("name", TASKS)
def test_bfloat16_predictions_are_computed_in_float32(name):
    prediction, label = example("nyud" if name == "depth" else "pascalcontext", name)
    low = prediction.astype(jnp.bfloat16)
    value = losses.task_loss(TASKS[name], low, label)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, losses.task_loss(TASKS[name], low.astype(jnp.float32), label), rtol=1e-6)


@pytest.mark.parametrize("name", ["semseg", "human_parts", "sal"])
def test_uint8_labels_equal_float_labels(name):
    prediction, label = example("pascalcontext", name)
    assert label.dtype == jnp.float32
    narrow = losses.task_loss(TASKS[name], prediction, label.astype(jnp.uint8))
    assert narrow == losses.task_loss(TASKS[name], prediction, label)


@pytest.mark.parametrize("name", TASKS)
def test_sums_of_two_batches_give_the_loss_of_both(name):
    prediction, label = example("nyud" if name == "depth" else "pascalcontext", name)
    loss = losses.for_task(TASKS[name])
    halves = [loss.sums(prediction[rows], label[rows]) for rows in (slice(0, 1), slice(1, None))]
    pooled = loss.mean(jax.tree.map(lambda a, b: a + b, *halves))
    np.testing.assert_allclose(pooled, losses.task_loss(TASKS[name], prediction, label), rtol=TOLERANCE)


def test_unknown_losses_and_wrong_channels_are_the_users_mistake():
    (task,) = select({"semseg": {"loss": "hinge"}})
    prediction, label = example("nyud", "semseg")
    with pytest.raises(UserError, match="tasks.semseg.loss is 'hinge'.*cross_entropy"):
        losses.task_loss(task, prediction, label)
    with pytest.raises(UserError, match="2 channels, not 40"):
        losses.task_loss(TASKS["sal"], prediction, label)
