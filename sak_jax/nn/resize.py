"""Resizing by PyTorch's rules: bilinear maps and the bicubic resampling of position embeddings."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_bilinear(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Bilinear, half-pixel centres, no antialias: `F.interpolate(mode="bilinear", align_corners=False)`."""
    return _resize(x, size, bilinear_matrix)


def resize_bicubic(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Bicubic, a = -0.75, half-pixel centres, no antialias: `F.interpolate(mode="bicubic", align_corners=False)`."""
    return _resize(x, size, bicubic_matrix)


def _resize(x, size, matrix: Callable[[int, int], np.ndarray]):
    """Columns, then rows, by two products in the precision of `x` (`jax.image.resize` asks for the highest)."""
    batch, h, w, channels = x.shape
    if w != size[1]:
        columns = matrix(w, size[1])
        if channels < w:  # Channels are moved aside, so that the product's inner axis is not that short.
            x = jnp.moveaxis(x, 3, 2).reshape(-1, w) @ jnp.asarray(columns.T, x.dtype)
            x = jnp.moveaxis(x.reshape(batch, h, channels, size[1]), 2, 3)
        else:
            x = multiply_rows(columns, x.reshape(-1, w, channels))
    if h != size[0]:
        x = multiply_rows(matrix(h, size[0]), x.reshape(batch, h, size[1] * channels))
    return x.reshape(batch, *size, channels)


def multiply_rows(matrix: Float[np.ndarray, "m n"], x: Float[Array, "b n d"]) -> Float[Array, "b m d"]:
    """`matrix @ x[i]` for each i. The constant is repeated over the batch: so neither operand need be transposed."""
    return jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (x.shape[0], *matrix.shape)) @ x


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
    position = np.clip(_positions(source, target), 0, source - 1)
    low = np.floor(position).astype(int)
    return _gathering(source, low, [1 - (position - low), position - low])


def bicubic_matrix(source: int, target: int) -> Float[np.ndarray, "target source"]:
    """The matrix that resizes an axis of length `source` to `target` as `resize_bicubic` does."""
    a = -0.75
    position = _positions(source, target)
    low = np.floor(position).astype(int)
    near = lambda t: ((a + 2) * t - (a + 3)) * t**2 + 1  # noqa: E731
    far = lambda t: ((a * t - 5 * a) * t + 8 * a) * t - 4 * a  # noqa: E731
    t = position - low
    return _gathering(source, low - 1, [far(t + 1), near(t), near(1 - t), far(2 - t)])


def _positions(source: int, target: int) -> Float[np.ndarray, "target"]:
    """Where the targets' centres lie among the sources': as PyTorch, by a float32 scale, rounded to float32 once."""
    return ((np.arange(target) + 0.5) * np.float64(np.float32(source / target)) - 0.5).astype(np.float32)


def _gathering(source: int, first: np.ndarray, weights: list[np.ndarray]) -> Float[np.ndarray, "target source"]:
    """The matrix that sums places first, first + 1, .. with `weights`; places beyond the border are the border's."""
    matrix = np.zeros((len(first), source), np.float32)
    for offset, weight in enumerate(weights):
        np.add.at(matrix, (np.arange(len(first)), np.clip(first + offset, 0, source - 1)), weight)
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
