"""How a teacher sees the student's image, and which part of its maps belongs to the image."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from sak_jax.nn import resize
from sak_jax.normalisation import MEAN, STD


@dataclasses.dataclass(frozen=True)
class View:
    """From the student's image to a teacher's, and back from the teacher's maps.

    Attributes:
      mean, std: the normalisation the teacher gets.
      patches: (the teacher's patch, the student's): the image is resized by their ratio, so that both grids agree
        (bicubic, corners on corners, sizes rounded down; as DUNE's code does), or None.
      pad_to: the long side is resized to this and the rest zero-padded right and below (SAM), or None.
      crop: drop the part of the maps that is padding (the published code keeps it and so stretches the student's map
        over a misaligned one).
    """

    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    patches: tuple[int, int] | None = None
    pad_to: int | None = None
    crop: bool = False

    def __call__(self, images: Float[Array, "b H W 3"]) -> Float[Array, "b h w 3"]:
        """The teacher's images from ImageNet-normalised ones."""
        images = resize.resize_corners(images, self.on_grid(images.shape[1:3]))
        if (self.mean, self.std) != (MEAN, STD):
            scale = jnp.asarray(STD) / jnp.asarray(self.std)
            shift = (jnp.asarray(MEAN) - jnp.asarray(self.mean)) / jnp.asarray(self.std)
            images = images * scale + shift
        if self.pad_to is None:
            return images
        h, w = self.resized(images.shape[1:3])
        images = resize.resize_bicubic(images, (h, w))
        return jnp.pad(images, ((0, 0), (0, self.pad_to - h), (0, self.pad_to - w), (0, 0)))

    def on_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the image after it is resized by `patches`."""
        if self.patches is None:
            return tuple(size)
        theirs, ours = self.patches
        return size[0] * theirs // ours, size[1] * theirs // ours

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the image before padding, its long side `pad_to`; rounded half up."""
        scale = self.pad_to / max(size)
        return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)

    def select(
        self, maps: tuple[Float[Array, "b _ _ c"], ...], size: tuple[int, int]
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """The maps without rows and columns that hold nothing but padding, where `crop` asks for it.

        Args:
          maps: the teacher's.
          size: (height, width) of the student's images.
        """
        if self.pad_to is None or not self.crop:
            return maps
        h, w = self.resized(size)
        valid = lambda m: m[:, : -(-m.shape[1] * h // self.pad_to), : -(-m.shape[2] * w // self.pad_to)]  # noqa: E731
        return tuple(valid(m) for m in maps)
