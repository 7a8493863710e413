"""Published checkpoint files to ours and back."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import paths, predict, recipe
from sak_jax.engine import checkpoints
from sak_jax.errors import UserError
from sak_jax.methods.sak import build
from sak_jax.methods.sak.pytorch import PEFT, POSITIONS, load_pytorch_state, pytorch_state
from sak_jax.methods.sak.student import Student, StudentConfig, merge_lora
from sak_jax.nn.vit import LoRA
from sak_jax.weights import files
from sak_jax.weights.positions import square_grid

Weights = Mapping[str, np.ndarray]


def read_backbone(path: epath.PathLike, config: ConfigDict) -> Student:
    """The backbone in a published file of either stage, as a student without tasks, to start a stage from.

    Image size, teachers and aligners are the file's; the stem and low-rank updates (where the file has some) the
    recipe's. Routers and heads are left out.

    Raises:
      UserError: the file can't be read, is not of the recipe's stem, or holds what is no number.
    """
    weights = {
        key.removeprefix("backbone."): value
        for key, value in files.read_weights(path).items()
        if not re.match(r"(backbone\.)?mor\.|heads\.", key)
    }
    files.check_finite(weights, str(path))
    settings = build.student_config(config, "distill")
    stem = dataclasses.replace(settings.stem, image_size=_image_size(weights, settings, path))
    if not _has_lora(weights):
        stem = dataclasses.replace(stem, lora=None)
    teachers = _teachers(weights, settings)
    aligners = tuple(name for name, _ in teachers if _aligner_width(weights, name))
    parts = {"stem": stem, "teachers": teachers, "aligners": aligners, "standardise": "none"}
    student = _abstract(dataclasses.replace(settings, **parts))
    _load(student, weights, config, merge=False, path=path)
    return student


def import_student(
    config: ConfigDict, path: epath.PathLike, output: epath.PathLike, *, merge: bool = False, weights: str = ""
) -> str:
    """A published file as a checkpoint of ours in the workdir `output`, finished as far as training goes.

    Args:
      config: the recipe; its image size, teachers and tasks must be the file's.
      path: `.pth` (of either stage, optimiser state ignored) or `.safetensors`.
      output: a new folder.
      merge: add low-rank updates into the kernels.
      weights: which are meant in a file that holds several, see `files.read_weights`.

    Returns:
      The stage: `distill` or `multitask`.

    Raises:
      UserError: the file can't be read, is not this recipe's student, or holds what is no number; `output` is not
        empty, or can't be written.
    """
    if config.method != "sak":
        raise UserError(f"config.method is {config.method}: only students of SAK are imported")
    output = paths.given(output)
    paths.check_output(output / "config.json", force=True)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty; give a new --output")
    arrays = files.read_weights(path, weights=weights)
    files.check_finite(arrays, str(path))
    stage = "multitask" if any(key.startswith("backbone.") for key in arrays) else "distill"
    if config.model.aligners == "auto" and any("ts_aligners." in key for key in arrays):
        config.model.aligners = "all"  # The published code has aligners for all teachers or for none.
    config.distill.standardise = "none"  # The published code keeps no statistics.
    student = _abstract(build.student_config(config, stage))
    if merge:
        student = _abstract(_without_lora(student.config))
    _load(student, arrays, config, merge, path)
    if merge:
        config.model.lora.rank = 0
    checkpoints.write_model(output, stage, config[stage].steps, recipe.plain(config), nnx.state(student))
    return stage


def export_student(
    checkpoint: epath.PathLike, output: epath.PathLike, *, merge: bool = False, force: bool = False
) -> list[epath.Path]:
    """A checkpoint of ours as a file that the published code loads with `strict=True`, and as safetensors beside it.

    Args:
      checkpoint: a workdir, or one checkpoint in it.
      output: `.pth` (both files are written; this needs PyTorch) or `.safetensors` (this one alone).
      merge: add low-rank updates into the kernels.
      force: replace files that are there.

    Returns:
      The files written, each whole or not at all.

    Raises:
      UserError: there is no checkpoint, the published code has no such student, the file's ending is another, or a file
        is there already or can't be written.
    """
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
        raise UserError(f"{checkpoint} holds a foundation model with heads, not a student that the published code has")
    settings = student.config
    if not settings.paths or settings.trunk != "own":
        raise UserError(
            f"{checkpoint} was made with model.paths or model.trunk changed: the published code has no such"
        )
    if 0 < len(settings.aligners) < len(settings.teachers):
        raise UserError(
            f"{checkpoint} has aligners for {', '.join(settings.aligners)} only, the published code for all or none; "
            "train with --config.model.aligners=all"
        )
    if merge and settings.stem.lora:
        student = merge_lora(student)
    weights = pytorch_state(student)
    for file in written:
        (files.write_torch if file.suffix == ".pth" else files.write_safetensors)(file, weights)
    return written


def _load(student: Student, weights: Weights, config: ConfigDict, merge: bool, path: epath.PathLike) -> None:
    rank = config.model.lora.rank
    if not rank and (merge or _has_lora(weights)):
        found = next((value.shape[0] for key, value in weights.items() if ".lora_A." in key), "R")
        raise UserError(
            f"{path} has low-rank updates: give --config.model.lora.rank={found} and the --config.model.lora.alpha "
            "they were trained with"
        )
    lora = LoRA(rank, config.model.lora.alpha, tuple(config.model.lora.targets)) if merge else None
    load_pytorch_state(student, weights, lora=lora, name=str(path))


def _abstract(settings: StudentConfig) -> Student:
    return nnx.eval_shape(lambda: Student(settings, rngs=nnx.Rngs(0)))


def _without_lora(settings: StudentConfig) -> StudentConfig:
    return dataclasses.replace(settings, stem=dataclasses.replace(settings.stem, lora=None))


def _has_lora(weights: Weights) -> bool:
    return any(".lora_A." in key for key in weights)


def _image_size(weights: Weights, settings: StudentConfig, path: epath.PathLike) -> tuple[int, int]:
    """The image size a file's position embedding is for: the recipe's if that fits, else a square one."""
    positions = next((value for key, value in weights.items() if key.replace(PEFT, "") == POSITIONS), None)
    if positions is None:
        raise UserError(f"{path}: key {POSITIONS} is missing; give a checkpoint of a student")
    height, width = settings.stem.grid
    if positions.ndim == 3 and positions.shape[1] == 1 + height * width:
        return settings.stem.image_size
    side, _ = square_grid(positions, f"{path}: {POSITIONS}")
    return side * settings.stem.patch, side * settings.stem.patch


def _teachers(weights: Weights, settings: StudentConfig) -> tuple[tuple[str, int], ...]:
    """(name, width) of the teachers a file learned from; a recipe's teacher is as wide as the recipe says."""
    names = dict.fromkeys(match[1] for key in weights if (match := re.fullmatch(r"tsap\.([^.]+)\.0\.scale", key)))
    widths = dict(settings.teachers)
    return tuple((name, _aligner_width(weights, name) or widths.get(name, settings.stem.width)) for name in names)


def _aligner_width(weights: Weights, name: str) -> int:
    """Channels that a teacher's aligners give; 0 without aligners."""
    pattern = re.compile(rf"ts_aligners\.\d+_{re.escape(name)}\.bias")
    return next((value.shape[0] for key, value in weights.items() if pattern.fullmatch(key) and value.ndim), 0)
