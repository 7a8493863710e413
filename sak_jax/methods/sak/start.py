"""What a stage starts from: the stage before it, another run, a published file, or a stem initialisation."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import recipe
from sak_jax.engine import checkpoints
from sak_jax.engine import state as states
from sak_jax.engine.stage import Start, Weights
from sak_jax.errors import UserError
from sak_jax.methods.distillation.keys import selected_teachers
from sak_jax.methods.sak import build
from sak_jax.methods.sak.published import read_backbone
from sak_jax.methods.sak.student import StudentConfig
from sak_jax.nn.resize import resize_positions
from sak_jax.teachers import rooms, stems

logger = logging.getLogger(__name__)

BACKBONE = ("stem", "adapters", "output_norms", "aligners", "statistics")
"""The parts that stage 2 takes over; routers and heads are new (SAK, section 3.3)."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A backbone to start from.

    Attributes:
      name: for messages.
      weights: arrays by path.
      config: of the student they come from.
      models: the registry's names of its teachers by name, where they are known.
    """

    name: str
    weights: Weights
    config: StudentConfig
    models: dict[str, str] = dataclasses.field(default_factory=dict)


def start(
    config: ConfigDict, stage: str, previous: nnx.State | None, measure: Callable[[], Weights] | None = None
) -> Start:
    """What a stage starts from.

    Args:
      config: the recipe; `init_from` and `model.stem_init` are looked at where there is no stage before.
      stage: which one starts.
      previous: the student's state after the stage before, or None.
      measure: gives the statistics of the teachers' features where what it starts from has none; None where these are
        not measured before training.

    Raises:
      UserError: the weights are missing or are those of another student.
    """
    found = _start(config, stage, previous)
    if measure is None or any(path[0] == "statistics" for path in found.weights):
        return found
    return dataclasses.replace(found, name=found.name or "measured statistics", weights=found.weights | measure())


def _start(config: ConfigDict, stage: str, previous: nnx.State | None) -> Start:
    target = build.student_config(config, stage)
    if previous is not None:
        source = Source("stage 1", states.on_host(previous), build.student_config(config, "distill"), _models(config))
        return Start("stage 1", adapt(source, target, _models(config)))
    if config.teachers.random and _missing(config):
        logger.warning("%s is missing; to try the recipe out, %s starts from random weights", _missing(config), stage)
        return Start()
    if config.init_from:
        source = read(config.init_from, config)
        return Start(source.name, adapt(source, target, _models(config)))
    if config.model.stem_init:
        return Start(config.model.stem_init, _stem(config, target))
    return Start()


def read(path: str, config: ConfigDict) -> Source:
    """The backbone in a workdir, a checkpoint or a published `.pth` file.

    Raises:
      UserError: there is nothing to read, or it is no student.
    """
    file = epath.Path(path).expanduser()
    if file.suffix in (".pth", ".pt", ".bin", ".safetensors"):
        student = read_backbone(file, config)
        return Source(path, states.on_host(nnx.state(student)), student.config)
    if not file.exists():
        raise UserError(
            f"config.init_from={path!r} is missing: run the stage that makes it, or give a workdir, a checkpoint or a "
            "published .pth; --config.teachers.random=True tries the recipe out without"
        )
    saved, stage, model = checkpoints.load(file)
    theirs = recipe.from_dict(saved)
    if theirs.method != "sak":
        raise UserError(f"config.init_from={path!r} was made by the method {theirs.method}: give a run of SAK's")
    return Source(path, states.by_path(model), build.student_config(theirs, stage), _models(theirs))


def adapt(source: Source, target: StudentConfig, models: dict[str, str] | None = None) -> Weights:
    """The source's backbone for the target: its teachers selected, its positions resampled (bicubic, no antialias).

    A target without teachers takes the stem alone; aligners of the source that the target lacks are dropped.

    Args:
      source: the backbone.
      target: the student to be.
      models: the registry's names of the target's teachers by name.

    Raises:
      UserError: the target has a teacher that the source did not learn from: none of its name, or another model.
    """
    theirs, mine = dict(source.config.teachers), dict(target.teachers)
    stem_only = not theirs or not mine
    missing = [name for name in mine if theirs and name not in theirs]
    if missing:
        raise UserError(f"{source.name} has no path for the teacher {missing[0]}: it learned from {', '.join(theirs)}")
    if not stem_only and source.config.paths != target.paths:
        raise UserError(
            f"{source.name} was made with model.paths={source.config.paths}, and here it is {target.paths}: give the "
            "start that was made with the same"
        )
    for name in {} if stem_only else mine:
        taught, wanted = source.models.get(name), (models or {}).get(name)
        if taught and wanted and taught != wanted:
            raise UserError(
                f"{source.name} learned its path {name} from {taught}, and config.teachers.{name}.model is {wanted}: "
                "give the start that was made with this recipe's teachers, or those teachers"
            )
        if theirs[name] != mine[name] or (name in target.aligners and name not in source.config.aligners):
            raise UserError(
                f"{source.name} learned from a teacher {name} that is {theirs[name]} wide, with"
                f"{'' if name in source.config.aligners else 'out'} an aligner; here it is {mine[name]} wide, with"
                f"{'' if name in target.aligners else 'out'}: give the start that was made with this recipe's teachers"
            )
    order = [list(theirs).index(name) for name in mine] if not stem_only else []
    weights = {}
    for path, value in source.weights.items():
        part = path[0]
        if part not in BACKBONE or (stem_only and part != "stem"):
            continue
        if part == "aligners" and path[1] not in target.aligners:
            continue
        if part == "statistics" and (source.config.standardise != target.standardise or path[1] not in mine):
            continue
        if part == "adapters" and path[1] == "entry":
            value = value[order]
        elif part in ("adapters", "output_norms"):
            value = value[:, order]
        elif path == ("stem", "position_embedding"):
            prefix = int(source.config.stem.class_token)
            value = resize_positions(value, source.config.stem.grid, target.stem.grid, prefix=prefix, antialias=False)
        weights[path] = np.asarray(value)
    return weights


def _models(config: ConfigDict) -> dict[str, str]:
    return {name: settings["model"] for name, settings in selected_teachers(config).items()}


def _missing(config: ConfigDict) -> str:
    """The file or folder that the recipe starts from, if it is not there."""
    path = config.init_from or config.model.stem_init
    return "" if path in ("", "rooms") or epath.Path(path).expanduser().exists() else path


def _stem(config: ConfigDict, target: StudentConfig) -> Weights:
    """The stem initialisation that `config.model.stem_init` names, for the target's grid."""
    if config.model.stem_init == "rooms":
        flat, grid = rooms.stem_state(), rooms.STEM.grid
    else:
        file = epath.Path(config.model.stem_init).expanduser()
        if not file.exists():
            raise UserError(
                f"the stem initialisation {file} is missing: fetch it with python tools/convert_teacher.py "
                f"stem_{config.model.stem}, or set --config.model.stem_init to another .npz file, or to '' for random "
                "weights"
            )
        flat, grid = stems.read(file, target.stem)
    path = ("position_embedding",)
    flat[path] = resize_positions(flat[path], grid, target.stem.grid, prefix=1, antialias=False)
    return {("stem", *path): np.asarray(value) for path, value in flat.items()}
