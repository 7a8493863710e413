"""From the student's tokens to each teacher's standardised features: transformer, ladder of MLPs, or one MLP."""

from collections.abc import Mapping
from functools import partial

import jax
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.nn import layers
from sak_jax.nn.activations import exact_gelu
from sak_jax.nn.vit import Block, ViTConfig

KINDS = ("transformer", "ladder", "mlp")
CLASS, PATCHES = "cls", "patch"
"""The kinds of tokens, by their names in the published checkpoints."""


def split(tokens: Float[Array, "*l b n d"]) -> dict[str, Array]:
    """Class token `[*l, b, d]` and patches `[*l, b, n - 1, d]`."""
    return {CLASS: tokens[..., 0, :], PATCHES: tokens[..., 1:, :]}


class TransformerProjector(nnx.Module):
    """One block over class token and patches together, then a linear map (DUNE, section 4.3).

    The block is the encoder's kind and is a stack of one. All linear maps start from PyTorch's default.
    """

    every_block = False

    def __init__(self, config: ViTConfig, width: int, *, dtype, rngs: nnx.Rngs):
        self.blocks = layers.stack(lambda rngs: Block(config, dtype=dtype, rngs=rngs), [1], rngs)
        init = layers.initialisers("torch", config.width)
        self.output = layers.Linear(config.width, width, dtype=dtype, **init, rngs=rngs)

    def __call__(self, tokens: Float[Array, "b n d"]) -> dict[str, Array]:
        """Class token `[b, c]` and patches `[b, n - 1, c]`, whether the teacher's are followed or not.

        Args:
          tokens: class token, then patches, after the last block.
        """
        return split(self.output(layers.take(self.blocks, 0)(tokens)))


class Rung(nnx.Module):
    """Linear, GELU, Linear on the tokens after one block."""

    def __init__(self, width: int, hidden: int, target: int, *, dtype, rngs: nnx.Rngs):
        linear = partial(layers.Linear, dtype=dtype, kernel_init=layers.truncated_normal, rngs=rngs)
        self.up = linear(width, hidden)
        self.down = linear(hidden, target)

    def __call__(self, x: Float[Array, "*n d"]) -> Float[Array, "*n c"]:
        """Applied to each token."""
        return self.down(exact_gelu(self.up(x)))


class Ladder(nnx.Module):
    """An MLP on every block's tokens, summed (UNIC, section 3.1): one ladder for one kind of token.

    `rungs` is a stack `[depth - 1]`; the last block has a wider MLP of its own. Without rungs it is the plain MLP.
    """

    def __init__(self, depth: int, width: int, hidden: int, last_hidden: int, target: int, *, dtype, rngs: nnx.Rngs):
        create = lambda rngs: Rung(width, hidden, target, dtype=dtype, rngs=rngs)  # noqa: E731
        self.rungs = layers.stack(create, [depth - 1], rngs) if depth > 1 else None
        self.last = Rung(width, last_hidden, target, dtype=dtype, rngs=rngs)

    def __call__(self, tokens: Float[Array, "depth b *n d"]) -> Float[Array, "b *n c"]:
        """The sum over the blocks' outputs."""
        total = self.last(tokens[-1])
        if self.rungs is None:
            return total
        return jax.lax.scan(lambda sum, part: (sum + part[0](part[1]), None), total, (self.rungs, tokens[:-1]))[0]


class LadderProjector(nnx.Module):
    """A ladder for each kind of token that is followed, or with `every_block` off an MLP on the last block's tokens."""

    def __init__(
        self,
        config: ViTConfig,
        width: int,
        kinds: tuple[str, ...],
        *,
        every_block: bool,
        hidden: int,
        last_hidden: int,
        dtype,
        rngs: nnx.Rngs,
    ):
        depth = config.depth if every_block else 1
        sizes = depth, config.width, hidden, last_hidden, width
        self.ladders = nnx.Dict({kind: Ladder(*sizes, dtype=dtype, rngs=rngs) for kind in kinds})
        self.every_block = every_block

    def __call__(self, tokens: Float[Array, "*depth b n d"]) -> dict[str, Array]:
        """The followed ones of class token `[b, c]` and patches `[b, n - 1, c]`.

        Args:
          tokens: class token, then patches, after every block, or after the last one alone.
        """
        parts = split(tokens if self.every_block else tokens[None])
        return {kind: ladder(parts[kind]) for kind, ladder in self.ladders.items()}


def create(
    kind: str, config: ViTConfig, width: int, kinds: tuple[str, ...], options: Mapping[str, int], *, dtype, rngs
) -> nnx.Module:
    """A teacher's projector.

    Args:
      kind: one of `KINDS`.
      config: of the encoder.
      width: the teacher's.
      kinds: of the tokens that are followed.
      options: `hidden` and `last_hidden` channels of a ladder's MLPs.
      dtype: of the computation.
      rngs: a `params` stream.
    """
    if kind == "transformer":
        return TransformerProjector(config, width, dtype=dtype, rngs=rngs)
    return LadderProjector(config, width, kinds, every_block=kind == "ladder", **options, dtype=dtype, rngs=rngs)
