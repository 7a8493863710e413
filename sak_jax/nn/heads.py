"""The decode heads, with the fusing convolution in factorised form."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.nn import layers, placement, remat, resize
from sak_jax.nn.activations import exact_gelu


class FusedUpsampleConv(nnx.Module):
    """Bilinear upsampling followed by a 3x3 convolution with zero padding, computed the cheap way round.

    Upsampling acts on positions and the convolution's taps mix channels, so the two commute: each of the nine taps is
    applied on the small map, and its result is upsampled and shifted by two small matrices, whose rows are zero where
    the tap leaves the image. Equal to upsample-then-convolve up to rounding, with several times fewer multiplications.
    """

    def __init__(self, width: int, *, dtype, rngs: nnx.Rngs):
        init = layers.torch_uniform(9 * width)
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, width, width)))
        self.bias = nnx.Param(init(rngs.params(), (width,)))
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "b h w c"], size: tuple[int, int], factor: Float[Array, "c"] | float = 1.0
    ) -> Float[Array, "b H W c"]:
        """The convolved map at `size` = (H, W) times `factor`, without the bias, which the norm that follows adds."""
        batch, h, w, width = x.shape
        # Every product takes its operands as they lie: the three column taps side by side, then the rows of all three
        # row taps, then the columns of all three column taps.
        kernel = rearrange((self.kernel[...] * factor).astype(self.dtype), "y x c d -> y c (x d)")
        flat = x.astype(self.dtype).reshape(-1, width)
        taps = [(flat @ kernel[y]).reshape(batch, h, w * 3 * width) for y in range(3)]
        rows = rearrange(_shifted_upsampling(h, size[0]), "y H h -> H (y h)")
        columns = rearrange(_shifted_upsampling(w, size[1]), "x W w -> W (w x)")
        x = resize.multiply_rows(rows, jnp.concatenate(taps, axis=1))
        x = resize.multiply_rows(columns, x.reshape(-1, w * 3, width))
        return x.reshape(batch, *size, width)


def _shifted_upsampling(source: int, target: int) -> Float[np.ndarray, "3 target source"]:
    """For each tap -1, 0, 1 the matrix that upsamples an axis and shifts it by the tap, zero beyond the border."""
    padded = np.pad(resize.bilinear_matrix(source, target), ((1, 1), (0, 0)))
    return np.stack([padded[tap : tap + target] for tap in range(3)])


class BatchNorm(nnx.Module):
    """Batch normalisation over batch and positions, as PyTorch keeps it: momentum 0.1, unbiased running variance.

    Under a sharded jit the batch is the global one, which is what PyTorch calls synchronised.
    """

    def __init__(self, width: int, *, eps: float = 1e-5):
        self.scale = nnx.Param(jnp.ones((width,)))
        self.bias = nnx.Param(jnp.zeros((width,)))
        self.mean = nnx.BatchStat(jnp.zeros((width,)))
        self.var = nnx.BatchStat(jnp.ones((width,)))
        self.eps = eps

    def __call__(
        self, x: Float[Array, "b h w c"], *, offset: Float[Array, "c"] | float = 0.0
    ) -> tuple[Float[Array, "b h w c"], tuple[Float[Array, "c"], Float[Array, "c"]]]:
        """In training: the normalised map of `x + offset`, and the running (mean, variance) after it, float32.

        The offset (the bias of the map before) costs no pass over the map: it moves the mean alone.
        """
        y = x.astype(jnp.float32)
        count = y.size // y.shape[-1]
        mean = remat.keep(jnp.mean(y, axis=(0, 1, 2)), "moments")
        # The variance's slope in the mean is zero, so that nothing flows back that way.
        deviation = y - jax.lax.stop_gradient(mean)
        var = remat.keep(jnp.mean(jnp.square(deviation), axis=(0, 1, 2)), "moments")
        unbiased = var * (count / max(count - 1, 1))
        running = 0.9 * self.mean[...] + 0.1 * (mean + offset), 0.9 * self.var[...] + 0.1 * unbiased
        factor = self.scale[...] * jax.lax.rsqrt(var + self.eps)
        y = (y - mean) * factor + self.bias[...]
        return y.astype(x.dtype), jax.lax.stop_gradient(running)

    def folded(self, offset: Float[Array, "c"] | float = 0.0) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
        """In evaluation: (factor, shift), by which `x * factor + shift` is the normalised `x + offset`."""
        factor = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.eps)
        return factor, (offset - self.mean[...]) * factor + self.bias[...]


class DecodeTrunk(nnx.Module):
    """What the heads of all tasks have alike: reduce the four levels, upsample to a quarter of the image, fuse."""

    def __init__(self, width: int, levels: int, *, dtype, rngs: nnx.Rngs):
        def reduce(rngs):
            init = layers.torch_uniform(width)
            return layers.Linear(width, width // levels, dtype=dtype, kernel_init=init, bias_init=init, rngs=rngs)

        self.reduce = layers.stack(reduce, [levels], rngs)
        self.fuse = FusedUpsampleConv(width // levels * levels, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(width // levels * levels)

    def __call__(self, features: Sequence[Float[Array, "b h w d"]], size: tuple[int, int], train: bool):
        """The fused map at `size` (height, width) and, in training, the batch norm's running statistics."""
        levels = [layers.take(self.reduce, level)(x) for level, x in enumerate(features)]
        x = remat.keep(jnp.concatenate(levels, axis=-1), "preactivation")
        if not train:
            factor, shift = self.norm.folded(self.fuse.bias[...])
            x = placement.pin(self.fuse(x, size, factor))
            return exact_gelu((x.astype(jnp.float32) + shift).astype(x.dtype)), None
        x = placement.pin(remat.keep(self.fuse(x, size), "preactivation"))
        x, statistics = self.norm(x, offset=self.fuse.bias[...])
        return exact_gelu(x), statistics


