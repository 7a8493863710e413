"""Layers that stems and teachers share, and the way to stack modules of one shape."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from sak_jax.nn import remat

truncated_normal = nnx.initializers.truncated_normal(0.02, lower=-5.0, upper=5.0)
"""PyTorch's `trunc_normal_(std=0.02)`, which cuts at +-2 absolute, i.e. never. JAX's default cut at two deviations
lowers the deviation by an eighth."""


def torch_uniform(fan_in: int) -> Callable:
    """PyTorch's default for weights and biases of linear maps and convolutions: U(+-1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def initialisers(kind: str, fan_in: int) -> dict[str, Callable]:
    """Where a linear map's kernel and bias start.

    Args:
      kind: `truncated_normal`, with biases of 0, or `torch`: PyTorch's default for both.
      fan_in: the map's input channels.
    """
    if kind == "torch":
        return {"kernel_init": torch_uniform(fan_in), "bias_init": torch_uniform(fan_in)}
    if kind != "truncated_normal":
        raise ValueError(f"linear maps start from truncated_normal or torch, not from {kind!r}")
    return {"kernel_init": truncated_normal}


def stack(create: Callable[[nnx.Rngs], nnx.Module], shape: Sequence[int], rngs: nnx.Rngs) -> nnx.Module:
    """A module whose every array has the leading axes `shape`: modules of one shape, side by side.

    Run it with `jax.vmap` (side by side) or `jax.lax.scan` (one after another).

    Args:
      create: makes one module from its own random streams.
      shape: the leading axes.
      rngs: its `params` stream is split over the modules.
    """
    keys = jax.random.split(rngs.params(), tuple(shape))
    make = lambda key: create(nnx.Rngs(params=key))  # noqa: E731
    for _ in shape:
        make = jax.vmap(make)
    return make(keys)


def run_in_turn(body: Callable, carry: PyTree, stack: PyTree, *, unroll: bool) -> tuple[PyTree, list[PyTree]]:
    """`jax.lax.scan(body, carry, stack)`, or the same written out.

    A scan compiles once for all, and copies what the backward pass needs into stacks and out of them again.

    Returns:
      The last carry, and what each call of `body` gave beside it.
    """
    count = jax.tree.leaves(stack)[0].shape[0]
    if not unroll:
        carry, stacked = jax.lax.scan(body, carry, stack)
        return carry, [take(stacked, index) for index in range(count)]
    found = []
    for index in range(count):
        carry, given = body(carry, take(stack, index))
        found.append(given)
    return carry, found


class Linear(nnx.Linear):
    """`nnx.Linear` on one long row of tokens: the kernel's gradient then contracts one axis, and XLA copies nothing."""

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n d"]:
        """The product of `x` with the kernel, and the bias."""
        y = super().__call__(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], y.shape[-1])


class LoRALinear(Linear):
    """`Linear` plus a low-rank update: `x W + b + (alpha / rank) (x A) B` (Hu et al., 2021; peft's scaling and start).

    B starts at zero, so a fresh module equals the plain one.
    """

    def __init__(self, features_in: int, features_out: int, *, rank: int, alpha: float, rngs: nnx.Rngs, **kwargs):
        super().__init__(features_in, features_out, rngs=rngs, **kwargs)
        # peft starts A with kaiming_uniform(a=sqrt(5)), which is U(+-1/sqrt(fan_in)).
        self.lora_a = nnx.LoRAParam(torch_uniform(features_in)(rngs.params(), (features_in, rank)))
        self.lora_b = nnx.LoRAParam(jnp.zeros((rank, features_out)))
        self.lora_scale = alpha / rank

    def __call__(self, x: Float[Array, "*n c"]) -> Float[Array, "*n d"]:
        """The product of `x` with the kernel and its low-rank update."""
        y = super().__call__(x)
        a, b = self.lora_a[...].astype(y.dtype), self.lora_b[...].astype(y.dtype)
        return y + self.lora_scale * ((x.astype(y.dtype) @ a) @ b)


class LayerScale(nnx.Module):
    """A learned factor per channel (CaiT)."""

    def __init__(self, width: int, initial: float = 1e-5):
        self.scale = nnx.Param(jnp.full((width,), initial))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """`x` times the factors, in the precision of `x`."""
        return x * self.scale[...].astype(x.dtype)


class Mlp(nnx.Module):
    """Linear, activation, Linear."""

    def __init__(self, width: int, hidden: int, *, activation: Callable, linear: Callable, rngs: nnx.Rngs):
        self.up = linear("fc1", width, hidden, rngs=rngs)
        self.down = linear("fc2", hidden, width, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "b *n d"]) -> Float[Array, "b *n d"]:
        """Applied to each token."""
        return self.down(self.activation(remat.keep(self.up(x), "preactivation")))


class SwiGLU(nnx.Module):
    """Gated MLP: `down(silu(gate(x)) * up(x))`; one kernel holds gate and up (timm's packed form)."""

    def __init__(self, width: int, hidden: int, *, linear: Callable, rngs: nnx.Rngs):
        self.gate_up = linear("fc1", width, 2 * hidden, rngs=rngs)
        self.down = linear("fc2", hidden, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Applied to each token."""
        gate, up = jnp.split(remat.keep(self.gate_up(x), "preactivation"), 2, axis=-1)
        return self.down(jax.nn.silu(gate) * up)


class PatchEmbed(nnx.Module):
    """Non-overlapping patches to tokens by one linear map (a convolution with stride = kernel = patch).

    What is left over at the right and bottom is dropped, as a PyTorch convolution does.
    """

    def __init__(
        self, patch: int, width: int, *, init: str = "truncated_normal", use_bias: bool = True, dtype, rngs: nnx.Rngs
    ):
        fan_in = patch * patch * 3
        self.projection = Linear(fan_in, width, use_bias=use_bias, dtype=dtype, **initialisers(init, fan_in), rngs=rngs)
        self.patch = patch

    def __call__(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b h w d"]:
        """One token a patch; h = H // patch, w = W // patch."""
        p = self.patch
        whole = images[:, : images.shape[1] // p * p, : images.shape[2] // p * p]
        return self.projection(rearrange(whole, "b (h y) (w x) c -> b h w (y x c)", y=p, x=p))


def take(module: PyTree, index: int | slice | tuple[int, ...] | Int[Array, ""]) -> PyTree:
    """The modules (or arrays) at `index` of a stack's first axis, or axes where it is a tuple."""
    return jax.tree.map(lambda x: x[index], module)
