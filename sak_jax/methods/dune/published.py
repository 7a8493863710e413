"""Published checkpoint files of DUNE and UNIC to ours and back."""

import logging

from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import paths, predict, recipe
from sak_jax.engine import checkpoints
from sak_jax.errors import UserError
from sak_jax.methods.distillation.keys import selected_teachers
from sak_jax.methods.dune import build, pytorch
from sak_jax.methods.dune.student import ENCODERS, Student, StudentConfig
from sak_jax.weights import files

logger = logging.getLogger(__name__)


def import_student(
    config: ConfigDict, path: epath.PathLike, output: epath.PathLike, *, merge: bool = False, weights: str = ""
) -> str:
    """A published file as a checkpoint of ours in the workdir `output`, finished as far as training goes.

    Args:
      config: a recipe of DUNE's; what the student is made of is the file's, and is written into it.
      path: `.pth` (optimiser state ignored) or `.safetensors`.
      output: a new folder.
      merge, weights: not for these files.

    Returns:
      The stage, `distill`.

    Raises:
      UserError: the file can't be read, is no whole student of DUNE or UNIC, or holds what is no number; `output` is
        not empty, or can't be written.
    """
    if config.method != "dune":
        raise UserError(f"config.method is {config.method}: give a recipe of DUNE's, such as configs/dune.py")
    if merge or weights:
        raise UserError("students of DUNE and UNIC have neither low-rank updates nor several weights in a file")
    output = paths.given(output)
    paths.check_output(output / "config.json", force=True)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; give a new --output")
    arrays = pytorch.read_checkpoint(path)
    files.check_finite(arrays, str(path))
    with config.unlocked():  # The file's teachers may be others than the recipe's.
        describe(config, pytorch.config_of(arrays, name=str(path)))
    student = nnx.eval_shape(lambda: Student(build.student_config(config), rngs=nnx.Rngs(0)))
    pytorch.load_pytorch_state(student, arrays, name=str(path))
    checkpoints.write_model(output, "distill", config.distill.steps, recipe.plain(config), nnx.state(student))
    return "distill"


def describe(config: ConfigDict, student: StudentConfig) -> None:
    """Writes into a recipe what a student is made of; teachers keep what it says of them otherwise."""
    encoder, model = student.encoder, config.model
    config.image_size = encoder.image_size
    sizes = {key: getattr(encoder, key) for key in ("width", "depth", "heads")}
    model.stem = next(name for name, known in ENCODERS.items() if sizes.items() <= known.items())
    model.update(dict.fromkeys(sizes, 0))
    model.update({key: getattr(encoder, key) for key in ("patch", "registers", "layer_scale")})
    model.update({key: getattr(student, key) for key in ("projector", "hidden", "last_hidden")})
    config.distill.standardise = student.standardise
    rows = selected_teachers(config)
    for name in rows:
        del config.teachers[name]
    for followed in student.teachers:
        row = {"model": pytorch.TEACHERS.get(followed.name, "")} | rows.get(followed.name, {})
        config.teachers[followed.name] = row | {"tokens": followed.tokens, "width": followed.width}


def export_student(
    checkpoint: epath.PathLike, output: epath.PathLike, *, merge: bool = False, force: bool = False
) -> list[epath.Path]:
    """A distilled student as a file that the published code loads with `strict=True`, and as safetensors beside it.

    UNIC's code keeps the statistics of the teachers' features beside the state dict: they are left out.

    Args:
      checkpoint: a workdir, or one checkpoint in it.
      output: `.pth` (both files are written; this needs PyTorch) or `.safetensors` (this one alone).
      merge: not for these students.
      force: replace files that are there.

    Returns:
      The files written, each whole or not at all.

    Raises:
      UserError: there is no checkpoint, it has heads in the place of projectors, the file's ending is another, or a
        file is there already or can't be written.
    """
    if merge:
        raise UserError("students of DUNE and UNIC have no low-rank updates to merge")
    output = paths.given(output)
    if output.suffix not in (".pth", ".safetensors"):
        raise UserError(f"{output}: the name must end in .pth or .safetensors")
    written = list(dict.fromkeys((output, output.with_suffix(".safetensors"))))
    for file in written:
        paths.check_output(file, force=force)
    if output.suffix == ".pth":
        files.check_torch(output)
    student = predict.load(checkpoint).student
    if not isinstance(student, Student):
        raise UserError(
            f"{checkpoint} holds an encoder with heads, which the published code has not: give a distilled one"
        )
    if pytorch.unic_statistics(student):
        logger.warning("the statistics of the teachers' features are left out, as UNIC keeps them beside its weights")
    for file in written:
        (files.write_torch if file.suffix == ".pth" else files.write_safetensors)(file, pytorch.pytorch_state(student))
    return written
