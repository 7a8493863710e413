"""What a stage starts from: a run, a published file, or the shipped stem; and a student for another image size."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import keys, recipe
from sak_jax.engine import checkpoints
from sak_jax.engine import state as states
from sak_jax.engine.stage import Start, Weights
from sak_jax.errors import UserError
from sak_jax.methods.dune import build, pytorch
from sak_jax.methods.dune.method import HOW_IT_IS_COMPUTED
from sak_jax.methods.dune.student import Student, StudentConfig, check_size
from sak_jax.nn import resize
from sak_jax.nn.vit import ViTConfig
from sak_jax.teachers import rooms

logger = logging.getLogger(__name__)

POSITIONS = ("encoder", "position_embedding")


@dataclasses.dataclass(frozen=True)
class Source:
    """What there is to start from.

    Attributes:
      name: for messages.
      weights: arrays by path.
      encoder: its encoder's config.
      student: the student's config where projectors and statistics came along, else None.
    """

    name: str
    weights: Weights
    encoder: ViTConfig
    student: StudentConfig | None = None


def distillation(config: ConfigDict, measure: Callable[[], Weights] | None = None) -> Start:
    """What distillation starts from: an earlier distillation with all it has, the shipped stem, or nothing.

    Args:
      config: the recipe.
      measure: gives the statistics of the teachers' features, where these are measured before training.

    Raises:
      UserError: the weights are missing, or are those of another student.
    """
    if config.init_from and not _tried_out(config):
        source, target = read(config.init_from), build.student_config(config)
        if source.student is None:
            raise UserError(f"config.init_from={config.init_from!r} has no projectors: give a run of distillation")
        _check_same(source.name, dataclasses.asdict(source.student), dataclasses.asdict(target))
        student = nnx.eval_shape(lambda: Student(source.student, rngs=nnx.Rngs(0)))
        nnx.update(student, nnx.from_flat_state(_variables(student, source.weights)))
        return Start(source.name, states.on_host(nnx.state(at_size(student, tuple(config.image_size)))))
    found = _shipped(config)
    return found if measure is None else Start(found.name or "measured statistics", found.weights | measure())


def multitask(config: ConfigDict, previous: nnx.State | None) -> Start:
    """What heads read: the distilled encoder, or the student of one teacher with its projector.

    Positions for another image size are resized by DINOv2's rule, as the encoder would itself.

    Args:
      config: the recipe.
      previous: the student's state after distillation, or None.

    Raises:
      UserError: the weights are missing, or are those of another encoder or projector.
    """
    found = _student(config, previous)
    if not config.model.read_after:
        return found
    # There the student is the encoder.
    return dataclasses.replace(found, weights={("encoder", *path): value for path, value in found.weights.items()})


def _student(config: ConfigDict, previous: nnx.State | None) -> Start:
    """What heads read, as arrays of a student."""
    target, after = build.encoder(config), config.model.read_after
    if previous is not None:
        source = Source("distillation", states.on_host(previous), target, build.student_config(config))
    elif config.init_from and not _tried_out(config):
        source = read(config.init_from)
    else:
        return _shipped(config)
    _check_same(source.name, dataclasses.asdict(source.encoder), dataclasses.asdict(target))
    if after:
        _check_projector(source, build.under_heads(config))
    weights = {path: value for path, value in source.weights.items() if path[0] == "encoder"}
    if source.encoder.grid != target.grid:
        offset = target.position_offset
        options = {"prefix": 1, "antialias": False, "offset": offset}
        weights[POSITIONS] = np.asarray(
            resize.resize_positions(weights[POSITIONS], source.encoder.grid, target.grid, **options)
        )
    weights |= {path: value for path, value in source.weights.items() if path[:2] == ("projectors", after)}
    return Start(source.name, weights)


def _check_projector(source: Source, target: StudentConfig) -> None:
    """Raises UserError where a start does not have the projector that heads are to read after."""
    (wanted,) = target.teachers
    if source.student is None:
        raise UserError(f"{source.name} has no projectors to read after (model.read_after): give a run of distillation")
    theirs = dataclasses.replace(source.student, teachers=(source.student.teacher(wanted.name),), standardise="none")
    _check_same(source.name, dataclasses.asdict(theirs), dataclasses.asdict(target))


def read(path: str) -> Source:
    """The student in a workdir, a checkpoint or a published file.

    Raises:
      UserError: there is nothing to read, or it is no student of DUNE or UNIC.
    """
    file = epath.Path(path).expanduser()
    if file.suffix in (".pth", ".pt", ".bin", ".safetensors"):
        weights = pytorch.read_checkpoint(file)
        config = pytorch.config_of(weights, name=path)
        student = nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0)))
        pytorch.load_pytorch_state(student, weights, name=path)
        return Source(path, states.on_host(nnx.state(student)), config.encoder, config)
    if not file.exists():
        raise UserError(
            f"config.init_from={path!r} is missing: run the stage that makes it, or give a workdir, a checkpoint or a "
            "published .pth; --config.teachers.random=True tries the recipe out without"
        )
    saved, stage, model = checkpoints.load(file)
    theirs = recipe.from_dict(saved)
    if theirs.method != "dune":
        raise UserError(f"config.init_from={path!r} was made by the method {theirs.method}: give a run of DUNE's")
    weights, student = states.by_path(model), build.student_config(theirs) if stage == "distill" else None
    if stage == "multitask" and theirs.model.read_after:  # The student is the encoder, see `multitask`.
        weights = {place[1:]: value for place, value in weights.items() if place[0] == "encoder"}
        student = build.under_heads(theirs)
    return Source(path, weights, build.encoder(theirs), student)


def _tried_out(config: ConfigDict) -> bool:
    """Whether a start that is missing is done without, as random teachers try the recipe out."""
    missing = config.teachers.random and not epath.Path(config.init_from).expanduser().exists()
    if missing:
        logger.warning("%s is missing; to try the recipe out, it starts from random weights", config.init_from)
    return missing


def _check_same(name: str, theirs: dict, mine: dict) -> None:
    """Raises UserError where two students differ in more than image size and how they are computed."""
    theirs, mine = keys.flatten(theirs), keys.flatten(mine)
    for key in keys.differing(theirs, mine):
        if key.split(".")[-1] not in ("image_size", *HOW_IT_IS_COMPUTED):
            raise UserError(
                f"{name} is another student: {key} is {theirs.get(key)!r} there and {mine.get(key)!r} here; give the "
                "recipe that made it, or another start"
            )


def _shipped(config: ConfigDict) -> Start:
    if not config.model.stem_init:
        return Start()
    weights = {("encoder", *path): value for path, value in rooms.stem_state().items()}
    grid = build.encoder(config).grid
    positions = resize.resize_positions(weights[POSITIONS], rooms.STEM.grid, grid, prefix=1, antialias=False)
    return Start("the rooms stem", weights | {POSITIONS: np.asarray(positions)})


def _variables(student: Student, weights: Weights) -> dict:
    return {path: leaf.replace(weights[path]) for path, leaf in nnx.to_flat_state(nnx.state(student))}


def at_size(student: Student, image_size: tuple[int, int]) -> Student:
    """The student with all its weights and statistics, its positions resized once for images of another size.

    Bicubic without DINOv2's offset, the class token's position kept (DUNE's rule between its stages).

    Args:
      student: of the earlier stage.
      image_size: (height, width) of the later one.

    Raises:
      UserError: the image is no whole number of patches.
    """
    encoder = student.config.encoder
    check_size(image_size, encoder.patch)
    config = dataclasses.replace(student.config, encoder=dataclasses.replace(encoder, image_size=tuple(image_size)))
    state = dict(nnx.to_flat_state(nnx.state(student)))
    place = "encoder", "position_embedding"
    positions = resize.resize_positions(
        state[place].get_value(), encoder.grid, config.encoder.grid, prefix=1, antialias=False
    )
    state[place] = state[place].replace(positions)
    new = nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0)))
    nnx.update(new, nnx.from_flat_state(state))
    return new
