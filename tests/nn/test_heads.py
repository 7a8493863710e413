from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from sak_jax.nn import heads
from tests.nn.filling import filled


@pytest.mark.parametrize(
    ("grid", "size"), [((4, 6), (16, 24)), ((5, 3), (18, 13)), ((1, 7), (3, 28)), ((6, 5), (4, 5))]
)
def test_fused_convolution_equals_upsampling_then_convolving(grid, size):
    fuse = filled(lambda: heads.FusedUpsampleConv(8, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(1).standard_normal((2, *grid, 8), np.float32)

    def plain(fuse, x):
        x = jax.image.resize(x, (len(x), *size, x.shape[3]), "linear", antialias=False)
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, fuse.kernel[...], (1, 1), "SAME", dimension_numbers=layout)

    def check(run):
        outputs, pullback = jax.vjp(run, fuse, x)
        return outputs, pullback(jnp.sin(outputs))

    ours, gradients = jax.jit(lambda: check(lambda fuse, x: fuse(x, size)))()
    expected, others = jax.jit(lambda: check(plain))()
    assert ours.shape == (2, *size, 8)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def normalised(norm, x, train, offset=0.0):
    """As heads do it: with the batch's own statistics, or folded into one factor and one shift."""
    if train:
        return norm(x, offset=offset)
    factor, shift = norm.folded(offset)
    return x * factor + shift, (norm.mean[...], norm.var[...])


def test_batch_norm_as_pytorch_in_training_and_evaluation():
    ours, theirs = heads.BatchNorm(6), torch.nn.BatchNorm2d(6)
    rng = np.random.default_rng(0)
    scale, bias = rng.standard_normal((2, 6), np.float32)
    ours.scale[...], ours.bias[...] = scale, bias
    theirs.load_state_dict({"weight": torch.tensor(scale), "bias": torch.tensor(bias)}, strict=False)
    run = jax.jit(normalised, static_argnums=2)
    for train in (True, True, False):
        x = 3 + 2 * rng.standard_normal((2, 3, 5, 6), np.float32)
        theirs.train(train)
        expected = theirs(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach()
        y, (mean, var) = run(ours, x, train)
        ours.mean[...], ours.var[...] = mean, var
        np.testing.assert_allclose(y, expected, atol=1e-5)
        np.testing.assert_allclose(mean, theirs.running_mean, rtol=1e-5)
        np.testing.assert_allclose(var, theirs.running_var, rtol=1e-5)


def test_batch_norm_of_a_map_and_its_bias_is_that_of_their_sum_with_its_gradients():
    rng = np.random.default_rng(0)
    norm = filled(lambda: heads.BatchNorm(6))
    x, offset = rng.standard_normal((2, 3, 5, 6), np.float32), rng.standard_normal(6, np.float32)

    def plain(norm, x, offset, train):
        y, mean, var = x + offset, norm.mean[...], norm.var[...]
        moments = jnp.mean(y, axis=(0, 1, 2)), jnp.var(y, axis=(0, 1, 2))
        running = 0.9 * mean + 0.1 * moments[0], 0.9 * var + 0.1 * moments[1] * 30 / 29
        mean, var = moments if train else (mean, var)
        y = (y - mean) / jnp.sqrt(var + norm.eps) * norm.scale[...] + norm.bias[...]
        return y, running if train else (norm.mean[...], norm.var[...])

    for train in (True, False):
        ours = lambda norm, x, offset: normalised(norm, x, train, offset)  # noqa: B023, E731
        theirs = lambda norm, x, offset: plain(norm, x, offset, train)  # noqa: B023, E731
        pair = []
        for run in (ours, theirs):
            y, pullback, running = jax.vjp(run, norm, x, offset, has_aux=True)
            pair.append((y, running, pullback(jnp.sin(y))))
        for one, other in zip(*map(jax.tree.leaves, pair), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_batch_norm_counts_in_float32_when_the_maps_are_bfloat16():
    norm = heads.BatchNorm(2)
    x = jnp.full((1, 64, 64, 2), 1000.0, jnp.bfloat16).at[:, ::2].set(1008.0)
    y, (mean, var) = norm(x)
    assert y.dtype == jnp.bfloat16 and mean.dtype == var.dtype == jnp.float32
    np.testing.assert_allclose(mean, 100.4, rtol=1e-5)
    np.testing.assert_allclose(var, 0.9 + 1.6 * 4096 / 4095, rtol=1e-5)


@pytest.fixture(scope="module")
def two_tasks():
    channels = {"semseg": 5, "depth": 1}
    return filled(lambda: heads.DecodeHeads(8, 4, channels, dtype=jnp.float32, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def features():
    draw = np.random.default_rng(1).standard_normal
    return {task: tuple(draw((4, 1, 2, 3, 8), np.float32)) for task in ("semseg", "depth")}


@partial(jax.jit, static_argnums=2)
def run_heads(model, features, train):
    return model(features, (16, 24), train), model.trunk.norm


def test_each_task_has_a_head_of_its_own(two_tasks, features):
    before, _ = run_heads(two_tasks, features, False)
    assert before["semseg"].shape == (1, 16, 24, 5) and before["depth"].shape == (1, 16, 24, 1)
    nothing = tuple(np.zeros_like(level) for level in features["semseg"])
    after, _ = run_heads(two_tasks, features | {"semseg": nothing}, False)
    np.testing.assert_array_equal(after["depth"], before["depth"])
    assert not np.allclose(after["semseg"], before["semseg"])


def test_running_statistics_move_in_training_only(two_tasks, features):
    start = two_tasks.trunk.norm
    _, kept = run_heads(two_tasks, features, False)
    np.testing.assert_array_equal(kept.mean[...], start.mean[...])
    _, moved = run_heads(two_tasks, features, True)
    for name in ("mean", "var"):
        step = np.abs(np.asarray(getattr(moved, name)[...]) - np.asarray(getattr(start, name)[...]))
        assert step.shape == (2, 8) and np.all(step.max(axis=1) > 0)
