import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax.errors import UserError
from sak_jax.methods.distillation import dropping
from tests.methods.dune.cases import reference

GROUPS = jnp.asarray([0, 1, 2, 0])
"""Those of in19k, Niantic, bedlam and gldv2: generic, MASt3R's, Multi-HMR's, generic."""


def compare(case, losses, kept):
    values = reference("dune_dropping")
    np.testing.assert_array_equal(kept, values[f"{case}/kept"])
    np.testing.assert_allclose(dropping.total(losses, kept), values[f"{case}/total"], rtol=1e-6)
    np.testing.assert_allclose(kept.sum(1) / kept.sum(), values[f"{case}/share"], rtol=1e-6)


@pytest.mark.parametrize("probability", ["0.5", "0.25", "0", "1"])
def test_lowest_loss_with_given_draws(probability):
    case = f"lowest_loss_{probability}"
    losses = jnp.asarray(reference("dune_dropping")["loss"])
    assert losses[0, 0] == losses[1, 0] > losses[2, 0]
    draws = jnp.asarray(reference("dune_dropping")[f"{case}/draws"]).reshape(8, 2)
    compare(case, losses, dropping.kept("lowest_loss", losses, probability=float(probability), draws=draws))


@pytest.mark.parametrize("case", ["none", "own_data", "own+generic_data"])
def test_methods_that_go_by_group(case):
    losses = jnp.asarray(reference("dune_dropping")["loss"])[:, :4]
    method = case.removesuffix("_data")
    compare(case, losses, dropping.kept(method, losses, groups=GROUPS, own=(0, 1, 2), generic=(0,)))


def test_about_half_of_the_others_stay_and_the_draws_follow_the_key():
    losses = jax.random.uniform(jax.random.key(0), (4, 2000))
    draws = dropping.draw(jax.random.key(1), 2000, 4)
    kept = dropping.kept("lowest_loss", losses, draws=draws)
    assert (jnp.take_along_axis(kept, jnp.argmax(losses, 0)[None], 0) == 1).all()
    np.testing.assert_allclose(kept.sum(0).mean(), 2.5, atol=0.1)
    np.testing.assert_array_equal(draws, dropping.draw(jax.random.key(1), 2000, 4))


def test_one_teacher_is_always_kept():
    losses = jnp.ones((1, 3))
    kept = dropping.kept("lowest_loss", losses, draws=dropping.draw(jax.random.key(0), 3, 1))
    np.testing.assert_array_equal(kept, losses)


def test_a_batch_that_keeps_nothing_has_loss_0_and_no_gradient():
    losses = jnp.ones((2, 3))
    value, gradient = jax.value_and_grad(dropping.total)(losses, jnp.zeros_like(losses))
    assert value == 0 and not gradient.any()


def test_settings_that_cannot_be_followed_are_refused():
    check = lambda *settings: dropping.check(*settings)  # noqa: E731
    check("own", 0.5, ["a", "b"], ["x", "y"], ["x", "y"])
    check("lowest_loss", 0.5, ["a"], [], [])
    with pytest.raises(UserError, match="distill.dropping is 'random'"):
        check("random", 0.5, [], [], [])
    with pytest.raises(UserError, match="drop_probability is 1.5"):
        check("lowest_loss", 1.5, [], [], [])
    with pytest.raises(UserError, match="group of data of teacher b"):
        check("own", 0.5, ["a", "b"], ["x", "y"], ["x", "z"])
    with pytest.raises(UserError, match="no teacher learns from the group of data 'y'"):
        check("own+generic", 0.5, ["a", "b"], ["x", "y"], ["x", "x"])
