"""Stem initialisation from the augreg checkpoints: `.npz` files in the naming of Google's original JAX code."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from etils import epath
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.methods.sak.pytorch import place_like, resample_positions, square_grid
from sak_jax.nn.vit import ViT, ViTConfig
from sak_jax.weights import files, rules
from sak_jax.weights.rules import Rule, Transform, join

POSITIONS = "Transformer/posembed_input/pos_embedding"
DROPPED = (r"(pre_logits|head)/(kernel|bias)",)
"""The classifier."""

NORM = (Rule("Transformer/encoder_norm/scale", "norm.scale"), Rule("Transformer/encoder_norm/bias", "norm.bias"))
"""The final norm, which the stem has not."""


def load_augreg(stem: ViT, weights: Mapping[str, np.ndarray], *, name: str = "the stem's weights") -> None:
    """Fill a stem in place from an augreg checkpoint (Steiner et al., 2022).

    The position embedding is resampled to the stem's grid by the student's rule (bicubic, no antialias). Low-rank
    updates of the stem are left as they are.

    Args:
      stem: a plain vision transformer, abstract or not.
      weights: the arrays of the `.npz` file by name.
      name: what the weights are called in errors.

    Raises:
      UserError: a key is missing or left over, or a shape differs.
    """
    positions = resample_positions(_position_embedding(weights, name), stem.config.grid, f"{name}: {POSITIONS}")
    kept = [(path, leaf) for path, leaf in nnx.to_flat_state(nnx.state(stem)) if not str(path[-1]).startswith("lora_")]
    state = nnx.from_flat_state(kept)
    table = augreg_rules(stem.config)
    drop = (*DROPPED, *(rule.source for rule in NORM))
    loaded = rules.load(state, {**weights, POSITIONS: positions}, table, drop=drop, name=name)
    nnx.update(stem, jax.tree.map(place_like, loaded, state))


def read_stem(path: epath.PathLike, config: ViTConfig) -> tuple[dict[tuple, np.ndarray], tuple[int, int]]:
    """The stem in an augreg `.npz` file, with the positions it was trained with.

    Args:
      path: the file.
      config: of the stem to fill; its image size and low-rank updates do not matter.

    Returns:
      Arrays by their path in `ViT`, and the grid of the position embedding.

    Raises:
      UserError: the file can't be read, or is not this stem's.
    """
    weights = files.read_weights(path)
    grid = square_grid(_position_embedding(weights, str(path)), f"{path}: {POSITIONS}")
    config = dataclasses.replace(config, lora=None, image_size=(grid[0] * config.patch, grid[1] * config.patch))
    stem = nnx.eval_shape(lambda: ViT(config, rngs=nnx.Rngs(0)))
    load_augreg(stem, weights, name=str(path))
    return {path: np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(nnx.state(stem))}, grid


def _position_embedding(weights: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if POSITIONS not in weights:
        raise UserError(f"{name}: key {POSITIONS} is missing; give an augreg .npz file of a plain vision transformer")
    return np.asarray(weights[POSITIONS])


def augreg_rules(config: ViTConfig) -> list[Rule]:
    """A vision transformer's names in the original JAX code; attention kernels there have an axis for the heads."""
    heads, patch = config.heads, config.patch
    split_out = Transform(lambda x: x.reshape(x.shape[0], -1), lambda x: (x.reshape(x.shape[0], heads, -1),))
    split_bias = Transform(lambda x: x.reshape(-1), lambda x: (x.reshape(heads, -1),))
    split_in = Transform(lambda x: x.reshape(-1, x.shape[-1]), lambda x: (x.reshape(heads, -1, x.shape[-1]),))
    patches = Transform(lambda x: x.reshape(-1, x.shape[-1]), lambda x: (x.reshape(patch, patch, 3, x.shape[-1]),))
    block = "Transformer/encoderblock_{block}"
    attention, mlp = f"{block}/MultiHeadDotProductAttention_1", f"{block}/MlpBlock_3"
    parts = ("query", "key", "value")
    return [
        Rule("cls", "class_token"),
        Rule(POSITIONS, "position_embedding"),
        Rule("embedding/kernel", "patch_embed.projection.kernel", patches),
        Rule("embedding/bias", "patch_embed.projection.bias"),
        Rule(f"{block}/LayerNorm_0/scale", "blocks.norm1.scale"),
        Rule(f"{block}/LayerNorm_0/bias", "blocks.norm1.bias"),
        Rule(f"{block}/LayerNorm_2/scale", "blocks.norm2.scale"),
        Rule(f"{block}/LayerNorm_2/bias", "blocks.norm2.bias"),
        Rule(tuple(f"{attention}/{p}/kernel" for p in parts), "blocks.attention.qkv.kernel", join(split_out, 3)),
        Rule(tuple(f"{attention}/{p}/bias" for p in parts), "blocks.attention.qkv.bias", join(split_bias, 3)),
        Rule(f"{attention}/out/kernel", "blocks.attention.output.kernel", split_in),
        Rule(f"{attention}/out/bias", "blocks.attention.output.bias"),
        Rule(f"{mlp}/Dense_0/kernel", "blocks.mlp.up.kernel"),
        Rule(f"{mlp}/Dense_0/bias", "blocks.mlp.up.bias"),
        Rule(f"{mlp}/Dense_1/kernel", "blocks.mlp.down.kernel"),
        Rule(f"{mlp}/Dense_1/bias", "blocks.mlp.down.bias"),
    ]
