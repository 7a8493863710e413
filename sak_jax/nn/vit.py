"""The plain vision transformer: the student's stem and, with its options, the family most teachers belong to."""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.nn import layers, placement, remat, resize
from sak_jax.nn.activations import ACTIVATIONS
from sak_jax.nn.attention import attention

Rotary = tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "n e"]]
"""Cosines and sines by token, see `rotary_tables`."""


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Low-rank updates of a transformer's linear maps.

    Attributes:
      rank: rank of each update.
      alpha: the update is scaled by alpha / rank.
      targets: which maps, by timm's names: `qkv`, `proj`, `fc1`, `fc2`.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = ("qkv", "proj")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Architecture of a vision transformer.

    Attributes:
      width, depth, heads, patch: the usual sizes.
      taps: 0-based blocks after which features are read; the last one is the last block that runs.
      image_size: (height, width) the position embedding is for.
      mlp_hidden: hidden channels of the MLP; None is 4 x width.
      mlp: `mlp` or `swiglu`.
      activation: a key of `activations.ACTIVATIONS`.
      eps: of the layer norms.
      class_token: whether a class token leads; position embeddings then cover it.
      registers: register tokens between class token and patches (without position embedding).
      norm_before: a norm before the first block (CLIP).
      norm: whether the model has its final norm, which `ViT.tokens` applies on request; maps never go through it.
      layer_scale: factors per channel on both branches (DINOv2).
      layer_scale_init: what these factors start from.
      patch_bias, qkv_bias: whether these maps have biases.
      position_offset: added to the new grid where positions are resampled for another size (DINOv2: 0.1).
      rotary: base of the rotary position embedding that takes the place of the learned one (DINOv3), or None.
      rotary_counts: it turns by the patch's row and column as counted (CroCo), not by places in [-1, 1].
      linear_init, patch_init: how the blocks' linear maps and the patches' start, see `layers.initialisers`.
      lora: low-rank updates, or None.
      attention: an implementation, see `attention.attention`.
      remat: what training keeps of the blocks, see `remat.checkpoint`.
    """

    width: int
    depth: int
    heads: int
    patch: int
    taps: tuple[int, ...]
    image_size: tuple[int, int]
    mlp_hidden: int | None = None
    mlp: str = "mlp"
    activation: str = "gelu"
    eps: float = 1e-6
    class_token: bool = True
    registers: int = 0
    norm_before: bool = False
    norm: bool = False
    layer_scale: bool = False
    layer_scale_init: float = 1e-5
    patch_bias: bool = True
    qkv_bias: bool = True
    position_offset: float = 0.0
    rotary: float | None = None
    rotary_counts: bool = False
    linear_init: str = "truncated_normal"
    patch_init: str = "truncated_normal"
    lora: LoRA | None = None
    attention: str = "auto"
    remat: str = "named"

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in each direction."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch

    @property
    def prefix(self) -> int:
        """Tokens before the patches."""
        return int(self.class_token) + self.registers


class Attention(nnx.Module):
    """Multi-head self-attention with one map for queries, keys and values."""

    def __init__(self, config: ViTConfig, *, linear: Callable, rngs: nnx.Rngs):
        self.qkv = linear("qkv", config.width, 3 * config.width, use_bias=config.qkv_bias, rngs=rngs)
        self.output = linear("proj", config.width, config.width, rngs=rngs)
        self.heads = config.heads
        self.implementation = config.attention

    def __call__(self, x: Float[Array, "b n d"], rotary: Rotary | None = None) -> Float[Array, "b n d"]:
        """Each token attends to all; queries and keys are turned by `rotary` (cosines, sines) if given."""
        batch, tokens, width = x.shape
        qkv = placement.pin(remat.keep(self.qkv(x), "qkv"))
        split = jnp.split(qkv, 3, axis=-1)
        query, key, value = (x.reshape(batch, tokens, self.heads, width // self.heads) for x in split)
        if rotary is not None:
            query, key = _rotate(query, *rotary), _rotate(key, *rotary)
        out = attention(query, key, value, implementation=self.implementation)
        return self.output(placement.pin(out.reshape(batch, tokens, width)))


class Block(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: ViTConfig, *, dtype, rngs: nnx.Rngs):
        linear = partial(_linear, config, dtype)
        norm = partial(nnx.LayerNorm, config.width, epsilon=config.eps, dtype=dtype, rngs=rngs)
        hidden = config.mlp_hidden or 4 * config.width
        self.norm1 = norm()
        self.attention = Attention(config, linear=linear, rngs=rngs)
        self.norm2 = norm()
        if config.mlp == "swiglu":
            self.mlp = layers.SwiGLU(config.width, hidden, linear=linear, rngs=rngs)
        else:
            activation = ACTIVATIONS[config.activation]
            self.mlp = layers.Mlp(config.width, hidden, activation=activation, linear=linear, rngs=rngs)
        scale = partial(layers.LayerScale, config.width, config.layer_scale_init)
        self.scale1 = scale() if config.layer_scale else None
        self.scale2 = scale() if config.layer_scale else None

    def __call__(self, x: Float[Array, "b n d"], rotary: Rotary | None = None) -> Float[Array, "b n d"]:
        """Attention and MLP, each with a residual."""
        x = placement.pin(x)
        y = self.attention(self.norm1(x), rotary)
        x = remat.keep(x + (y if self.scale1 is None else self.scale1(y)), "attended")
        y = self.mlp(self.norm2(x))
        return placement.pin(x + (y if self.scale2 is None else self.scale2(y)))


def _linear(config: ViTConfig, dtype, name: str, features_in: int, features_out: int, *, rngs: nnx.Rngs, **kwargs):
    """A linear map, with a low-rank update where `config.lora` targets it by name."""
    lora = config.lora
    kwargs = dict(dtype=dtype, **layers.initialisers(config.linear_init, features_in), **kwargs)
    if lora and name in lora.targets:
        return layers.LoRALinear(features_in, features_out, rank=lora.rank, alpha=lora.alpha, rngs=rngs, **kwargs)
    return layers.Linear(features_in, features_out, rngs=rngs, **kwargs)


def rotary_tables(base: float, grid: tuple[int, int], head_width: int, prefix: int, *, counts: bool = False) -> Rotary:
    """Cosines and sines that turn queries and keys by their patch's place.

    The `prefix` tokens are not turned. A quarter of the head's width each for rows and columns, twice over.

    Args:
      base: of the frequencies, which fall from 1 to 1 / base.
      grid: patches in each direction.
      head_width: channels of a head.
      prefix: tokens before the patches.
      counts: rows and columns as counted, in radians (RoPE of CroCo); else places in [-1, 1], in turns (DINOv3).
    """
    places = [
        np.arange(n, dtype=np.float32) if counts else (np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1 for n in grid
    ]
    places = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    frequencies = 1 / base ** np.arange(0, 1, 4 / head_width, dtype=np.float32)
    turn = 1 if counts else 2 * np.pi
    angles = np.tile((turn * places * frequencies).reshape(len(places), -1), 2)
    angles = np.pad(angles, ((prefix, 0), (0, 0)))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(x: Float[Array, "b n h e"], cosines: Float[np.ndarray, "n e"], sines: Float[np.ndarray, "n e"]):
    """Each pair of channels (i, i + e/2) turned by its angle, computed in float32."""
    wide = x.astype(jnp.float32)
    low, high = jnp.split(wide, 2, axis=-1)
    turned = jnp.concatenate([-high, low], axis=-1)
    return (wide * cosines[:, None] + turned * sines[:, None]).astype(x.dtype)


class ViT(nnx.Module):
    """Vision transformer without its head (Dosovitskiy et al., 2021; timm's naming of options).

    The blocks are one stack `[depth, ...]`, run by a scan. Calling it gives the maps at the taps, `tokens` all tokens.
    """

    def __init__(self, config: ViTConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        h, w = config.grid
        self.patch_embed = layers.PatchEmbed(
            config.patch, config.width, init=config.patch_init, use_bias=config.patch_bias, dtype=dtype, rngs=rngs
        )
        shape = (1, int(config.class_token) + h * w, config.width)
        learned = config.rotary is None
        self.position_embedding = nnx.Param(layers.truncated_normal(rngs.params(), shape)) if learned else None
        token = lambda count: nnx.Param(1e-6 * jax.random.normal(rngs.params(), (1, count, config.width)))  # noqa: E731
        self.class_token = token(1) if config.class_token else None
        self.registers = token(config.registers) if config.registers else None
        norm = partial(nnx.LayerNorm, config.width, epsilon=config.eps, dtype=dtype, rngs=rngs)
        self.norm_before = norm() if config.norm_before else None
        self.blocks = layers.stack(lambda rngs: Block(config, dtype=dtype, rngs=rngs), [config.depth], rngs)
        self.norm = norm() if config.norm else None
        self.config = config
        self.dtype = dtype

    def embed(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b n d"]:
        """Tokens that enter the first block: class token, registers, patches.

        Images of another size than the configured one get the position embedding resampled (bicubic, no antialias,
        with `config.position_offset`).
        """
        x = self.patch_embed(images.astype(self.dtype))
        batch, grid = x.shape[0], x.shape[1:3]
        x = rearrange(x, "b h w d -> b (h w) d")
        lead = int(self.config.class_token)
        tokens = [] if self.class_token is None else [self.class_token[...].astype(self.dtype)]
        if self.position_embedding is not None:
            positions = resize.resize_positions(
                self.position_embedding[...],
                self.config.grid,
                grid,
                prefix=lead,
                antialias=False,
                offset=self.config.position_offset,
            ).astype(self.dtype)
            x = x + positions[:, lead:]
            tokens = [token + positions[:, :1] for token in tokens]
        if self.registers is not None:
            tokens.append(self.registers[...].astype(self.dtype))
        x = jnp.concatenate([jnp.broadcast_to(t, (batch, *t.shape[1:])) for t in tokens] + [x], axis=1)
        return x if self.norm_before is None else self.norm_before(x)

    def tokens(self, images: Float[Array, "b H W 3"], *, norm: bool = False) -> tuple[Float[Array, "b n d"], ...]:
        """All tokens after each tapped block: class token, registers (together `config.prefix`), patches row by row.

        Args:
          images: of any size; what is left below a whole patch is dropped.
          norm: whether each goes through the final norm.

        Raises:
          ValueError: the final norm is asked of a model that has none (`config.norm`).
        """
        if norm and self.norm is None:
            raise ValueError("this vision transformer has no final norm: make it with ViTConfig(norm=True)")
        grid = self._grid(images)
        x = self.embed(images)
        rotary = None
        if self.config.rotary is not None:
            head_width = self.config.width // self.config.heads
            counts = self.config.rotary_counts
            rotary = rotary_tables(self.config.rotary, grid, head_width, self.config.prefix, counts=counts)
        tapped = run_blocks(self.blocks, x, self.config.taps, rotary, self.config.remat)
        return tuple(self.norm(x) if norm else x for x in tapped)

    def __call__(self, images: Float[Array, "b H W 3"]) -> tuple[Float[Array, "b h w d"], ...]:
        """The patch tokens after each tapped block, as maps, before any final norm."""
        h, w = self._grid(images)
        patches = (x[:, self.config.prefix :] for x in self.tokens(images))
        return tuple(rearrange(x, "b (h w) d -> b h w d", h=h, w=w) for x in patches)

    def _grid(self, images: Float[Array, "b H W 3"]) -> tuple[int, int]:
        """Whole patches in each direction."""
        return images.shape[1] // self.config.patch, images.shape[2] // self.config.patch


def run_blocks(
    blocks: Block, x: Float[Array, "b n d"], taps: tuple[int, ...], rotary: Rotary | None = None, policy: str = "named"
) -> list[Float[Array, "b n d"]]:
    """The tokens after each tapped block of a stack `[depth]`.

    Where the taps end levels of equally many blocks, and those are all, the levels are a scan of scans. Else each block
    is picked from the whole stack: cutting the stack at the taps would copy its arrays.
    """
    block = remat.checkpoint(lambda block, x: placement.whole(block)(x, rotary), policy)
    depth, step = jax.tree.leaves(blocks)[0].shape[0], taps[0] + 1
    if taps == tuple(range(step - 1, depth, step)) and depth % step == 0:
        levels = jax.tree.map(lambda p: p.reshape(len(taps), step, *p.shape[1:]), blocks)

        def level(x, blocks):
            x, _ = jax.lax.scan(lambda x, parameters: (block(parameters, x), None), x, blocks)
            return x, x

        return list(jax.lax.scan(level, x, levels)[1])
    found = []
    for start, stop in zip((0, *(tap + 1 for tap in taps)), (tap + 1 for tap in taps), strict=False):
        picked = lambda x, index: (block(layers.take(blocks, index), x), None)  # noqa: E731
        x, _ = jax.lax.scan(picked, x, jnp.arange(start, stop))
        found.append(x)
    return found
