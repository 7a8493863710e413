import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional

from sak_jax.nn import layers, resize, vit
from tests.nn.filling import filled

PLAIN = vit.ViTConfig(width=24, depth=4, heads=3, patch=4, taps=(0, 1, 3), image_size=(12, 20))
CONFIGS = {
    "plain": PLAIN,
    "registers, layer scale, swiglu": dataclasses.replace(
        PLAIN, registers=2, layer_scale=True, mlp="swiglu", mlp_hidden=40
    ),
    "norm before, quick gelu": dataclasses.replace(
        PLAIN, norm_before=True, activation="quick_gelu", patch_bias=False, eps=1e-5
    ),
    "no class token, tanh": dataclasses.replace(PLAIN, class_token=False, activation="gelu_tanh", mlp_hidden=50),
    "final norm": dataclasses.replace(PLAIN, registers=2, norm=True, eps=1e-5),
}
ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


def make(config):
    return filled(lambda: vit.ViT(config, rngs=nnx.Rngs(0)))


run = jax.jit(lambda model, images: model(images))


def restated(model, config, images, *, whole=False):
    """The transformer in PyTorch, on the same arrays: patch maps after every block, or `whole` tokens, normed."""
    get = lambda leaf: torch.tensor(np.asarray(leaf[...]))  # noqa: E731

    def linear(layer, x):
        y = x @ get(layer.kernel)
        return y if layer.bias is None else y + get(layer.bias)

    norm = lambda layer, x: functional.layer_norm(x, x.shape[-1:], get(layer.scale), get(layer.bias), config.eps)  # noqa: E731
    p, (h, w), batch = config.patch, config.grid, len(images)
    x = torch.tensor(images).reshape(batch, h, p, w, p, 3).permute(0, 1, 3, 2, 4, 5).reshape(batch, h * w, -1)
    x = linear(model.patch_embed.projection, x)
    if config.class_token:
        x = torch.cat([get(model.class_token).expand(batch, -1, -1), x], dim=1)
    x = x + get(model.position_embedding)
    if config.registers:
        x = torch.cat([x[:, :1], get(model.registers).expand(batch, -1, -1), x[:, 1:]], dim=1)
    if config.norm_before:
        x = norm(model.norm_before, x)
    maps = []
    for i in range(config.depth):
        block = layers.take(model.blocks, i)
        q, k, v = linear(block.attention.qkv, norm(block.norm1, x)).chunk(3, dim=-1)
        split = lambda t: t.unflatten(-1, (config.heads, -1)).transpose(1, 2)  # noqa: E731
        y = functional.scaled_dot_product_attention(split(q), split(k), split(v)).transpose(1, 2).flatten(2)
        y = linear(block.attention.output, y)
        x = x + (get(block.scale1.scale) * y if config.layer_scale else y)
        y = norm(block.norm2, x)
        if config.mlp == "swiglu":
            gate, up = linear(block.mlp.gate_up, y).chunk(2, dim=-1)
            y = functional.silu(gate) * up
        else:
            y = ACTIVATIONS[config.activation](linear(block.mlp.up, y))
        y = linear(block.mlp.down, y)
        x = x + (get(block.scale2.scale) * y if config.layer_scale else y)
        maps.append(norm(model.norm, x) if whole else x[:, config.prefix :].reshape(batch, h, w, -1))
    return maps


@pytest.mark.parametrize("name", CONFIGS)
def test_maps_at_the_taps_equal_a_plain_restatement(name):
    config = CONFIGS[name]
    model = make(config)
    images = np.random.default_rng(1).standard_normal((2, *config.image_size, 3), np.float32)
    maps = run(model, images)
    expected = restated(model, config, images)
    assert [m.shape for m in maps] == [(2, 3, 5, 24)] * 3
    for tap, ours in zip(config.taps, maps, strict=True):
        np.testing.assert_allclose(ours, expected[tap], atol=1e-5 * float(expected[tap].std()) + 1e-5)


def test_tokens_through_the_final_norm_equal_a_plain_restatement():
    config = CONFIGS["final norm"]
    model = make(config)
    images = np.random.default_rng(1).standard_normal((2, *config.image_size, 3), np.float32)
    tokens = jax.jit(lambda model, images: model.tokens(images, norm=True))(model, images)
    assert [x.shape for x in tokens] == [(2, 3 + 15, 24)] * 3
    expected = restated(model, config, images, whole=True)
    for tap, ours in zip(config.taps, tokens, strict=True):
        np.testing.assert_allclose(ours, expected[tap], atol=2e-5)


def test_tokens_are_the_maps_in_reading_order_behind_the_prefix():
    model = make(CONFIGS["registers, layer scale, swiglu"])
    images = np.random.default_rng(1).standard_normal((1, 13, 23, 3), np.float32)  # a remainder below a patch
    tokens = jax.jit(lambda model, images: model.tokens(images))(model, images)
    for x, m in zip(tokens, run(model, images), strict=True):
        assert x.shape == (1, 3 + 15, 24)
        np.testing.assert_allclose(x[:, 3:], m.reshape(1, 15, 24), atol=1e-6)


def test_the_final_norm_is_a_parameter_only_where_it_is_asked_for():
    paths = {path for path, _ in nnx.to_flat_state(nnx.state(make(CONFIGS["final norm"])))}
    without = dataclasses.replace(CONFIGS["final norm"], norm=False)
    assert paths - {path for path, _ in nnx.to_flat_state(nnx.state(make(without)))} == {
        ("norm", "scale"),
        ("norm", "bias"),
    }
    with pytest.raises(ValueError, match="no final norm"):
        make(without).tokens(jnp.zeros((1, 12, 20, 3)), norm=True)


def test_the_final_norm_changes_no_other_initial_parameter():
    fresh = lambda config: dict(nnx.to_flat_state(nnx.state(vit.ViT(config, rngs=nnx.Rngs(0)))))  # noqa: E731
    config = CONFIGS["final norm"]
    with_norm = fresh(config)
    for path, leaf in fresh(dataclasses.replace(config, norm=False)).items():
        np.testing.assert_array_equal(leaf[...], with_norm[path][...])


def test_images_of_another_size_get_resampled_positions():
    model = make(PLAIN)
    other = dataclasses.replace(PLAIN, image_size=(16, 12))
    images = np.random.default_rng(1).standard_normal((1, 16, 12, 3), np.float32)
    resampled = resize.resize_positions(
        model.position_embedding[...], PLAIN.grid, other.grid, prefix=1, antialias=False
    )
    arrays = {tuple(path): leaf for path, leaf in nnx.to_flat_state(nnx.state(model))}
    arrays["position_embedding",] = nnx.Param(resampled)
    native = make(other)
    nnx.update(native, nnx.from_flat_state(arrays))
    for ours, expected in zip(run(model, images), run(native, images), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_blocks_do_not_run_beyond_the_last_tap():
    config = dataclasses.replace(PLAIN, taps=(0, 1))
    model = make(config)
    images = np.ones((1, 12, 20, 3), np.float32)
    expected = run(model, images)
    model.blocks = jax.tree.map(lambda p: p.at[2:].set(jnp.nan), model.blocks)
    for one, other in zip(run(model, images), expected, strict=True):
        np.testing.assert_array_equal(one, other)
