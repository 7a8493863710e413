"""A teacher of one's own, of an architecture of its own: four maps of the mean colour of each patch, widened."""

import dataclasses

import jax.numpy as jnp
from einops import reduce
from flax import nnx

from sak_jax.teachers.entry import IMAGENET, Family, Teacher


@dataclasses.dataclass(frozen=True)
class ColoursConfig:
    width: int = 12
    patch: int = 8
    image_size: tuple[int, int] = (24, 32)


class Colours(nnx.Module):
    def __init__(self, config: ColoursConfig, dtype, rngs: nnx.Rngs):
        self.maps = nnx.List([nnx.Linear(3, config.width, dtype=dtype, rngs=rngs) for _ in range(4)])
        self.config = config

    def __call__(self, images):
        p = self.config.patch
        means = reduce(images, "b (h y) (w x) c -> b h w c", "mean", y=p, x=p)
        return tuple(jnp.tanh(widen(means)) for widen in self.maps)


TEACHER = Teacher(
    name="colours",
    family=Family(Colours, lambda state, config, new: state),
    config=ColoursConfig(),
    source="tests/extension/colours.py",
    licence="Apache-2.0",
    normalisation=IMAGENET,
    formats=(),
)