class DecodeHeads(nnx.Module):
    """One decode head a task (SAK's code: linear, upsample, 3x3 convolution, BatchNorm, GELU, 1x1 convolution)."""

    def __init__(
        self,
        width: int,
        levels: int,
        channels: dict[str, int],
        *,
        dtype,
        policy: str = "named",
        shared: bool = False,
        rngs: nnx.Rngs,
    ):
        """`shared`: one linear trunk for all tasks, which then have a norm and an output of their own alone."""
        create = lambda rngs: DecodeTrunk(width, levels, dtype=dtype, rngs=rngs)  # noqa: E731
        self.trunk = layers.stack(create, [1 if shared else len(channels)], rngs)
        fused = width // levels * levels
        if shared:
            self.trunk.norm = layers.stack(lambda rngs: BatchNorm(fused), [len(channels)], rngs)
        init = layers.torch_uniform(fused)
        self.tasks = tuple(channels)
        self.output = nnx.Dict(
            {
                task: layers.Linear(fused, outputs, dtype=dtype, kernel_init=init, bias_init=init, rngs=rngs)
                for task, outputs in channels.items()
            }
        )
        self.policy = policy
        self.shared = shared

    def __call__(
        self, features: Mapping[str, Sequence[Float[Array, "b h w d"]]], image_size: tuple[int, int], train: bool
    ) -> dict[str, Float[Array, "b H W channels"]]:
        """Each task's prediction at image size, float32. In training the running statistics are updated in place.

        Args:
          features: each task's map at every level.
          image_size: (height, width).
          train: batch statistics from the batch.
        """
        quarter = image_size[0] // 4, image_size[1] // 4

        def head(trunk, output, maps):
            x, statistics = trunk(maps, quarter, train)
            return output(x), statistics

        # One task after another: side by side they would need the memory of all at once.
        head = remat.checkpoint(head, self.policy, block=False, scanned=False)
        predictions, statistics = {}, []
        for index, task in enumerate(self.tasks):
            logits, running = head(self._trunk(index), self.output[task], tuple(features[task]))
            predictions[task] = resize.resize_bilinear(logits.astype(jnp.float32), image_size)
            statistics.append(running)
        if train:
            self.trunk.norm.mean[...], self.trunk.norm.var[...] = map(jnp.stack, zip(*statistics, strict=True))
        return predictions

    def _trunk(self, index: int) -> DecodeTrunk:
        """A task's trunk: of a shared one the norm alone is stacked."""
        if not self.shared:
            return layers.take(self.trunk, index)
        return jax.tree.map(lambda x: x[index if len(x) > 1 else 0], self.trunk)
