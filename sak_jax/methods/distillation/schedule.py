"""The schedule of DUNE and UNIC: of the learning rate, and of the momentum of running statistics."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def warmup_cosine(peak: float, final: float, steps: int, warmup: int = 0) -> optax.Schedule:
    """`warmup` values from 0 to `peak`, both included, then half a cosine from `peak` towards `final`.

    So step 0 has rate 0, and `peak` comes twice (DUNE's and UNIC's code). Without warm-up it is the schedule of the
    momentum of running statistics (1 to 0.001).

    Args:
      peak, final: the highest and the last value.
      steps: of the run; beyond them the value is `final`.
      warmup: steps of the warm-up.
    """
    rest = max(steps - warmup, 1)

    def value(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step = jnp.asarray(step)
        rising = peak * step.astype(jnp.float32) / max(warmup - 1, 1)
        # (1 + cos x) / 2 as the square of a sine of what is left, which loses nothing near the end.
        falling = final + (peak - final) * jnp.square(jnp.sin(jnp.pi / 2 * jnp.clip((steps - step) / rest, 0, 1)))
        return jnp.where(step < warmup, rising, falling)

    return value
