import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional

from sak_jax.methods.sak import routers
from tests.nn.filling import filled


def make(noisy_gating, experts=4, dtype=jnp.float32):
    return filled(
        lambda: routers.MixtureOfRepresentations(16, experts, noisy_gating=noisy_gating, dtype=dtype, rngs=nnx.Rngs(0))
    )


run = jax.jit(lambda router, stem, noise: router(stem, noise))


def logits(router, stem):
    """The router's raw outputs, restated in PyTorch."""
    get = lambda leaf: torch.tensor(np.asarray(leaf[...]))  # noqa: E731
    x = torch.tensor(stem) @ get(router.hidden.kernel) + get(router.hidden.bias)
    x = functional.gelu(functional.layer_norm(x, (8,), get(router.norm.scale), get(router.norm.bias), 1e-5))
    return (x @ get(router.output.kernel) + get(router.output.bias)).mean(dim=1)


@pytest.fixture(scope="module")
def stem():
    return np.random.default_rng(1).standard_normal((2, 6, 16), np.float32)


def test_evaluation_gives_one_vector_an_image(stem):
    router = make(noisy_gating=True)
    weights = run(router, stem, None)
    assert weights.shape == (2, 1, 4)
    expected = torch.softmax(logits(router, stem)[:, :4], dim=-1)
    np.testing.assert_allclose(weights[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_training_disturbs_every_position_by_the_learned_deviation(stem):
    router = make(noisy_gating=True)
    noise = np.random.default_rng(2).standard_normal((2, 6, 4), np.float32)
    weights = run(router, stem, noise)
    clean, raw = logits(router, stem)[:, None].chunk(2, dim=-1)
    expected = torch.softmax(clean + torch.tensor(noise) * (functional.softplus(raw) + 0.01), dim=-1)
    assert weights.shape == (2, 6, 4)
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.sum(weights, axis=-1), 1, rtol=1e-5)


def test_without_noisy_gating_there_is_no_deviation(stem):
    router = make(noisy_gating=False)
    assert router.output.kernel.shape == (8, 4)
    weights = run(router, stem, None)
    np.testing.assert_allclose(weights[:, 0], torch.softmax(logits(router, stem), dim=-1), rtol=1e-5, atol=1e-6)


def test_weights_are_float32_and_the_mixture_keeps_the_experts_precision():
    router = make(noisy_gating=True, experts=2, dtype=jnp.bfloat16)
    stem = np.ones((1, 3, 16), jnp.bfloat16)
    weights = run(router, stem, None)
    assert weights.dtype == jnp.float32
    assert routers.mix(weights, [jnp.asarray(stem)] * 2).dtype == jnp.bfloat16


def test_mixing_weighs_the_experts_at_every_position():
    rng = np.random.default_rng(0)
    experts = rng.standard_normal((3, 2, 5, 4), np.float32)
    for positions in (1, 5):
        weights = rng.standard_normal((2, positions, 3), np.float32)
        spread = np.broadcast_to(weights, (2, 5, 3))
        mixed = routers.mix(jnp.asarray(weights), list(jnp.asarray(experts)))
        np.testing.assert_allclose(mixed, np.einsum("bne,ebnd->bnd", spread, experts), rtol=1e-5, atol=1e-5)
