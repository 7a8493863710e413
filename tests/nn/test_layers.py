import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from sak_jax.nn import layers


def test_truncated_normal_has_the_named_deviation():
    x = layers.truncated_normal(jax.random.key(0), (400, 500), jnp.float32)
    assert abs(np.std(x) / 0.02 - 1) < 0.01 and abs(np.mean(x)) < 2e-4


def test_torch_uniform_spans_pytorchs_bounds():
    x = layers.torch_uniform(64)(jax.random.key(0), (64, 256))
    theirs = torch.nn.Linear(64, 256).weight.detach().numpy()
    assert 0.124 < np.max(x) <= 0.125 and -0.125 <= np.min(x) < -0.124
    assert abs(np.std(x) / np.std(theirs) - 1) < 0.03


def test_stacked_modules_start_differently_and_run_side_by_side():
    stacked = layers.stack(lambda rngs: nnx.Linear(3, 2, rngs=rngs), [2, 4], nnx.Rngs(0))
    kernels = np.asarray(stacked.kernel[...])
    assert kernels.shape == (2, 4, 3, 2)
    assert len(np.unique(kernels.reshape(8, -1), axis=0)) == 8
    x = jnp.arange(12.0).reshape(4, 3)
    y = jax.vmap(lambda linear, x: linear(x))(layers.take(stacked, 1), x)
    np.testing.assert_allclose(y, jnp.einsum("tc,tcd->td", x, stacked.kernel[1]), rtol=1e-6)


def test_fresh_low_rank_update_is_nothing_and_a_set_one_is_scaled():
    linear = layers.LoRALinear(6, 5, rank=2, alpha=8.0, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (3, 6))
    plain = x @ linear.kernel[...] + linear.bias[...]
    np.testing.assert_allclose(linear(x), plain, rtol=1e-6)
    linear.lora_b[...] = jnp.ones((2, 5))
    np.testing.assert_allclose(linear(x), plain + 4 * x @ linear.lora_a[...] @ np.ones((2, 5)), rtol=1e-5)


def test_patches_as_pytorchs_convolution_with_what_is_left_over_dropped():
    embed = layers.PatchEmbed(4, 8, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((2, 11, 14, 3), np.float32)
    kernel = np.asarray(embed.projection.kernel[...]).reshape(4, 4, 3, 8).transpose(3, 2, 0, 1)
    expected = torch.nn.functional.conv2d(torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(kernel), stride=4)
    ours = embed(jnp.asarray(x))
    assert ours.shape == (2, 2, 3, 8)
    np.testing.assert_allclose(ours, expected.permute(0, 2, 3, 1), atol=1e-5)
