"""Swin transformers (Liu et al., 2021): shifted windows in four stages of growing width."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.errors import UserError
from sak_jax.nn import layers
from sak_jax.nn.activations import exact_gelu
from sak_jax.teachers.entry import IMAGENET, Family, Teacher
from sak_jax.teachers.sam import from_windows, to_windows
from sak_jax.weights import names_timm

EPS = 1e-5


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Architecture of a Swin transformer.

    Attributes:
      stem_width: channels of the first stage; each stage doubles them and halves the map.
      depths, heads: blocks and heads of the stages.
      image_size: (height, width); the smallest map must be at least a window.
      window: side of the windows.
      patch: of the first stage.
      norm: whether the model has its final norm.
    """

    stem_width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    image_size: tuple[int, int] = (224, 224)
    window: int = 7
    patch: int = 4
    norm: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the stages' maps."""
        return tuple(self.stem_width * 2**stage for stage in range(len(self.depths)))

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.widths[-1]

    def grids(self) -> Iterator[tuple[int, int]]:
        """(height, width) of the stages' maps; odd ones are rounded up when they are halved."""
        h, w = (side // self.patch for side in self.image_size)
        for _ in self.depths:
            yield h, w
            h, w = -(-h // 2), -(-w // 2)


class WindowAttention(nnx.Module):
    """Attention within windows, with a learned bias per head and pair of places."""

    def __init__(self, width: int, heads: int, window: int, *, dtype, rngs: nnx.Rngs):
        init = layers.truncated_normal
        self.qkv = layers.Linear(width, 3 * width, dtype=dtype, kernel_init=init, rngs=rngs)
        self.output = layers.Linear(width, width, dtype=dtype, kernel_init=init, rngs=rngs)
        self.bias = nnx.Param(init(rngs.params(), ((2 * window - 1) ** 2, heads)))
        self.heads = heads
        self.window = window

    def __call__(self, x: Float[Array, "b m n d"], mask: Float[np.ndarray, "m n n"] | None) -> Float[Array, "b m n d"]:
        """The tokens of m windows; `mask` is added to the logits."""
        batch, windows, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, windows, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv[:, :, :, 0], qkv[:, :, :, 1], qkv[:, :, :, 2]
        logits = jnp.einsum("bmqne,bmkne->bmnqk", query, key, preferred_element_type=jnp.float32)
        bias = self.bias[...][_pairs(self.window)].astype(jnp.float32)
        logits = logits * (width // self.heads) ** -0.5 + jnp.moveaxis(bias, -1, 0)
        if mask is not None:
            logits = logits + mask[:, None]
        weights = jax.nn.softmax(logits, axis=-1).astype(x.dtype)
        return self.output(jnp.einsum("bmnqk,bmkne->bmqne", weights, value).reshape(x.shape))


def _pairs(window: int) -> np.ndarray:
    """The row of the bias table for each pair of places in a window."""
    places = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), -1).reshape(-1, 2)
    rows, columns = np.moveaxis(places[:, None] - places[None, :] + window - 1, -1, 0)
    return rows * (2 * window - 1) + columns


def _mask(grid: tuple[int, int], window: int, shifts: tuple[int, int]) -> Float[np.ndarray, "m n n"] | None:
    """-100 between places of a shifted map that a window has together although the image has them apart."""
    if not any(shifts):
        return None
    strips = []
    for side, shift in zip(grid, shifts, strict=True):
        places = np.arange(-(-side // window) * window)
        end = len(places)
        strips.append((places >= end - window).astype(int) + (places >= end - shift) if shift else 0 * places)
    regions = 3 * strips[0][:, None] + strips[1][None, :]
    regions = regions.reshape(len(strips[0]) // window, window, -1, window).swapaxes(1, 2).reshape(-1, window**2)
    return np.where(regions[:, :, None] == regions[:, None, :], np.float32(0), np.float32(-100))


class SwinBlock(nnx.Module):
    """Pre-norm block on maps; every other one shifts its windows by half."""

    def __init__(self, width: int, heads: int, config: SwinConfig, *, dtype, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, epsilon=EPS, dtype=dtype, rngs=rngs)
        self.attention = WindowAttention(width, heads, config.window, dtype=dtype, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=EPS, dtype=dtype, rngs=rngs)

        def linear(name, features_in, features_out, rngs):
            init = layers.truncated_normal
            return layers.Linear(features_in, features_out, dtype=dtype, kernel_init=init, rngs=rngs)

        self.mlp = layers.Mlp(width, 4 * width, activation=exact_gelu, linear=linear, rngs=rngs)
        self.window = config.window

    def __call__(self, x: Float[Array, "b h w d"], *, shifted: bool) -> Float[Array, "b h w d"]:
        """Attention and MLP, each with a residual. An axis no longer than a window is not shifted."""
        grid = x.shape[1:3]
        shifts = tuple(self.window // 2 if shifted and side > self.window else 0 for side in grid)
        y = jnp.roll(self.norm1(x), (-shifts[0], -shifts[1]), (1, 2))
        y, windows = to_windows(y, self.window)
        y = y.reshape(x.shape[0], windows[0] * windows[1], self.window**2, x.shape[3])
        y = self.attention(y, _mask(grid, self.window, shifts)).reshape(-1, self.window, self.window, x.shape[3])
        x = x + jnp.roll(from_windows(y, windows, x.shape), shifts, (1, 2))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nnx.Module):
    """Halves a map: four neighbours side by side, a norm, and a linear map to twice the width."""

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(4 * width, epsilon=EPS, dtype=dtype, rngs=rngs)
        init = layers.truncated_normal
        self.reduction = layers.Linear(4 * width, 2 * width, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b y x e"]:
        """Odd sides are zero-padded."""
        batch, h, w, width = x.shape
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        x = x.reshape(batch, (h + 1) // 2, 2, (w + 1) // 2, 2, width).transpose(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(*x.shape[:3], 4 * width)))


class SwinStage(nnx.Module):
    """Merging of patches (but in the first stage) and a stack of blocks `[depth]`."""

    def __init__(self, stage: int, config: SwinConfig, *, dtype, rngs: nnx.Rngs):
        width, heads = config.widths[stage], config.heads[stage]
        create = lambda rngs: SwinBlock(width, heads, config, dtype=dtype, rngs=rngs)  # noqa: E731
        self.merge = PatchMerging(width // 2, dtype=dtype, rngs=rngs) if stage else None
        self.blocks = layers.stack(create, [config.depths[stage]], rngs)

    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b y x e"]:
        """Blocks in pairs, the second of each with shifted windows."""

        def pair(x, blocks):
            x = layers.take(blocks, 0)(x, shifted=False)
            return layers.take(blocks, 1)(x, shifted=True), None

        x = x if self.merge is None else self.merge(x)
        return jax.lax.scan(pair, x, jax.tree.map(lambda p: p.reshape(-1, 2, *p.shape[1:]), self.blocks))[0]


class Swin(nnx.Module):
    """Swin transformer without its head; calling it gives the maps of its four stages.

    Raises:
      UserError: on creation, if the image is so small that the last map is smaller than a window.
    """

    def __init__(self, config: SwinConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        if min(min(grid) for grid in config.grids()) < config.window:
            smallest = config.window * config.patch * 2 ** (len(config.depths) - 1)
            raise UserError(f"Swin needs images of some {smallest} pixels a side; image_size is {config.image_size}")
        self.patch_embed = layers.PatchEmbed(config.patch, config.stem_width, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(config.stem_width, epsilon=EPS, dtype=dtype, rngs=rngs)
        self.stages = nnx.List(
            [SwinStage(stage, config, dtype=dtype, rngs=rngs) for stage in range(len(config.depths))]
        )
        norm = lambda: nnx.LayerNorm(config.width, epsilon=EPS, dtype=dtype, rngs=rngs)  # noqa: E731
        self.final_norm = norm() if config.norm else None
        self.dtype = dtype

    def __call__(self, images: Float[Array, "b H W 3"], *, norm: bool = False) -> tuple[Float[Array, "b _ _ _"], ...]:
        """The maps after each stage, of 1/4, 1/8, 1/16 and 1/32 of the image's size.

        Args:
          images: of any size that leaves the last map a window.
          norm: whether the last map goes through the final norm, which is as wide as that map alone.

        Raises:
          ValueError: the final norm is asked of a model that has none (`config.norm`).
        """
        if norm and self.final_norm is None:
            raise ValueError("this Swin transformer has no final norm: make it with SwinConfig(norm=True)")
        x = self.norm(self.patch_embed(images.astype(self.dtype)))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return (*maps[:-1], self.final_norm(x)) if norm else tuple(maps)


FAMILY = Family(
    lambda config, dtype, rngs: Swin(config, dtype=dtype, rngs=rngs), lambda state, config, new: state, "final_norm"
)
"""Nothing in a Swin transformer depends on the image size."""

SIZES = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), "ms_in1k"),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), "ms_in1k"),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), "ms_in22k_ft_in1k"),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), "ms_in22k_ft_in1k"),
}

TEACHERS = [
    Teacher(
        name=f"swin_{size}",
        family=FAMILY,
        config=SwinConfig(width, depths, heads, norm=True),
        source=f"timm/swin_{size}_patch4_window7_224.{weights}",
        licence="MIT",
        normalisation=IMAGENET,
        formats=(names_timm.SWIN, names_timm.SWIN_ORIGINAL),
    )
    for size, (width, depths, heads, weights) in SIZES.items()
]
