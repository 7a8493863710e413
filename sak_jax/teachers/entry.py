"""What the registry knows of a teacher."""

import dataclasses
from collections.abc import Callable

from etils import epath
from flax import nnx

from sak_jax import normalisation
from sak_jax.weights.formats import Format

IMAGENET = normalisation.MEAN, normalisation.STD
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

PACKAGED = epath.resource_path("sak_jax.teachers") / "weights"
"""The weights that come with the package."""

TAPS = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23), 27: (6, 13, 20, 26), 32: (7, 15, 23, 31), 40: (9, 19, 29, 39)}
"""Blocks after which features are read, by depth (method: SAK, section 4.1)."""


@dataclasses.dataclass(frozen=True)
class Family:
    """An architecture: how its models are made and fitted to an image size.

    Attributes:
      create: (config, dtype, rngs) -> module; a config has `width`, `patch` and `image_size`.
      fit: (state, config, new config) -> state; resizes what depends on the image size.
      norm: the final norm's place in the module; None where the architecture has none. Where it has one, its configs
        have an option `norm`.
    """

    create: Callable[..., nnx.Module]
    fit: Callable[[nnx.State, object, object], nnx.State]
    norm: str | None = None


@dataclasses.dataclass(frozen=True)
class Teacher:
    """One model of the registry.

    Attributes:
      name: the key.
      family: its architecture.
      config: its sizes, at the image size of its weights; with the final norm, where it has one.
      source: where the weights come from: a Hugging Face repository, or a URL.
      licence: of the weights.
      normalisation: (mean, std) its weights were trained with.
      formats: the namings its weights come in.
      file: the weight file in the repository.
      pad_to: the image's long side becomes this and the rest is padded (SAM), or None.
      packaged: the weights come with the package.
    """

    name: str
    family: Family
    config: object
    source: str
    licence: str
    normalisation: tuple[tuple[float, float, float], tuple[float, float, float]]
    formats: tuple[Format, ...]
    file: str = "model.safetensors"
    pad_to: int | None = None
    packaged: bool = False

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.config.width

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the four maps."""
        return getattr(self.config, "widths", (self.width,) * 4)

    @property
    def has_norm(self) -> bool:
        """Whether it has a final norm."""
        return getattr(self.config, "norm", False)

    def with_norm(self, norm: bool) -> object:
        """The config with or without the final norm; without, where the teacher has none."""
        return dataclasses.replace(self.config, norm=norm) if self.has_norm else self.config

    def for_size(self, image_size: tuple[int, int], *, pad: bool = True, norm: bool = False) -> object:
        """The config for images of another size (the student's; where they are padded, that of the padded image).

        Maps do not need the final norm; `norm` keeps it.
        """
        if self.pad_to is not None and pad:
            image_size = (self.pad_to, self.pad_to)
        return dataclasses.replace(self.with_norm(norm), image_size=tuple(image_size))
