"""The image encoder of Segment Anything (SAM; Kirillov et al., 2023): windows, and global attention at the taps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.nn import layers, placement, remat, resize
from sak_jax.nn.activations import exact_gelu
from sak_jax.nn.relative_attention import relative_attention
from sak_jax.teachers.entry import IMAGENET, TAPS, Family, Teacher
from sak_jax.weights import names_timm


@dataclasses.dataclass(frozen=True)
class SAMConfig:
    """Architecture of an encoder.

    Attributes:
      width, depth, heads, patch: the usual sizes.
      taps: 0-based blocks with global attention, after which features are read; evenly spaced, the last one last.
      image_size: (height, width) that absolute positions and the relative ones of global blocks are for.
      window: side of the windows of the other blocks, in patches.
      eps: of the layer norms (timm's, which the published code runs; Meta's own code has 1e-6).
      attention: an implementation, see `relative_attention.relative_attention`.
      remat: what training keeps of the blocks, see `remat.checkpoint`.
    """

    width: int
    depth: int
    heads: int
    taps: tuple[int, ...]
    image_size: tuple[int, int] = (1024, 1024)
    patch: int = 16
    window: int = 14
    eps: float = 1e-5
    attention: str = "auto"
    remat: str = "named"

    @property
    def grid(self) -> tuple[int, int]:
        """Patches in each direction."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch

    @property
    def windowed(self) -> tuple[int, ...]:
        """The blocks that attend within windows."""
        return tuple(block for block in range(self.depth) if block not in self.taps)


