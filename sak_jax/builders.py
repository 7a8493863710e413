"""From a config to models: students, committees, and students from checkpoints."""

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from sak_jax.errors import UserError
from sak_jax.methods.foundation.student import FoundationStudent
from sak_jax.methods.sak.student import LEVELS, STEMS, Outputs, Student, StudentConfig
from sak_jax.nn.vit import LoRA, ViTConfig
from sak_jax.recipe import ordered, selected_tasks, selected_teachers
from sak_jax.teachers import registry
from sak_jax.teachers.committee import Committee


def student_config(config: ConfigDict, stage: str) -> StudentConfig:
    """The student a recipe asks for.

    Args:
      config: the recipe.
      stage: `distill` has neither routers nor heads; `multitask` has both.

    Raises:
      UserError: an unknown stem, or sizes that do not fit each other or the image.
    """
    model = config.model
    if model.stem != "custom" and model.stem not in STEMS:
        raise UserError(f"config.model.stem is {model.stem!r}: it must be custom or one of {', '.join(STEMS)}")
    sizes = dict(STEMS.get(model.stem, {}))
    sizes |= {key: model[key] for key in ("width", "depth", "heads", "patch") if model[key]}
    missing = {"width", "depth", "heads", "patch"} - set(sizes)
    if missing:
        raise UserError(f"config.model.{min(missing)} must be set for the custom stem")
    if sizes["depth"] % LEVELS or sizes["width"] % sizes["heads"] or sizes["width"] % LEVELS:
        raise UserError(
            f"config.model: depth {sizes['depth']} and width {sizes['width']} must be multiples of {LEVELS}, "
            f"and the width of the {sizes['heads']} heads"
        )
    if model.down_ratio > sizes["width"]:
        raise UserError(f"config.model.down_ratio {model.down_ratio} must be at most the width {sizes['width']}")
    if any(side % sizes["patch"] for side in config.image_size):
        raise UserError(f"config.image_size {tuple(config.image_size)} must be multiples of the patch {sizes['patch']}")
    teachers = tuple((name, registry.width(teacher["model"])) for name, teacher in selected_teachers(config).items())
    aligned = {
        "none": (),
        "all": tuple(name for name, _ in teachers),
        "auto": tuple(name for name, width in teachers if width != sizes["width"]),
    }[model.aligners]
    for name, width in teachers:
        if width != sizes["width"] and name not in aligned:
            raise UserError(f"config.model.aligners is none but {name} is {width} wide, not {sizes['width']}: use auto")
    lora = LoRA(model.lora.rank, model.lora.alpha, tuple(model.lora.targets)) if model.lora.rank else None
    step = sizes["depth"] // LEVELS
    return StudentConfig(
        stem=ViTConfig(
            **sizes, taps=tuple(range(step - 1, sizes["depth"], step)), image_size=tuple(config.image_size), lora=lora
        ),
        teachers=teachers,
        tasks=tuple((t.name, t.channels) for t in selected_tasks(config)) if stage == "multitask" else (),
        aligners=aligned,
        router=model.router,
        noisy_gating=model.noisy_gating,
        down_ratio=model.down_ratio,
        dtype=config.dtype,
        remat=model.remat,
    )


def new_student(config: ConfigDict, stage: str, rngs: nnx.Rngs) -> Student | FoundationStudent:
    """A student with fresh parameters; the baseline where `config.model.encoder` names a foundation model.

    Args:
      config: the recipe.
      stage: see `student_config`.
      rngs: a `params` stream.

    Raises:
      UserError: the recipe's sizes do not fit, or it names an unknown model.
    """
    if not config.model.encoder.model:
        return Student(student_config(config, stage), rngs=rngs)
    options = ordered(config.model.encoder)
    name = options.pop("model")
    encoder, view = registry.fresh(name, tuple(config.image_size), dtype=jnp.dtype(config.dtype), rngs=rngs, **options)
    tasks = tuple((task.name, task.channels) for task in selected_tasks(config))
    return FoundationStudent(encoder, view, registry.width(name), tasks, dtype=jnp.dtype(config.dtype), rngs=rngs)


def abstract_student(config: ConfigDict, stage: str) -> Student | FoundationStudent:
    """`new_student` with shapes for arrays."""
    return nnx.eval_shape(lambda: new_student(config, stage, nnx.Rngs(0)))


def build(config: ConfigDict) -> Student | FoundationStudent:
    """A fresh student from a recipe: the one stage 2 trains, or stage 1's where the recipe has no stage 2.

    Raises:
      UserError: the recipe's sizes do not fit.
    """
    stage = "multitask" if config.multitask.steps else "distill"
    graph, state = jax.jit(lambda: nnx.split(new_student(config, stage, nnx.Rngs(config.seed))))()
    return nnx.merge(graph, state)


def committee(config: ConfigDict) -> Committee | None:
    """The frozen teachers of a recipe, or None where it has none.

    Raises:
      UserError: a teacher is unknown or its weights are missing; names the file and the command that makes it.
    """
    if not selected_teachers(config):
        return None
    teachers, views = {}, {}
    for name, settings in selected_teachers(config).items():
        model = settings.pop("model")
        teachers[name], views[name] = registry.load(
            model,
            tuple(config.image_size),
            dtype=jnp.dtype(config.dtype),
            directory=config.teachers.dir,
            random=config.teachers.random,
            **settings,
        )
    return Committee(teachers, views)


def load(path: epath.PathLike) -> "Predictor":
    """A trained student, ready to predict.

    Args:
      path: a workdir, or one checkpoint in it.

    Returns:
      `student(images) -> Outputs` in evaluation mode, jitted; `student.config` is the recipe.

    Raises:
      UserError: there is no checkpoint.
    """
    from sak_jax.engine import checkpoints

    config, stage, state = checkpoints.load(epath.Path(path).expanduser())
    student = abstract_student(config, stage)
    nnx.update(student, jax.device_put(state))  # Once, instead of at every call.
    return Predictor(student, config)


class Predictor:
    """A student in evaluation mode.

    Attributes:
      student: the module, for those who want its parts.
      config: the recipe it came from.
    """

    def __init__(self, student: Student | FoundationStudent, config: ConfigDict):
        self.student = student
        self.config = config
        self._forward = jax.jit(lambda student, images: student(images))

    def __call__(self, images) -> Outputs:
        """Predictions, aligned features and routing.

        Args:
          images: float32 [b, H, W, 3], ImageNet-normalised.
        """
        return self._forward(self.student, jnp.asarray(images, jnp.float32))
