"""A trained student, ready to predict."""

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import methods, recipe
from sak_jax.engine import checkpoints
from sak_jax.errors import UserError
from sak_jax.methods.sak.student import Outputs


def load(path: epath.PathLike, *, best: bool = False) -> "Predictor":
    """A trained student, ready to predict.

    Args:
      path: a workdir, or one checkpoint in it.
      best: of a workdir the checkpoint with the highest score, instead of the newest.

    Returns:
      `student(images) -> Outputs` in evaluation mode, jitted; `student.config` is the recipe.

    Raises:
      UserError: there is no checkpoint, or it holds no student of this version.
    """
    saved, stage, state = checkpoints.load(epath.Path(path).expanduser(), best=best)
    config = recipe.from_dict(saved)
    student = abstract_student(config, stage)
    try:
        nnx.update(student, jax.device_put(state))  # Once, instead of at every call.
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} does not hold the student of its own recipe ({error}); give another one") from error
    return Predictor(student, config)


def build(config: ConfigDict) -> nnx.Module:
    """A fresh student from a recipe: that of its last stage.

    Raises:
      UserError: the recipe's sizes do not fit.
    """
    method = methods.get(config.method)
    stage = method.stages(config)[-1].name
    graph, state = jax.jit(lambda: nnx.split(method.student(config, stage, nnx.Rngs(config.seed))))()
    return nnx.merge(graph, state)


def abstract_student(config: ConfigDict, stage: str) -> nnx.Module:
    """The student of a stage with shapes for arrays."""
    return nnx.eval_shape(lambda: methods.get(config.method).student(config, stage, nnx.Rngs(0)))


class Predictor:
    """A student in evaluation mode.

    Attributes:
      student: the module, for those who want its parts.
      config: the recipe it came from.
    """

    def __init__(self, student: nnx.Module, config: ConfigDict):
        self.student = student
        self.config = config
        self._forward = jax.jit(lambda student, images: student(images))

    def __call__(self, images) -> Outputs:
        """Predictions, aligned features and routing.

        Args:
          images: float32 [b, H, W, 3], ImageNet-normalised; the sides are multiples of the patch.

        Raises:
          UserError: images of another type or size.
        """
        images = check_images(images, patch_of(self.config, self.student))
        return self._forward(self.student, images)


def patch_of(config: ConfigDict, student: nnx.Module) -> int:
    """What the sides of a student's images are multiples of; 1 where its encoder takes any."""
    return student.config.stem.patch if hasattr(student, "config") else 1


def check_images(images, patch: int) -> jax.Array:
    """Normalised images as the student takes them.

    Raises:
      UserError: they are not floating point, not [b, H, W, 3], not finite, or a side is no multiple of the patch.
    """
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or len(shape) != 4 or shape[3] != 3:
        raise UserError(f"a student takes images [b, H, W, 3], not {type(images).__name__} of the shape {shape}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"a student takes ImageNet-normalised float32 images, not {dtype}: give raw pictures to student.predict, "
            "or normalise them, (image / 255 - mean) / std"
        )
    if any(side % patch or not side for side in shape[1:3]):
        raise UserError(
            f"images are {shape[1]} x {shape[2]}, and their sides must be multiples of the patch {patch}: pad or crop "
            "them, or give raw pictures to student.predict, which does"
        )
    return jnp.asarray(images, jnp.float32)