class RelativeAttention(nnx.Module):
    """Attention over a map with decomposed relative positions: a bias per row distance and one per column distance."""

    def __init__(self, config: SAMConfig, grid: tuple[int, int], *, dtype, rngs: nnx.Rngs):
        width, head_width = config.width, config.width // config.heads
        init = layers.truncated_normal
        self.qkv = layers.Linear(width, 3 * width, dtype=dtype, kernel_init=init, rngs=rngs)
        self.output = layers.Linear(width, width, dtype=dtype, kernel_init=init, rngs=rngs)
        self.rows = nnx.Param(init(rngs.params(), (2 * grid[0] - 1, head_width)))
        self.columns = nnx.Param(init(rngs.params(), (2 * grid[1] - 1, head_width)))
        self.heads = config.heads
        self.implementation = config.attention

    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        """Each position attends to all positions of its map."""
        batch, h, w, width = x.shape
        qkv = placement.pin(remat.keep(self.qkv(x), "qkv"))
        split = jnp.split(qkv, 3, axis=-1)
        query, key, value = (x.reshape(batch, h, w, self.heads, width // self.heads) for x in split)
        by_row = self.rows[...].astype(x.dtype)[_distances(h)]
        by_column = self.columns[...].astype(x.dtype)[_distances(w)]
        out = relative_attention(query, key, value, by_row, by_column, implementation=self.implementation)
        return self.output(placement.pin(remat.keep(out, "attention").reshape(x.shape)))


def _distances(n: int) -> np.ndarray:
    """The row of the table for each (query, key) along an axis of n: their distance, from -(n - 1) on."""
    return np.arange(n)[:, None] - np.arange(n)[None, :] + n - 1


class SAMBlock(nnx.Module):
    """Pre-norm block on maps; attends within windows where `window` is set, whose padding is attended to as well."""

    def __init__(self, config: SAMConfig, window: int | None, *, dtype, rngs: nnx.Rngs):
        grid = config.grid if window is None else (window, window)
        self.norm1 = nnx.LayerNorm(config.width, epsilon=config.eps, dtype=dtype, rngs=rngs)
        self.attention = RelativeAttention(config, grid, dtype=dtype, rngs=rngs)
        self.norm2 = nnx.LayerNorm(config.width, epsilon=config.eps, dtype=dtype, rngs=rngs)

        def linear(name, features_in, features_out, rngs):
            init = layers.truncated_normal
            return layers.Linear(features_in, features_out, dtype=dtype, kernel_init=init, rngs=rngs)

        self.mlp = layers.Mlp(config.width, 4 * config.width, activation=exact_gelu, linear=linear, rngs=rngs)
        self.window = window

    def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        """Attention and MLP, each with a residual."""
        x = placement.pin(x)
        y = self.norm1(x)
        if self.window is None:
            y = self.attention(y)
        else:
            y, grid = to_windows(y, self.window)
            y = from_windows(self.attention(y), grid, x.shape)
        x = remat.keep(x + y, "attended")
        return placement.pin(x + self.mlp(self.norm2(x)))


def to_windows(x: Float[Array, "b h w d"], side: int) -> tuple[Float[Array, "m side side d"], tuple[int, int]]:
    """Zero-padded right and below and cut into windows; returns also how many there are each way."""
    batch, h, w, width = x.shape
    rows, columns = -(-h // side), -(-w // side)
    x = jnp.pad(x, ((0, 0), (0, rows * side - h), (0, columns * side - w), (0, 0)))
    x = x.reshape(batch, rows, side, columns, side, width).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, side, side, width), (rows, columns)


def from_windows(x: Float[Array, "m side side d"], grid: tuple[int, int], shape) -> Float[Array, "b h w d"]:
    """The inverse of `to_windows`, to a map of `shape`."""
    (rows, columns), side = grid, x.shape[1]
    x = x.reshape(shape[0], rows, columns, side, side, shape[3]).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(shape[0], rows * side, columns * side, shape[3])[:, : shape[1], : shape[2]]


class SAM(nnx.Module):
    """SAM's image encoder without its neck; four levels of windowed blocks, each ended by a global one.

    Stacked parameters: `windows` `[depth - 4]`, `globals` `[4]`.
    """

    def __init__(self, config: SAMConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.patch_embed = layers.PatchEmbed(config.patch, config.width, dtype=dtype, rngs=rngs)
        shape = (1, *config.grid, config.width)
        self.position_embedding = nnx.Param(layers.truncated_normal(rngs.params(), shape))
        window = lambda rngs: SAMBlock(config, config.window, dtype=dtype, rngs=rngs)  # noqa: E731
        whole = lambda rngs: SAMBlock(config, None, dtype=dtype, rngs=rngs)  # noqa: E731
        self.windows = layers.stack(window, [len(config.windowed)], rngs)
        self.globals = layers.stack(whole, [len(config.taps)], rngs)
        self.config = config
        self.dtype = dtype

    def __call__(self, images: Float[Array, "b H W 3"]) -> tuple[Float[Array, "b h w d"], ...]:
        """The maps after each global block. Images must have the configured size (a rest below a patch aside)."""
        x = self.patch_embed(images.astype(self.dtype)) + self.position_embedding[...].astype(self.dtype)
        levels = len(self.config.taps)
        windows = jax.tree.map(lambda p: p.reshape(levels, -1, *p.shape[1:]), self.windows)

        run = remat.checkpoint(lambda block, x: placement.whole(block)(x), self.config.remat)

        def level(x, blocks):
            windows, last = blocks
            x, _ = jax.lax.scan(lambda x, block: (run(block, x), None), x, windows)
            x = run(last, x)
            return x, x

        _, maps = jax.lax.scan(level, x, (windows, self.globals))
        return tuple(maps)


def fit(state: nnx.State, config: SAMConfig, new: SAMConfig) -> nnx.State:
    """Absolute positions resized bicubically without antialias, relative ones of global blocks linearly."""
    if config.grid == new.grid:
        return state
    flat = dict(nnx.to_flat_state(state))
    positions = jnp.asarray(flat["position_embedding",].get_value())
    shape = (1, *new.grid, config.width)
    positions = jax.image.resize(positions, shape, jax.image.ResizeMethod.CUBIC_PYTORCH, antialias=False)
    resized = {("position_embedding",): np.asarray(positions)}
    for axis, name in enumerate(("rows", "columns")):
        path = ("globals", "attention", name)
        matrix = resize.bilinear_matrix(2 * config.grid[axis] - 1, 2 * new.grid[axis] - 1)
        resized[path] = np.einsum("yx,txe->tye", matrix, np.asarray(flat[path].get_value()))
    return nnx.from_flat_state(flat | {path: flat[path].replace(value) for path, value in resized.items()})


FAMILY = Family(lambda config, dtype, rngs: SAM(config, dtype=dtype, rngs=rngs), fit)

SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}

TEACHERS = [
    Teacher(
        name=f"sam_{size}",
        family=FAMILY,
        config=SAMConfig(width=width, depth=depth, heads=heads, taps=TAPS[depth]),
        source=f"timm/samvit_{size}_patch16.sa1b",
        licence="Apache-2.0",
        normalisation=IMAGENET,
        formats=(names_timm.SAM, names_timm.SAM_ORIGINAL, names_timm.SAM_TRANSFORMERS),
        pad_to=1024,
    )
    for size, (width, depth, heads) in SIZES.items()
]
