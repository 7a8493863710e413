"""Resizing by PyTorch's rules: bilinear maps and the bicubic resampling of position embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_bilinear(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Bilinear, half-pixel centres, no antialias: `F.interpolate(mode="bilinear", align_corners=False)`."""
    if x.shape[1:3] == tuple(size):
        return x
    shape = (x.shape[0], *size, x.shape[3])
    return jax.image.resize(x, shape, jax.image.ResizeMethod.LINEAR, antialias=False)


def resize_corners(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Bicubic with corners on corners: `F.interpolate(mode="bicubic", align_corners=True)`, a = -0.75, in float32."""
    if x.shape[1:3] == tuple(size):
        return x
    scale = jnp.asarray([(new - 1) / (old - 1) for old, new in zip(x.shape[1:3], size, strict=True)], jnp.float32)
    shape = (x.shape[0], *size, x.shape[3])
    method = jax.image.ResizeMethod.CUBIC_PYTORCH
    resized = jax.image.scale_and_translate(
        x.astype(jnp.float32), shape, (1, 2), scale, (1 - scale) / 2, method, antialias=False
    )
    return resized.astype(x.dtype)


def bilinear_matrix(source: int, target: int) -> Float[np.ndarray, "target source"]:
    """The matrix that resizes an axis of length `source` to `target` as `resize_bilinear` does."""
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    position = np.clip(position, 0, source - 1)
    low = np.minimum(np.floor(position).astype(int), source - 1)
    high = np.minimum(low + 1, source - 1)
    fraction = position - low
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    np.add.at(matrix, (rows, low), 1 - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return matrix


def resize_positions(
    embedding: Float[Array | np.ndarray, "1 n d"],
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    prefix: int,
    antialias: bool,
    offset: float = 0.0,
) -> Float[Array | np.ndarray, "1 m d"]:
    """Position embeddings resampled bicubically from one grid to another; the `prefix` tokens are kept.

    Without antialias PyTorch's bicubic has a = -0.75 (the student's rule), with it a = -0.5 (timm's rule for teachers).
    Computed in float32, on the host when given a numpy array.

    Args:
      embedding: for the `prefix` tokens and the source grid, row by row.
      source, target: the two grids.
      prefix: tokens before the patches.
      antialias: see above.
      offset: added to the target grid in the scale alone, so that samples lie closer than they should (DINOv2: 0.1).
    """
    if source == target:
        return embedding
    kept, grid = embedding[:, :prefix], embedding[:, prefix:]
    grid = jnp.asarray(grid, jnp.float32).reshape(1, *source, -1)
    shape = (1, *target, grid.shape[-1])
    method = jax.image.ResizeMethod.CUBIC_PYTORCH
    if offset:
        scale = jnp.asarray([(new + offset) / old for old, new in zip(source, target, strict=True)], jnp.float32)
        grid = jax.image.scale_and_translate(grid, shape, (1, 2), scale, jnp.zeros(2), method, antialias=antialias)
    else:
        grid = jax.image.resize(grid, shape, method, antialias=antialias)
    return jnp.concatenate([jnp.asarray(kept, jnp.float32), grid.reshape(1, -1, grid.shape[-1])], axis=1)
