"""What reading weights of another image size needs: position embeddings resampled, and arrays put where others lay."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sak_jax.errors import UserError
from sak_jax.nn.resize import resize_positions


def resample_positions(
    value: Float[np.ndarray, "1 n d"], grid: tuple[int, int], name: str
) -> Float[np.ndarray, "1 m d"]:
    """A square grid's position embedding on another grid, by the student's rule.

    Bicubic without antialias (a = -0.75), the class token's position kept (method: the hand-over to stage 2).

    Raises:
      UserError: it has not one position for the class token and a square number besides.
    """
    own = square_grid(value, name)
    return value if own == grid else np.asarray(resize_positions(value, own, grid, prefix=1, antialias=False))


def square_grid(value: Float[np.ndarray, "1 n d"], name: str) -> tuple[int, int]:
    """The grid of a position embedding made at a square image size; raises UserError for any other."""
    count = value.shape[1] - 1 if value.ndim == 3 else 0
    side = round(max(count, 0) ** 0.5)
    if count < 1 or side * side != count:
        raise UserError(f"{name} has {count} positions, which is no square grid; give a file made at a square size")
    return side, side


def place_like(array: np.ndarray, old: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """The array where the old one lies."""
    return jax.device_put(array, old.sharding) if isinstance(old, jax.Array) else jnp.asarray(array)
