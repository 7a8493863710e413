import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional

from sak_jax.errors import UserError
from sak_jax.nn import vit
from sak_jax.weights.names_augreg import augreg_rules, load_augreg
from sak_jax.weights.rules import export
from tests.methods.sak.cases import student_config

WIDTH, HEADS, DEPTH, PATCH = 384, 6, 12, 16
CONFIG = student_config("small", (384, 384)).stem


@pytest.fixture(scope="module")
def weights():
    """Random arrays in the names and shapes of the file of ViT-S/16 at 384 pixels."""
    per_head = WIDTH // HEADS
    shapes = {"cls": (1, 1, WIDTH), "embedding/kernel": (PATCH, PATCH, 3, WIDTH), "embedding/bias": (WIDTH,)}
    shapes |= {"Transformer/posembed_input/pos_embedding": (1, 577, WIDTH)}
    shapes |= {"Transformer/encoder_norm/scale": (WIDTH,), "Transformer/encoder_norm/bias": (WIDTH,)}
    shapes |= {"head/kernel": (WIDTH, 1000), "head/bias": (1000,)}
    for block in (f"Transformer/encoderblock_{i}" for i in range(DEPTH)):
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}/{part}/kernel": (WIDTH, HEADS, per_head)}
            shapes |= {f"{attention}/{part}/bias": (HEADS, per_head)}
        shapes |= {f"{attention}/out/kernel": (HEADS, per_head, WIDTH), f"{attention}/out/bias": (WIDTH,)}
        for norm in ("LayerNorm_0", "LayerNorm_2"):
            shapes |= {f"{block}/{norm}/scale": (WIDTH,), f"{block}/{norm}/bias": (WIDTH,)}
        mlp = f"{block}/MlpBlock_3/Dense"
        shapes |= {f"{mlp}_0/kernel": (WIDTH, 4 * WIDTH), f"{mlp}_0/bias": (4 * WIDTH,)}
        shapes |= {f"{mlp}_1/kernel": (4 * WIDTH, WIDTH), f"{mlp}_1/bias": (WIDTH,)}
    rng = np.random.default_rng(0)
    return {key: 0.05 * rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}


def restated(weights, images, grid):
    """The published transformer from its own names, by plain products: tokens after every block."""
    w = {key: torch.tensor(value) for key, value in weights.items()}
    norm = lambda x, name: functional.layer_norm(x, (WIDTH,), w[f"{name}/scale"], w[f"{name}/bias"], 1e-6)  # noqa: E731
    x = functional.conv2d(
        torch.tensor(images).permute(0, 3, 1, 2), w["embedding/kernel"].permute(3, 2, 0, 1), stride=PATCH
    )
    x = x.flatten(2).transpose(1, 2) + w["embedding/bias"]
    x = torch.cat([w["cls"].expand(len(x), -1, -1), x], dim=1)
    positions = w["Transformer/posembed_input/pos_embedding"]
    maps = positions[:, 1:].reshape(1, 24, 24, WIDTH).permute(0, 3, 1, 2)
    maps = functional.interpolate(maps, grid, mode="bicubic", align_corners=False)
    x = x + torch.cat([positions[:, :1], maps.flatten(2).transpose(1, 2)], dim=1)
    outputs = []
    for block in (f"Transformer/encoderblock_{i}" for i in range(DEPTH)):
        attention = f"{block}/MultiHeadDotProductAttention_1"
        y = norm(x, f"{block}/LayerNorm_0")
        q, k, v = (
            torch.einsum("bnc,chd->bhnd", y, w[f"{attention}/{part}/kernel"]) + w[f"{attention}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        scores = torch.softmax(q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5, dim=-1)
        x = x + torch.einsum("bhnd,hdc->bnc", scores @ v, w[f"{attention}/out/kernel"]) + w[f"{attention}/out/bias"]
        y, mlp = norm(x, f"{block}/LayerNorm_2"), f"{block}/MlpBlock_3/Dense"
        y = functional.gelu(y @ w[f"{mlp}_0/kernel"] + w[f"{mlp}_0/bias"])
        x = x + y @ w[f"{mlp}_1/kernel"] + w[f"{mlp}_1/bias"]
        outputs.append(x[:, 1:].reshape(len(x), *grid, WIDTH).numpy())
    return outputs


def abstract_stem(config):
    return nnx.eval_shape(lambda: vit.ViT(config, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("size", [(384, 384), (80, 112)])
def test_features_equal_those_of_the_original_network(weights, size):
    # 384 pixels is the file's own grid; at the other size the position embedding is resampled once, at loading.
    config = dataclasses.replace(CONFIG, image_size=size)
    stem = abstract_stem(config)
    load_augreg(stem, weights)
    assert stem.position_embedding.shape == (1, 1 + config.grid[0] * config.grid[1], WIDTH)
    images = np.random.default_rng(1).standard_normal((1, *size, 3), np.float32)
    maps = jax.jit(lambda stem, images: stem(images))(stem, images)
    expected = restated(weights, images, config.grid)
    for tap, ours in zip(config.taps, maps, strict=True):
        assert np.abs(ours - expected[tap]).max() / expected[tap].std() < 1e-4, tap


def test_there_and_back_is_the_identity(weights):
    stem = abstract_stem(CONFIG)
    load_augreg(stem, weights)
    back = export(nnx.state(stem), augreg_rules(CONFIG))
    assert set(weights) - set(back) == {key for key in weights if key.startswith(("head/", "Transformer/encoder_norm"))}
    for key, value in back.items():
        np.testing.assert_array_equal(value, weights[key])


def test_low_rank_updates_stay(weights):
    config = dataclasses.replace(CONFIG, lora=vit.LoRA(2, 4.0))
    stem = jax.tree.map(lambda x: jnp.full(x.shape, 7.0), abstract_stem(config))
    load_augreg(stem, weights)
    qkv = stem.blocks.attention.qkv
    assert np.all(qkv.lora_a[...] == 7) and not np.any(qkv.kernel[...] == 7)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"embedding/bias": np.zeros(768, np.float32)}, "embedding/bias"),
        ({"Transformer/encoderblock_12/LayerNorm_0/bias": np.zeros(WIDTH, np.float32)}, "encoderblock_12"),
        ({"Transformer/posembed_input/pos_embedding": np.zeros((1, 500, WIDTH), np.float32)}, "499 positions"),
        ({"cls": None}, "cls"),
        ({"Transformer/posembed_input/pos_embedding": None}, "pos_embedding is missing"),
    ],
)
def test_other_files_are_refused(weights, change, word):
    changed = {key: value for key, value in (weights | change).items() if value is not None}
    with pytest.raises(UserError, match=word):
        load_augreg(abstract_stem(CONFIG), changed, name="S_16.npz")
