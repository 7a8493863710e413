"""The student: one vision transformer, and a projector for each teacher (DUNE, section 4; UNIC, section 3)."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.errors import UserError
from sak_jax.methods.distillation import state, statistics
from sak_jax.methods.dune import projectors
from sak_jax.methods.dune.projectors import CLASS, PATCHES
from sak_jax.nn import placement, remat
from sak_jax.nn.vit import ViT, ViTConfig

ENCODERS = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
    "giant2": {"width": 1536, "depth": 40, "heads": 24, "mlp": "swiglu", "mlp_hidden": 4096},
}
"""Encoders by name; small and base are published."""


def encoder_config(
    size: str | Mapping[str, int],
    image_size: tuple[int, int],
    *,
    patch: int = 14,
    registers: int = 4,
    layer_scale: bool = True,
) -> ViTConfig:
    """The encoder of DUNE; with patch 16 and neither registers nor layer scale that of UNIC.

    DINOv2's transformer from scratch: linear maps from a truncated normal of 0.02, the patches' map from PyTorch's
    default, layer scales from 1e-4. Images of another size get positions by DINOv2's rule.

    Args:
      size: a key of `ENCODERS`, or sizes like its values.
      image_size: (height, width) that the table of positions is for.
      patch, registers, layer_scale: see `ViTConfig`.

    Raises:
      UserError: unknown size, or an image that is no whole number of patches.
    """
    if isinstance(size, str) and size not in ENCODERS:
        raise UserError(f"model.stem is {size!r}: set it to one of {', '.join(ENCODERS)}")
    check_size(image_size, patch)
    sizes = ENCODERS[size] if isinstance(size, str) else size
    step = sizes["depth"] // 4
    return ViTConfig(
        **sizes,
        patch=patch,
        taps=tuple(range(step - 1, sizes["depth"], step)),
        image_size=tuple(image_size),
        registers=registers,
        norm=True,
        layer_scale=layer_scale,
        layer_scale_init=1e-4,
        position_offset=0.1,
        patch_init="torch",
    )


def check_size(size: tuple[int, int], patch: int) -> None:
    """Raises UserError for an image that is no whole number of patches."""
    if any(side % patch or side < patch for side in size):
        raise UserError(f"images of {size[0]} x {size[1]} pixels: both sides must be multiples of the patch, {patch}")


@dataclasses.dataclass(frozen=True)
class Followed:
    """A teacher as the student follows it.

    Attributes:
      name: the teacher's.
      width: of its tokens.
      tokens: the kinds that are followed, of `cls` and `patch`.
    """

    name: str
    width: int
    tokens: tuple[str, ...] = (CLASS, PATCHES)


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """What a student is made of.

    Attributes:
      encoder: the vision transformer; its last block is distilled, whatever its taps.
      teachers: whom it follows; their order does not matter.
      projector: `transformer` (DUNE), `ladder` (UNIC) or `mlp`.
      hidden, last_hidden: channels inside the MLPs of a ladder, and inside that of the last block.
      standardise: how teacher features are standardised, a key of `distillation.statistics`.
      dtype: of the computation; parameters are float32.
      remat: what training keeps of the encoder's blocks for the backward pass, see `remat.checkpoint`.
    """

    encoder: ViTConfig
    teachers: tuple[Followed, ...]
    projector: str = "transformer"
    hidden: int = 768
    last_hidden: int = 3072
    standardise: str = "batch"
    dtype: str = "float32"
    remat: str | bool = "named"

    def __post_init__(self):
        if self.projector not in projectors.KINDS:
            raise UserError(f"model.projector is {self.projector!r}: set it to one of {', '.join(projectors.KINDS)}")
        statistics.check(self.standardise)
        remat.policy(self.remat)

    def teacher(self, name: str) -> Followed:
        """The teacher of that name; raises UserError where the student does not follow it."""
        for teacher in self.teachers:
            if teacher.name == name:
                return teacher
        known = ", ".join(sorted(teacher.name for teacher in self.teachers))
        raise UserError(f"the student does not follow teacher {name!r}: it follows {known}")


class Unused(nnx.Variable):
    """A published array that nothing reads; kept so that checkpoints go in and out unchanged."""


Tokens = dict[str, Float[Array, "b *n c"]]
"""Class token `cls` [b, c] and patches `patch` [b, n, c]."""


class Student(nnx.Module):
    """Encoder, projectors, and the statistics of the teachers' features.

    The encoder's final norm is not on the way to the projectors: training leaves it as it is. The statistics are
    running ones like a batch norm's (`nnx.BatchStat`), moved by the loss.
    """

    def __init__(self, config: StudentConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.encoder = ViT(config.encoder, dtype=dtype, rngs=rngs)
        self.mask_token = Unused(jnp.zeros((1, config.encoder.width)))
        inside = dataclasses.replace(config.encoder, linear_init="torch")
        options = {"hidden": config.hidden, "last_hidden": config.last_hidden}
        teachers = sorted(config.teachers, key=lambda teacher: teacher.name)
        self.projectors = nnx.Dict(
            {
                teacher.name: projectors.create(
                    config.projector, inside, teacher.width, teacher.tokens, options, dtype=dtype, rngs=rngs
                )
                for teacher in teachers
            }
        )
        widths = {teacher.name: {kind: teacher.width for kind in teacher.tokens} for teacher in teachers}
        self.statistics = state.create(config.standardise, widths)
        self.heads = None  # It predicts no task.
        self.config = config

    @property
    def patch(self) -> int:
        """What the sides of its images are multiples of."""
        return self.config.encoder.patch

    def encode(self, images: Float[Array, "b H W 3"], *, every_block: bool = False) -> Float[Array, "*depth b n d"]:
        """Class token and patches after the last block, or after every block, before the final norm.

        Args:
          images: ImageNet-normalised.
          every_block: all blocks' outputs `[depth, b, n, d]`.
        """

        def block(x, parameters):
            x = placement.whole(parameters)(x)
            return x, (self._without_registers(x) if every_block else None)

        body = remat.checkpoint(block, self.config.remat)
        x, outputs = jax.lax.scan(body, placement.pin(self.encoder.embed(images)), self.encoder.blocks)
        return outputs if every_block else self._without_registers(x)

    def _without_registers(self, x: Float[Array, "b m d"]) -> Float[Array, "b n d"]:
        return jnp.concatenate([x[:, :1], x[:, self.config.encoder.prefix :]], axis=1)

    def __call__(self, images: Float[Array, "b H W 3"]) -> dict[str, Tokens]:
        """Each teacher's followed tokens as predicted, standardised.

        Args:
          images: ImageNet-normalised, of whole patches.
        """
        tokens = self._whole(images)
        return {teacher.name: self._predict(teacher, tokens) for teacher in self.config.teachers}

    def _predict(self, teacher: Followed, tokens: Float[Array, "*depth b n d"]) -> Tokens:
        predicted = self.projectors[teacher.name](tokens)
        return {kind: predicted[kind] for kind in teacher.tokens}

    def project(self, images: Float[Array, "b H W 3"], teacher: str) -> dict[str, Array]:
        """A teacher's standardised features: class token `cls` [b, c] and map `map` [b, h, w, c], where projected.

        A transformer projector gives both, also of a teacher of which one is followed.

        Raises:
          UserError: the student does not follow this teacher, or the images are not of whole patches.
        """
        self.config.teacher(teacher)
        return self._as_map(self.projectors[teacher](self._whole(images)), images)

    def features(self, images: Float[Array, "b H W 3"], teacher: str) -> dict[str, Array]:
        """A teacher's own features as the student predicts them, de-normalised: those of `cls` and `map` it follows.

        Args:
          images: ImageNet-normalised, of any size of whole patches.
          teacher: its name.

        Raises:
          UserError: as `project`.
        """
        predicted = self._predict(self.config.teacher(teacher), self._whole(images))
        own = self.running_statistics()[teacher]
        return self._as_map(statistics.restore(self.config.standardise, predicted, own), images)

    def running_statistics(self) -> dict[str, dict[str, statistics.Statistics]]:
        """The statistics of all teachers' features: `{teacher: {kind of token: {name: array}}}`."""
        if self.config.standardise == "none":
            return {teacher.name: {kind: {} for kind in teacher.tokens} for teacher in self.config.teachers}
        return state.values(self.statistics)

    def set_statistics(self, new: dict[str, dict[str, statistics.Statistics]]) -> None:
        """Replaces the statistics, in place, by such as `running_statistics` gives."""
        state.replace(self.statistics, new)

    def _whole(self, images: Float[Array, "b H W 3"]) -> Float[Array, "*depth b n d"]:
        check_size(images.shape[1:3], self.config.encoder.patch)
        return self.encode(images, every_block=self.config.projector == "ladder")

    def _as_map(self, tokens: Tokens, images: Float[Array, "b H W 3"]) -> dict[str, Array]:
        height = images.shape[1] // self.config.encoder.patch
        to_map = lambda x: rearrange(x, "b (h w) c -> b h w c", h=height)  # noqa: E731
        return {"map" if kind == PATCHES else kind: to_map(x) if kind == PATCHES else x for kind, x in tokens.items()}


class Projected(Student):
    """The student of one teacher as the encoder of heads: one map, what its projector makes of the patches.

    The map is the teacher's, standardised, as it was learned. DUNE's segmentation is read after DINOv2's projector.
    """

    def __call__(self, images: Float[Array, "b H W 3"]) -> tuple[Float[Array, "b h w c"]]:
        """The map, as `ViT` gives its own.

        Args:
          images: ImageNet-normalised, of whole patches.
        """
        return (self.project(images, self.config.teachers[0].name)["map"],)
