"""DUNE's optimiser: warm-up and cosine, clipping per tensor, AdamW that decays matrices alone.

"Tensor" is one layer's: where blocks are stacked `[depth, ...]`, each slice counts by itself, as in the published code.
`LayerAxes` says by a parameter's path how many leading axes are stacks.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from sak_jax.methods.distillation.schedule import warmup_cosine

__all__ = ["adamw", "clip_per_tensor", "decayed", "names", "stacked_blocks", "tensor_norms", "warmup_cosine"]

LayerAxes = Callable[[tuple[str, ...]], int]
"""From the path of a parameter to the number of its leading axes that count layers."""


def stacked_blocks(path: tuple[str, ...]) -> int:
    """The layer axes of a student of DUNE or UNIC: 1 within blocks and rungs, else 0."""
    return int("blocks" in path or "rungs" in path)


def names(path: tuple) -> tuple[str, ...]:
    """The path of a leaf as `jax.tree_util` gives it, in words; NNX's variables add nothing to it."""
    words = (getattr(key, "key", getattr(key, "name", getattr(key, "idx", None))) for key in path)
    return tuple(str(word) for word in words if word is not None and word != "value")


def tensor_norms(tree: PyTree, layer_axes: LayerAxes = stacked_blocks) -> PyTree:
    """The length of each layer's tensor, float32: an array over the layer axes for each leaf."""

    def norm(path, x: Float[Array, "..."]) -> Float[Array, "..."]:
        axes = tuple(range(layer_axes(names(path)), x.ndim))
        return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=axes))

    return jax.tree_util.tree_map_with_path(norm, tree)


def clip_per_tensor(limit: float, layer_axes: LayerAxes = stacked_blocks) -> optax.GradientTransformation:
    """Each layer's tensor g becomes `g min(1, limit / (|g| + 1e-6))`, by itself (DUNE's code)."""

    def update(updates, state, params=None):
        del params

        def clip(x, norm):
            factor = jnp.minimum(1.0, limit / (norm + 1e-6))
            return x * factor.reshape(factor.shape + (1,) * (x.ndim - factor.ndim)).astype(x.dtype)

        return jax.tree.map(clip, updates, tensor_norms(updates, layer_axes)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decayed(params: PyTree, layer_axes: LayerAxes = stacked_blocks) -> PyTree:
    """Whether each parameter decays: one layer's tensor has more than one axis and is no bias.

    Class token, registers and positions decay; norms, biases and layer scales do not.
    """

    def decays(path, x) -> bool:
        words = names(path)
        return x.ndim - layer_axes(words) > 1 and words[-1] != "bias"

    return jax.tree_util.tree_map_with_path(decays, params)


def adamw(
    schedule: optax.Schedule,
    *,
    weight_decay: float = 0.03,
    clip: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-15,
    layer_axes: LayerAxes = stacked_blocks,
) -> optax.GradientTransformation:
    """Clipping per tensor, then AdamW with DUNE's constants; the decay is multiplied by the rate.

    Args:
      schedule: the rate by step.
      weight_decay: of the parameters that `decayed` names.
      clip: limit of each tensor's gradient; 0 for none.
      betas, eps: AdamW's.
      layer_axes: see the module's docstring.
    """
    optimizer = optax.adamw(
        schedule,
        b1=betas[0],
        b2=betas[1],
        eps=eps,
        weight_decay=weight_decay,
        mask=lambda params: decayed(params, layer_axes),
    )
    return optax.chain(clip_per_tensor(clip, layer_axes), optimizer) if clip else optimizer
