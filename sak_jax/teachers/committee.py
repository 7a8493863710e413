"""The committee: several frozen teachers, each with its own view of the image, in one call."""

from collections.abc import Mapping, Sequence

from flax import nnx
from jaxtyping import Array, Float

from sak_jax.errors import UserError
from sak_jax.teachers.views import View


class Committee(nnx.Module):
    """Several teachers side by side: images -> `{teacher: four maps}`.

    Its state is an argument of the jitted step, never part of the student's checkpoint or of the optimiser.
    """

    def __init__(self, teachers: Mapping[str, nnx.Module], views: Mapping[str, View]):
        self.teachers = nnx.Dict(dict(teachers))
        self.views = dict(views)

    def __call__(self, images: Float[Array, "b H W 3"]) -> dict[str, tuple[Float[Array, "b _ _ _"], ...]]:
        """Each teacher's maps at its taps, before any final norm.

        Args:
          images: ImageNet-normalised.
        """
        maps = {}
        for name, teacher in self.teachers.items():
            view = self.views[name]
            maps[name] = view.select(teacher(view(images)), images.shape[1:3])
        return maps

    def tokens(
        self, images: Float[Array, "b H W 3"], followed: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, Float[Array, "b *n c"]]]:
        """Each teacher's class token `cls` [b, c] and patches `patch` [b, n, c] after its last block.

        They go through the final norm where the teacher was loaded with it (`registry.load(norm=True)`). The teachers
        are plain vision transformers.

        Args:
          images: ImageNet-normalised.
          followed: which of the two each teacher gives.

        Raises:
          UserError: a teacher has no such token.
        """
        given = {}
        for name, kinds in followed.items():
            teacher = self.teachers[name]
            if not hasattr(teacher, "tokens"):
                raise UserError(f"teacher {name} gives maps alone: follow a plain vision transformer's tokens")
            if "cls" in kinds and not teacher.config.class_token:
                raise UserError(f"teacher {name} has no class token: follow its patches alone")
            x = teacher.tokens(self.views[name](images), norm=teacher.norm is not None)[-1]
            parts = {"cls": x[:, 0], "patch": x[:, teacher.config.prefix :]}
            given[name] = {kind: parts[kind] for kind in kinds}
        return given
