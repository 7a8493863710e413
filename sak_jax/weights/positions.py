"""Position embeddings in foreign files: which image size they are for."""

import math

import numpy as np
from jaxtyping import Float

from sak_jax.errors import UserError


def square_grid(value: Float[np.ndarray, "1 n d"], name: str) -> tuple[int, int]:
    """The grid of a position embedding, led by a class token's, made at a square image size.

    Raises:
      UserError: it is for any other.
    """
    count = value.shape[1] - 1 if value.ndim == 3 else 0
    side = round(max(count, 0) ** 0.5)
    if count < 1 or side * side != count:
        raise UserError(f"{name} has {count} positions, which is no square grid; give a file made at a square size")
    return side, side


def other_grid(
    shape: tuple[int, ...], own: tuple[int, ...], grid: tuple[int, int], name: str
) -> tuple[int, int] | None:
    """The grid that a position table in a file is for, where it is not the model's own.

    Args:
      shape: of the table in the file: `[1, n, d]` or `[n, d]` with any number of tokens before the patches, or
        `[1, h, w, d]`.
      own: shape that the model's own would have there.
      grid: the model's own.
      name: what the table is called in errors.

    Returns:
      (rows, columns), or None where the shapes are alike or differ in more than the size of the grid.

    Raises:
      UserError: a table in one axis that is for no square grid.
    """
    differing = [axis for axis, sizes in enumerate(zip(shape, own, strict=False)) if sizes[0] != sizes[1]]
    if len(shape) != len(own) or not differing:
        return None
    if len(own) == 4:
        return tuple(shape[1:3]) if set(differing) <= {1, 2} else None
    if differing != [len(own) - 2]:
        return None
    count = shape[-2] - (own[-2] - grid[0] * grid[1])
    side = math.isqrt(max(count, 0))
    if side < 1 or side * side != count:
        raise UserError(
            f"{name} has {count} positions, which is no square grid, and the model's own has {grid[0]} x {grid[1]};"
            " give a file made at a square size"
        )
    return side, side
