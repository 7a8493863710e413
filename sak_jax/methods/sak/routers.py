"""Mixture-of-Representations routers (MoR): how much each task takes from the stem and from each teacher."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.nn import layers, remat
from sak_jax.nn.activations import exact_gelu


class MixtureOfRepresentations(nnx.Module):
    """Weighs the experts for one task at one tap (MoR; SAK, section 3.2).

    The experts are the stem's tokens, then each teacher's student feature. One weight vector an image; with noisy
    gating training draws the noise per spatial position.
    """

    def __init__(self, width: int, experts: int, *, noisy_gating: bool, dtype, rngs: nnx.Rngs):
        outputs = 2 * experts if noisy_gating else experts
        init = layers.truncated_normal
        self.hidden = layers.Linear(width, width // 2, dtype=dtype, kernel_init=init, rngs=rngs)
        self.norm = nnx.LayerNorm(width // 2, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.output = layers.Linear(width // 2, outputs, dtype=dtype, kernel_init=init, rngs=rngs)
        self.noisy_gating = noisy_gating

    def __call__(
        self, stem: Float[Array, "b n d"], noise: Float[Array, "b n e"] | None
    ) -> Float[Array, "b n e"] | Float[Array, "b 1 e"]:
        """Weights over the experts, float32, summing to 1.

        Args:
          stem: the stem's patch tokens at the tap.
          noise: standard normal noise for training with noisy gating; None in evaluation.
        """
        hidden = exact_gelu(self.norm(remat.keep(self.hidden(stem), "preactivation")))
        # The mean over tokens commutes with the last map, which so sees one vector an image, in float32.
        hidden = jnp.mean(hidden.astype(jnp.float32), axis=1, keepdims=True)
        kernel, bias = (p[...].astype(jnp.float32) for p in (self.output.kernel, self.output.bias))
        logits = jnp.matmul(hidden, kernel, precision=jax.lax.Precision.HIGHEST) + bias
        if self.noisy_gating:
            logits, deviation = jnp.split(logits, 2, axis=-1)
            if noise is not None:
                logits = logits + noise * (jax.nn.softplus(deviation) + 0.01)
        return jax.nn.softmax(logits, axis=-1)


def mix(weights: Float[Array, "b #n e"], experts: Sequence[Float[Array, "b n d"]]) -> Float[Array, "b n d"]:
    """The weighted sum of the experts at every position.

    Written out over the experts, in float32: the sum of a broadcast product over an axis is a hundred times slower on a
    CPU.
    """
    terms = [weights[..., index, None] * expert.astype(jnp.float32) for index, expert in enumerate(experts)]
    return sum(terms[1:], start=terms[0]).astype(experts[0].dtype)
