"""From grey levels, as batches carry images to the devices, to the normalised images that models see."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sak_jax.normalisation import FACTOR, OFFSET


def normalised(batch: Mapping[str, Any]) -> Float[Array, "b H W 3"]:
    """A batch's images, (level / 255 - mean) / std with ImageNet's statistics and 0 where they are padded.

    Equal to `data.augment.normalise` and `pad` on the host to one unit in the last place of `level * factor`: a device
    may round the sum once where the host rounds product and sum.

    Args:
      batch: `image`, uint8 [b, H, W, 3], and where images are padded `size`, int32 [b, 2], height and width of what
        lies in the middle. Images of floats are normalised already and come back as they are.
    """
    image = batch["image"]
    if image.dtype != jnp.uint8:
        return image
    image = image.astype(jnp.float32) * FACTOR + OFFSET
    if "size" not in batch:
        return image
    rows, columns = (_inside(image.shape[axis], batch["size"][:, axis - 1]) for axis in (1, 2))
    return jnp.where(rows[:, :, None, None] & columns[:, None, :, None], image, 0.0)


def _inside(length: int, sizes: Int[Array, " b"]) -> Bool[Array, "b length"]:
    """What of an axis is not padding: centred, the odd one at the end."""
    first = (length - sizes[:, None]) // 2
    place = jnp.arange(length)
    return (place >= first) & (place < first + sizes[:, None])
