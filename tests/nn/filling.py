"""Modules with random arrays, without the time that initialising them takes."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def filled(create, seed=0):
    """What `create()` gives with other arrays: gains and factors near 1, variances above it, the rest around 0."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        value = rng.standard_normal(x.shape, np.float32)
        name = jax.tree_util.keystr(path)
        if "var" in name:
            return jnp.asarray(1 + np.abs(value))
        return jnp.asarray(1 + 0.1 * value if "scale" in name else 0.2 * value)

    return jax.tree_util.tree_map_with_path(fill, nnx.eval_shape(create))
