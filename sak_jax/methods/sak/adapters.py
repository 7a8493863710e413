"""Teacher-specific adapter paths (TSAP) and the features they give."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.nn import layers, placement, remat
from sak_jax.nn.activations import exact_gelu


class Adapter(nnx.Module):
    """Bottleneck with a residual: `x + scale * up(gelu(down(x)))` (SAK, section 3.1)."""

    def __init__(self, width: int, down_ratio: int, *, dtype, rngs: nnx.Rngs):
        init = layers.truncated_normal
        self.down = layers.Linear(width, width // down_ratio, dtype=dtype, kernel_init=init, rngs=rngs)
        self.up = layers.Linear(width // down_ratio, width, dtype=dtype, kernel_init=init, rngs=rngs)
        self.scale = nnx.Param(jnp.ones((1,)))

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Applied to each token."""
        inner = exact_gelu(remat.keep(self.down(x), "preactivation"))
        # The scale goes before the map up: its gradient is then a sum over the few inner channels.
        scale, bias = self.scale[...].astype(x.dtype), self.up.bias[...].astype(x.dtype)
        return x + self.up(scale * inner) + (scale - 1) * bias


def adapt(adapters: Adapter, tokens: Sequence[Float[Array, "b n d"]]) -> tuple[Float[Array, "b n d"], ...]:
    """One adapter a teacher (a stack `[teachers]`), each on its own tokens, one after another: teachers are few."""
    return tuple(placement.pin(layers.take(adapters, index)(x)) for index, x in enumerate(tokens))


class AdapterPaths(nnx.Module):
    """Every teacher's path of depth + 1 adapters: they read the stem and never write to it.

    `r_0 = A_0(x_0)` and `r_{i+1} = A_{i+1}(r_i + x_{i+1})`, where `x_0` are the embedded tokens and `x_i` the output of
    block i. `entry` is a stack `[teachers]`, `blocks` a stack `[depth, teachers]`.
    """

    def __init__(self, teachers: int, depth: int, width: int, down_ratio: int, *, dtype, rngs: nnx.Rngs):
        create = lambda rngs: Adapter(width, down_ratio, dtype=dtype, rngs=rngs)  # noqa: E731
        self.entry = layers.stack(create, [teachers], rngs)
        self.blocks = layers.stack(create, [depth, teachers], rngs)
