"""What the recipes of the published benchmarks share: arguments, committees, stems and the settings of both stages.

Settings are those of SAK (Lu, Cao and Wang, ICLR 2025), section 4.1, and of its published code.
"""

from ml_collections import ConfigDict

from sak_jax import recipe
from sak_jax.errors import UserError
from sak_jax.methods.sak.keys import selected_teachers, set_teachers
from sak_jax.teachers import stems

VIEWS = {
    "paper": {"normalisation": "imagenet", "pad": True, "crop": False},
    "frontier": {"normalisation": "native", "pad": True, "crop": True},
}
"""How foundation models see the student's image, by preset: as it is, with SAM's padding in the maps; or each with its
native normalisation, and the padding left out."""

COMMITTEES = {"paper": ("dinov2", "clip", "sam"), "frontier": ("dinov3", "clip", "sam")}
"""Members of the committee by preset."""

IMAGENET_IMAGES = 1_281_167

ROOMS_COMMITTEE = {name: {"model": f"rooms_{name}"} for name in ("scene", "regions", "geometry")}
"""The teachers that come with the package, as `config.teachers` wants them."""


def arguments(text: str, **more: str) -> dict[str, str]:
    """The arguments of these recipes, `stem=small,teachers=base,..`.

    `stem` is a size of the student, `teachers` that of the committee's members; `preset` is `paper` (the published
    recipe) or `frontier`; `committee` names other members, see `committee`.

    Raises:
      UserError: an argument that the recipe does not have, or an unknown preset or stem.
    """
    chosen = recipe.arguments(text, stem="base", teachers="base", preset="paper", committee="", **more)
    recipe.check_arguments(chosen, preset=COMMITTEES, stem=stems.FILES)
    return chosen


def committee(members: str, size: str, preset: str) -> dict[str, dict]:
    """`config.teachers`, every option spelt out so that each can be set on the command line.

    Args:
      members: families of the registry, which take `size`, or whole names: `dinov2+sam`, `clip+sam_huge`. "" is the
        preset's committee.
      size: `base`, `large`.
      preset: a key of `VIEWS` and `COMMITTEES`.
    """
    names = members.split("+") if members else COMMITTEES[preset]
    return {name: {"model": name if "_" in name else f"{name}_{size}", **VIEWS[preset]} for name in names}


def rooms_committee(members: str) -> dict[str, dict]:
    """`config.teachers` of those of the package's teachers that are named, `scene+geometry`.

    Raises:
      UserError: there is no such teacher.
    """
    names = members.split("+")
    unknown = [name for name in names if name not in ROOMS_COMMITTEE]
    if unknown:
        raise UserError(f"recipe argument committee={members}: {unknown[0]} is none of {', '.join(ROOMS_COMMITTEE)}")
    return {name: ROOMS_COMMITTEE[name] for name in names}


def stem_file(stem: str) -> str:
    """Where the augreg checkpoint of a stem is looked for."""
    return f"~/.cache/sak_jax/stems/{stems.FILES[stem]}"


def distill(chosen: dict[str, str]) -> ConfigDict:
    """Stage 1: 30 epochs of ImageNet-1k."""
    config = recipe.base()
    config.image_size = (384, 384)
    config.batch_size = 128
    config.model.stem = chosen["stem"]
    config.model.stem_init = stem_file(chosen["stem"])
    config.teachers.update(committee(chosen["committee"], chosen["teachers"], chosen["preset"]))
    epoch = IMAGENET_IMAGES // config.batch_size
    config.distill.steps = 30 * epoch
    config.distill.warmup_steps = 2 * epoch
    config.distill.warmup_lr = 1.25e-7
    config.distill.lr = 1e-3
    config.distill.final_lr = 1e-5
    config.distill.weight_decay = 0.01
    config.distill.clip = 0.0
    config.log_every = 50
    config.checkpoint.every = 2000
    return config


def multitask(
    chosen: dict[str, str], tasks: dict[str, dict], single_task: dict[str, dict], published: dict[tuple, dict]
) -> ConfigDict:
    """Stage 2: 40 000 iterations from the student that stage 1 gave; or a baseline from the stem initialisation.

    Args:
      chosen: the recipe's arguments.
      tasks: `config.tasks`.
      single_task: scores of the single-task models by stem.
      published: scores in print by (method, stem, size of the teachers); those of a method without teachers have "".
    """
    config = recipe.base()
    config.batch_size = 4
    config.eval_batch_size = 8
    config.init_from = "runs/imagenet"
    config.tasks = tasks
    config.baselines = single_task.get(chosen["stem"], {})
    config.model.stem = chosen["stem"]
    config.teachers.update(committee(chosen["committee"], chosen["teachers"], chosen["preset"]))
    config.multitask.steps = 40_000
    config.multitask.lr = 2e-5
    config.multitask.power = 0.9
    config.multitask.weight_decay = 1e-6
    config.multitask.clip = 10.0
    config.multitask.alpha = 1.0
    config.multitask.scale_range = (0.5, 2.0)
    config.log_every = 50
    config.checkpoint.every = 1000
    config = as_method(config, chosen["method"], VIEWS[chosen["preset"]])
    distilled = config.method == "sak" and bool(selected_teachers(config))
    if not distilled:
        config.init_from = ""
        if config.method == "sak":
            config.model.stem_init = stem_file(chosen["stem"])
    if not chosen["committee"]:
        teachers = chosen["teachers"] if distilled else ""
        config.published = published.get((chosen["method"], chosen["stem"], teachers), {})
    return config


def as_method(config: ConfigDict, method: str, view: dict | None = None) -> ConfigDict:
    """The recipe carried out by SAK, or by one of the baselines it is compared with.

    Args:
      config: the recipe, changed in place where it stays one of SAK's.
      method: `sak`; `multitask`: one student for all tasks, nothing distilled; `single-TASK`: one task, nothing
        distilled (the baseline of Delta_m); `frozen-MODEL`, `finetuned-MODEL`: a foundation model of the registry with
        the student's heads, which learn alone or together with it.
      view: how a foundation model sees the images, a value of `VIEWS`.

    Raises:
      UserError: there is no such method or task.
    """
    if method == "sak":
        return config
    kind, _, name = method.partition("-")
    tasks = recipe.ordered(config.tasks)
    if kind in ("frozen", "finetuned") and name:
        return _foundation(config, name, frozen=kind == "frozen", view=view or VIEWS["paper"])
    if method != "multitask" and not (kind == "single" and name in tasks):
        known = ", ".join(["sak", "multitask", *(f"single-{task}" for task in tasks)])
        raise UserError(f"recipe argument method={method}: it must be one of {known}, frozen-MODEL or finetuned-MODEL")
    set_teachers(config, {})
    config.distill.steps = 0
    config.model.router = "none"
    if kind == "single":
        config.tasks = {name: tasks[name]}
    return config


def _foundation(config: ConfigDict, model: str, *, frozen: bool, view: dict) -> ConfigDict:
    """The same data, tasks and length for a foundation model with heads."""
    values = recipe.base("foundation")
    for key, value in recipe.ordered(config).items():
        if key in values and key not in ("method", "model", "teachers", "multitask", "init_from"):
            values[key] = ConfigDict(value) if isinstance(value, dict) else value
    values.image_size = tuple(config.image_size)
    for key in values.multitask:
        values.multitask[key] = config.multitask[key]
    values.teachers.update(random=config.teachers.random, dir=config.teachers.dir)
    values.model.encoder.update(view | {"model": model})
    values.model.freeze = "stem" if frozen else "none"
    return values
