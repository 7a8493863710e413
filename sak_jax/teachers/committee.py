"""The committee: several frozen teachers, each with its own view of the image, in one call."""

from collections.abc import Mapping

from flax import nnx
from jaxtyping import Array, Float

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
