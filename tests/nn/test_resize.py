import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from sak_jax.nn.resize import bilinear_matrix, resize_bicubic, resize_bilinear, resize_positions


def interpolate(x, size, **kwargs):
    """PyTorch's on channels-last arrays."""
    y = functional.interpolate(torch.tensor(x).permute(0, 3, 1, 2), size, align_corners=False, **kwargs)
    return y.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("channels", [1, 3, 9])
@pytest.mark.parametrize("mode, ours", [("bilinear", resize_bilinear), ("bicubic", resize_bicubic)])
@pytest.mark.parametrize("size", [(20, 28), (13, 9), (4, 5), (5, 7), (5, 9), (11, 7), (1, 1)])
def test_maps_as_pytorch_with_their_gradients(size, mode, ours, channels):
    x = np.random.default_rng(0).standard_normal((2, 5, 7, channels), np.float32)
    theirs = torch.tensor(x, requires_grad=True)
    expected = functional.interpolate(theirs.permute(0, 3, 1, 2), size, mode=mode, align_corners=False)
    expected.sin().sum().backward()
    y, pullback = jax.vjp(lambda x: ours(x, size), x)
    np.testing.assert_allclose(y, expected.detach().permute(0, 2, 3, 1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pullback(jnp.cos(y))[0], theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode, ours", [("bilinear", resize_bilinear), ("bicubic", resize_bicubic)])
def test_places_far_from_the_first_are_pytorchs_to_the_last_bit(mode, ours):
    x = np.random.default_rng(0).standard_normal((1, 448, 3, 2), np.float32)
    expected = interpolate(x, (796, 4), mode=mode)
    np.testing.assert_allclose(ours(jnp.asarray(x), (796, 4)), expected, atol=5e-6)


def test_maps_keep_their_precision():
    x = jnp.ones((1, 2, 3, 4), jnp.bfloat16)
    assert resize_bilinear(x, (4, 6)).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [(20, 28), (13, 9), (1, 1)])
def test_matrices_of_both_axes_resize_a_map(size):
    x = np.random.default_rng(0).standard_normal((2, 5, 7, 3), np.float32)
    expected = interpolate(x, size, mode="bilinear")
    rows, columns = bilinear_matrix(5, size[0]), bilinear_matrix(7, size[1])
    np.testing.assert_allclose(np.einsum("Hh,Ww,bhwc->bHWc", rows, columns, x), expected, atol=1e-5)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("target", [(9, 13), (4, 3), (6, 2)])
def test_positions_as_pytorch(target, antialias):
    embedding = np.random.default_rng(0).standard_normal((1, 2 + 6 * 5, 4), np.float32)
    ours = resize_positions(embedding, (6, 5), target, prefix=2, antialias=antialias)
    np.testing.assert_array_equal(ours[:, :2], embedding[:, :2])
    grid = interpolate(embedding[:, 2:].reshape(1, 6, 5, 4), target, mode="bicubic", antialias=antialias)
    np.testing.assert_allclose(ours[:, 2:], grid.reshape(1, -1, 4), atol=1e-5)


def test_positions_of_the_same_grid_are_untouched():
    embedding = np.ones((1, 7, 4), np.float32)
    assert resize_positions(embedding, (3, 2), (3, 2), prefix=1, antialias=False) is embedding
