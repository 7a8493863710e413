import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax.errors import UserError
from sak_jax.methods.distillation import phi_s, statistics
from tests.methods.dune.cases import deviations, reference

TYPES = ("cls", "patch")
CASES = {"batch": ("dune_statistics", ""), "running": ("unic_ladder", "statistics/")}


def arrays(kind, key):
    file, prefix = CASES[kind]
    return {name: jnp.asarray(reference(file)[f"{prefix}{key}/{name}"]) for name in TYPES}


@pytest.mark.parametrize("kind", CASES)
def test_targets_and_running_statistics_over_four_steps(kind):
    file, prefix = CASES[kind]
    momentum = reference(file)[f"{prefix}momentum"]
    state = {name: statistics.initial(kind, 8) for name in TYPES}
    for k in range(4):
        targets, state = statistics.standardise(
            kind, arrays(kind, f"step{k}/input"), state, momentum=jnp.asarray(momentum[k]), train=True
        )
        for name in TYPES:
            assert deviations(targets[name], arrays(kind, f"step{k}/output")[name]) < 2e-6
            for part in ("mean", "std"):
                wanted = arrays(kind, f"step{k}/{part}")[name]
                np.testing.assert_allclose(state[name][part], wanted, rtol=2e-6, atol=1e-7)
    if kind == "batch":
        inputs = arrays(kind, "evaluation/input")
        targets, same = statistics.standardise(kind, inputs, state, momentum=0.5)
        for name in TYPES:
            assert deviations(targets[name], arrays(kind, "evaluation/output")[name]) < 2e-6
        assert same == state


@pytest.mark.parametrize("kind", statistics.KINDS)
def test_restoring_undoes_standardising(kind):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 5, 8), np.float32) * 3 + 7
    if kind in statistics.MEASURED:
        own = statistics.measured(kind, phi_s.Moments.of(x))
    else:
        own = statistics.initial(kind, 8)
        _, own = statistics.standardise(kind, jnp.asarray(x), own, momentum=1.0, train=True)
    targets, _ = statistics.standardise(kind, jnp.asarray(x), own)
    if kind != "none":
        np.testing.assert_allclose(np.var(targets, axis=(0, 1), ddof=1), 1, rtol=1e-4)
    np.testing.assert_allclose(statistics.restore(kind, targets, own), x, rtol=1e-5)


@pytest.mark.parametrize("kind", statistics.MEASURED)
def test_statistics_measured_over_batches(kind):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((30, 5, 8)) @ rng.standard_normal((8, 8)) + 9).astype(np.float32)
    batches = [{"a": (jnp.asarray(part), jnp.asarray(part[:, 0]))} for part in np.split(x, [7, 20])]
    own = statistics.measure(kind, batches)
    targets, _ = statistics.standardise(kind, {"a": (jnp.asarray(x), jnp.asarray(x[:, 0]))}, own)
    for leaf in jax.tree.leaves(targets):
        rows = np.reshape(leaf, (-1, 8))
        np.testing.assert_allclose(rows.var(axis=0, ddof=1), 1, rtol=1e-4)
        np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-4)
    with pytest.raises(UserError, match="no batch was given"):
        statistics.measure(kind, [])


def test_features_that_do_not_vary_are_called_by_name():
    with pytest.raises(UserError, match="features of clip patch do not vary"):
        statistics.measure("phi_s", [{"clip": {"patch": jnp.ones((4, 8))}}])


def test_measured_statistics_stay_in_training():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 8), np.float32))
    for kind in statistics.MEASURED:
        own = statistics.measured(kind, phi_s.Moments.of(np.asarray(x)))
        _, moved = statistics.standardise(kind, x, own, momentum=1.0, train=True)
        jax.tree.map(np.testing.assert_array_equal, moved, own)


def test_a_tree_of_levels_as_teachers_of_taps_give():
    rng = np.random.default_rng(0)
    levels = lambda width: tuple(jnp.asarray(rng.standard_normal((2, 3, 4, width))) for _ in range(2))  # noqa: E731
    features = {"a": levels(6), "b": levels(5)}
    own = jax.tree.map(lambda x: statistics.initial("batch", x.shape[-1]), features)
    targets, moved = statistics.standardise("batch", features, own, momentum=1.0, train=True)
    assert jax.tree.structure(targets) == jax.tree.structure(features)
    assert jax.tree.structure(moved) == jax.tree.structure(own)
    np.testing.assert_allclose(moved["b"][1]["mean"], features["b"][1].mean((0, 1, 2)), atol=1e-6)


def test_targets_have_no_gradient():
    own = statistics.initial("batch", 8)
    value = lambda x: statistics.standardise("batch", x, own, momentum=1.0, train=True)[0][0, 0]  # noqa: E731
    assert not jax.grad(value)(jnp.arange(16.0).reshape(2, 8)).any()


def test_what_cannot_be_standardised_is_refused():
    with pytest.raises(UserError, match="distill.standardise is 'phi'"):
        statistics.initial("phi", 8)
    with pytest.raises(UserError, match="batch_size to 2"):
        statistics.standardise("batch", jnp.ones((1, 8)), statistics.initial("batch", 8), train=True)
