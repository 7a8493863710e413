import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax.methods.distillation import dropping, losses
from tests.methods.dune.cases import TYPES, deviations, reference
from tests.reference.formula_weights import formula_input

WIDTHS = dict(zip(TYPES, (32, 24, 16), strict=True))
WEIGHTS = {"loss": (0.5, 0.5), "cosine": (1.0, 0.0), "smooth_l1": (0.0, 1.0)}


def features(side):
    shape = lambda name, kind: (4, WIDTHS[name]) if kind == "cls" else (4, 16, WIDTHS[name])  # noqa: E731
    return {
        name: {kind: jnp.asarray(formula_input(f"{side}/{name}/{kind}", shape(name, kind))) for kind in kinds}
        for name, kinds in TYPES.items()
    }


@pytest.mark.parametrize("key", WEIGHTS)
def test_each_teachers_loss_on_each_image(key):
    cosine, smooth_l1 = WEIGHTS[key]
    ours = losses.image_losses(features("student"), features("teacher"), cosine=cosine, smooth_l1=smooth_l1)
    np.testing.assert_allclose(ours, reference("dune_loss")[key], rtol=1e-6)


@pytest.mark.parametrize("key", ["cosine", "smooth_l1"])
def test_each_tokens_loss(key):
    cosine, smooth_l1 = WEIGHTS[key]
    student, teacher, checked = features("student"), features("teacher"), 0
    for name, kinds in TYPES.items():
        for kind in kinds:
            ours = losses.token_loss(student[name][kind], teacher[name][kind], cosine=cosine, smooth_l1=smooth_l1)
            assert deviations(ours, reference("dune_loss")[f"token/{key}/{name}/{kind}"]) < 5e-6
            checked += 1
    assert checked == 4


def test_lengths_are_floored_in_the_cosine_and_zero_has_a_gradient():
    case = reference("dune_loss")
    student, teacher = jnp.asarray(case["floor/student"]), jnp.asarray(case["floor/teacher"])
    distance = lambda student: losses.token_loss(student, teacher, cosine=1.0, smooth_l1=0.0)  # noqa: E731
    np.testing.assert_allclose(distance(student), case["floor/cosine"], atol=1e-6)
    gradient = jax.grad(lambda student: distance(student).sum())(jnp.zeros_like(student))
    assert np.isfinite(gradient).all()


def test_gradient_of_the_loss_over_kept_teachers():
    case, teacher = reference("dune_loss"), features("teacher")

    def loss(student):
        each = losses.image_losses(student, teacher)
        kept = dropping.kept("lowest_loss", each, draws=jnp.asarray(case["dropped/draws"]).reshape(4, 2))
        return dropping.total(each, kept), kept

    (value, kept), gradient = jax.value_and_grad(loss, has_aux=True)(features("student"))
    np.testing.assert_array_equal(kept, case["dropped/kept"])
    np.testing.assert_allclose(value, case["dropped/total"], rtol=1e-6)
    for name, kinds in TYPES.items():
        for kind in kinds:
            assert deviations(gradient[name][kind], case[f"dropped/gradient/{name}/{kind}"]) < 5e-6


def test_features_that_do_not_fit_are_refused():
    student, teacher = features("student"), features("teacher")
    with pytest.raises(ValueError, match="the committee for"):
        losses.image_losses({}, teacher)
    student["mast3r_vitlarge_16"]["patch"] = student["mast3r_vitlarge_16"]["patch"][:, :9]
    with pytest.raises(ValueError, match="mast3r_vitlarge_16"):
        losses.image_losses(student, teacher)
