"""The decode heads, with the fusing convolution in factorised form."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.nn import layers, resize


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

    def __call__(self, x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
        """The convolved map at `size` = (H, W)."""
        rows = jnp.asarray(_shifted_upsampling(x.shape[1], size[0]), self.dtype)
        columns = jnp.asarray(_shifted_upsampling(x.shape[2], size[1]), self.dtype)
        x = jnp.einsum("bhwc,yxcd->byhxwd", x, self.kernel[...].astype(self.dtype))
        x = jnp.einsum("xWw,byhxwd->byhWd", columns, x)
        x = jnp.einsum("yHh,byhWd->bHWd", rows, x)
        return x + self.bias[...].astype(self.dtype)


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
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b h w c"], tuple[Float[Array, "c"], Float[Array, "c"]]]:
        """The normalised map and the running (mean, variance) after it; statistics are float32."""
        mean, var = self.mean[...], self.var[...]
        running = mean, var
        if train:
            y = x.astype(jnp.float32)
            count = y.size // y.shape[-1]
            mean = jnp.mean(y, axis=(0, 1, 2))
            var = jnp.mean(jnp.square(y - mean), axis=(0, 1, 2))
            unbiased = var * (count / max(count - 1, 1))
            running = 0.9 * running[0] + 0.1 * mean, 0.9 * running[1] + 0.1 * unbiased
        factor = self.scale[...] * jax.lax.rsqrt(var + self.eps)
        y = (x.astype(jnp.float32) - mean) * factor + self.bias[...]
        return y.astype(x.dtype), jax.lax.stop_gradient(running)


class DecodeTrunk(nnx.Module):
    """What the heads of all tasks have alike: reduce the four levels, upsample to a quarter of the image, fuse."""

    def __init__(self, width: int, levels: int, *, dtype, rngs: nnx.Rngs):
        def reduce(rngs):
            init = layers.torch_uniform(width)
            return nnx.Linear(width, width // levels, dtype=dtype, kernel_init=init, bias_init=init, rngs=rngs)

        self.reduce = layers.stack(reduce, [levels], rngs)
        self.fuse = FusedUpsampleConv(width // levels * levels, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(width // levels * levels)

    def __call__(self, features: Float[Array, "l b h w d"], size: tuple[int, int], train: bool):
        """The fused map at `size` (height, width) and the batch norm's running statistics."""
        x = jax.vmap(lambda reduce, x: reduce(x))(self.reduce, features)
        x = jnp.concatenate(list(x), axis=-1)
        x, statistics = self.norm(self.fuse(x, size), train)
        return layers.exact_gelu(x), statistics


class DecodeHeads(nnx.Module):
    """One decode head a task (SAK's code: linear, upsample, 3x3 convolution, BatchNorm, GELU, 1x1 convolution)."""

    def __init__(self, width: int, levels: int, channels: dict[str, int], *, dtype, rngs: nnx.Rngs):
        create = lambda rngs: DecodeTrunk(width, levels, dtype=dtype, rngs=rngs)  # noqa: E731
        self.trunk = layers.stack(create, [len(channels)], rngs)
        fused = width // levels * levels
        init = layers.torch_uniform(fused)
        self.tasks = tuple(channels)
        self.output = nnx.Dict(
            {
                task: nnx.Linear(fused, outputs, dtype=dtype, kernel_init=init, bias_init=init, rngs=rngs)
                for task, outputs in channels.items()
            }
        )

    def __call__(
        self, features: Float[Array, "t l b h w d"], image_size: tuple[int, int], train: bool
    ) -> dict[str, Float[Array, "b H W channels"]]:
        """Each task's prediction at image size, float32. In training the running statistics are updated in place."""
        quarter = image_size[0] // 4, image_size[1] // 4
        x, (mean, var) = jax.vmap(lambda trunk, x: trunk(x, quarter, train))(self.trunk, features)
        if train:
            self.trunk.norm.mean[...] = mean
            self.trunk.norm.var[...] = var
        predictions = {}
        for index, task in enumerate(self.tasks):
            logits = self.output[task](x[index]).astype(jnp.float32)
            predictions[task] = resize.resize_bilinear(logits, image_size)
        return predictions
