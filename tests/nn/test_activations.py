import jax
import jax.numpy as jnp
import numpy as np
import torch

from sak_jax.nn.activations import exact_gelu

X = np.concatenate([np.linspace(-12, 12, 4001), [0.0, -0.0, 1e-30, 60.0, -60.0]]).astype(np.float32)


def test_gelu_and_its_slope_as_pytorchs_in_double_precision():
    theirs = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    expected = torch.nn.functional.gelu(theirs)
    expected.sum().backward()
    y, pullback = jax.vjp(exact_gelu, X)
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(pullback(jnp.ones_like(y))[0], theirs.grad, rtol=1e-6, atol=1e-6)


def test_half_precision_is_rounded_once():
    x = jnp.asarray(X, jnp.bfloat16)
    y, slope = jax.jvp(exact_gelu, (x,), (jnp.ones_like(x),))
    wide, steep = jax.jvp(exact_gelu, (x.astype(jnp.float32),), (jnp.ones(x.shape),))
    np.testing.assert_array_equal(y, wide.astype(jnp.bfloat16))
    np.testing.assert_array_equal(slope, steep.astype(jnp.bfloat16))
