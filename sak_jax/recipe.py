"""What a recipe may say: every key with its default, the parsing of recipe arguments, and the checks before a run."""

import json
from collections.abc import Mapping

from etils import epath
from ml_collections import ConfigDict

from sak_jax.errors import UserError
from sak_jax.tasks import Task, select

RUNTIME_KEYS = (
    "checkpoint",
    "log_every",
    "mesh",
    "data.root",
    "data.workers",
    "distill.data.root",
    "distill.data.workers",
    "teachers.dir",
    "compilation_cache",
    "boundary.workers",
    "published",
)
"""Keys that say how a run is carried out, not what it computes: they may differ when a run is resumed."""

TEACHER_OPTIONS = ("normalisation", "pad", "crop")
"""Options a recipe may give a teacher, see `sak_jax.teachers.registry.load`."""


def base() -> ConfigDict:
    """The defaults all recipes start from; a recipe in `configs/` changes what it needs."""
    return ConfigDict(
        {
            "seed": 0,
            "image_size": (448, 576),  # Height, width of what the student sees.
            "batch_size": 16,  # Images a step, over all devices.
            "dtype": "float32",  # Of the computation: float32 or bfloat16. Parameters are float32.
            "init_from": "",  # A workdir, a checkpoint or a published .pth; "" starts from the stem initialisation.
            "tasks": {},  # {task: {field: value}}: rows of `sak_jax.tasks.TASKS`, or new ones.
            "baselines": {},  # Single-task scores that Delta_m compares with: {"semseg/mIoU": ..}.
            "published": {},  # Scores in print, and `delta_m`, to show beside ours.
            "boundary": {  # Of the metric odsF, see `sak_jax.tasks.boundary.BoundaryScore`.
                "max_distance": 0.011,  # Of the image's diagonal: 0.011 for NYUD-v2, 0.0075 for PASCAL-Context.
                "protocol": "sak",  # Or "invpt"; their scores are not comparable.
                "truth": "boundary",  # The annotated curves as they are; "label_map" outlines them (NYUD-v2).
                "workers": 0,  # Processes; 0 is one a processor.
            },
            "model": {
                "stem": "base",  # A key of `sak_jax.methods.sak.student.STEMS`, or "custom" with the four sizes below.
                "width": 0,  # 0 takes the stem's.
                "depth": 0,
                "heads": 0,
                "patch": 0,
                "stem_init": "",  # "rooms" (shipped, for the tiny stem), an augreg .npz, or "" for random.
                "encoder": {  # A foundation model in the place of stem, adapters and routers: a baseline.
                    "model": "",  # A key of the registry of teachers; "" is the student of the method.
                    "normalisation": "imagenet",  # This and the next two as for teachers.
                    "pad": True,
                    "crop": False,
                },
                "router": "mor",  # "mor" or "none": the plain sum of all experts.
                "noisy_gating": True,
                "down_ratio": 4,  # Width of the stem over width inside an adapter.
                "aligners": "auto",  # "auto": where widths differ; "all"; "none".
                "freeze": "none",  # "stem" (or encoder), or "all_but_routers" (the heads learn too).
                "remat": False,  # Recompute blocks in the backward pass: less memory, more time.
                "lora": {"rank": 0, "alpha": 16.0, "targets": ("qkv", "proj")},  # On the stem in stage 1.
            },
            "teachers": {  # And {name: {"model": a key of the registry}}, a row a teacher.
                "random": False,  # Random teachers, to try a recipe out without weights.
                "dir": "",  # Where converted weights lie; "" is ~/.cache/sak_jax/teachers.
            },
            "distill": {  # Stage 1.
                "steps": 0,
                "lr": 1e-3,
                "warmup_lr": 1.25e-7,
                "warmup_steps": 0,
                "final_lr": 1e-5,
                "weight_decay": 0.01,
                "clip": 0.0,  # Global norm of the gradient; 0 is no clipping.
                "accumulate": 1,  # Parts a batch is split into, one after another.
                "loss": "cos+l1",  # "cos+l1", "cos" or "l2".
                "data": {},  # What differs from `data` in stage 1, which reads the training images without labels.
            },
            "multitask": {  # Stage 2.
                "steps": 0,
                "alpha": 1.0,  # Weight of the distillation loss; 0 leaves the teachers out.
                "lr": 2e-5,
                "power": 0.9,  # Of the polynomial decay to zero.
                "weight_decay": 1e-6,
                "clip": 10.0,
                "accumulate": 1,
                "eval_every": 0,  # Steps between evaluations during training; 0 is only at the end.
                "scale_range": (0.5, 2.0),  # Of the random scale augmentation.
            },
            "data": {
                "name": "",
                "root": "",
                "workers": 0,  # Worker processes that read and transform; 0 is threads.
                "on_error": "raise",  # Or "skip": leave out samples that can't be read, count and report them.
                "resize": False,  # Shrink larger images (not those of rooms) to fit into image_size.
                # Rooms and folder have keys of their own, see `sak_jax.data.create_source`.
            },
            "eval_batch_size": 16,
            "log_every": 10,
            "checkpoint": {"every": 100, "keep": 2},  # Steps; how many of the newest are kept (the best is kept too).
            "mesh": {"data": -1, "fsdp": 1},  # Devices along each axis; -1 is all that fsdp leaves.
            "compilation_cache": "~/.cache/sak_jax/xla",  # "" compiles afresh every time.
        }
    )


def arguments(text: str | None, **defaults: str) -> dict[str, str]:
    """Recipe arguments: `stem=base,teachers=large` after the colon of `--config=configs/nyud.py:...`.

    Raises:
      UserError: an argument that the recipe does not have, or one without a value.
    """
    values = dict(defaults)
    for item in filter(None, (text or "").split(",")):
        key, separator, value = item.partition("=")
        if not separator or not value or key not in defaults:
            raise UserError(f"recipe argument {item!r}: write key=value with a key of {', '.join(defaults)}")
        values[key] = value
    return values


def as_method(config: ConfigDict, method: str) -> ConfigDict:
    """The recipe carried out by SAK, or by one of the baselines it is compared with.

    Args:
      config: the recipe, changed in place.
      method: `sak`; `multitask`: one student for all tasks, nothing distilled; `single-TASK`: one task, nothing
        distilled (the baseline of Delta_m); `frozen-MODEL`, `finetuned-MODEL`: a foundation model of the registry with
        the student's heads, which learn alone or together with it.

    Raises:
      UserError: there is no such method or task.
    """
    if method == "sak":
        return config
    kind, _, name = method.partition("-")
    tasks = ordered(config.tasks)
    encoder = kind in ("frozen", "finetuned") and name
    if method != "multitask" and not encoder and not (kind == "single" and name in tasks):
        known = ", ".join(["sak", "multitask", *(f"single-{task}" for task in tasks)])
        raise UserError(f"recipe argument method={method}: it must be one of {known}, frozen-MODEL or finetuned-MODEL")
    set_teachers(config, {})
    config.distill.steps = 0
    config.model.router = "none"
    if kind == "single":
        config.tasks = {name: tasks[name]}
    if encoder:
        config.model.encoder.model = name
        config.model.freeze = "stem" if kind == "frozen" else "none"
        config.model.stem_init = config.init_from = ""
    return config


def check(config: ConfigDict, devices: int) -> None:
    """Refuses what cannot run, before anything is loaded.

    Raises:
      UserError: names the key, its value and what would do.
    """
    for key in ("batch_size", "eval_batch_size", "log_every", "checkpoint.every", "model.down_ratio", "mesh.fsdp"):
        _require(_get(config, key) > 0, config, key, "must be positive")
    for key in (
        "distill.steps",
        "multitask.steps",
        "multitask.alpha",
        "multitask.eval_every",
        "checkpoint.keep",
        "data.workers",
        "boundary.workers",
        "distill.lr",
        "multitask.lr",
        "model.lora.rank",
    ):
        _require(_get(config, key) >= 0, config, key, "must not be negative")
    for key in ("batch_size", "eval_batch_size"):
        _require(_get(config, key) % devices == 0, config, key, f"must be a multiple of the {devices} devices")
    for stage in ("distill", "multitask"):
        parts = config[stage].accumulate
        _require(parts > 0, config, f"{stage}.accumulate", "must be positive")
        _require(
            config.batch_size % (parts * devices) == 0,
            config,
            "batch_size",
            f"must be a multiple of {stage}.accumulate x devices = {parts * devices}",
        )
    choices = {
        "dtype": ("float32", "bfloat16"),
        "model.router": ("mor", "none"),
        "model.aligners": ("auto", "all", "none"),
        "model.freeze": ("none", "stem", "all_but_routers"),
        "distill.loss": ("cos+l1", "cos", "l2"),
        "data.on_error": ("raise", "skip"),
        "boundary.protocol": ("sak", "invpt"),
        "boundary.truth": ("label_map", "boundary"),
    }
    for key, allowed in choices.items():
        _require(_get(config, key) in allowed, config, key, f"must be one of {', '.join(allowed)}")
    _require(0 <= config.boundary.max_distance <= 1, config, "boundary.max_distance", "must be in 0..1")
    _require(config.mesh.data == -1 or config.mesh.data > 0, config, "mesh.data", "must be positive, or -1")
    maps = ("qkv", "proj", "fc1", "fc2")
    _require(set(config.model.lora.targets) <= set(maps), config, "model.lora.targets", f"takes {', '.join(maps)}")
    _require(len(config.image_size) == 2, config, "image_size", "must be (height, width)")
    steps, warmup = config.distill.steps, config.distill.warmup_steps
    _require(steps + config.multitask.steps > 0, config, "multitask.steps", "or distill.steps must be set")
    _require(not steps or warmup < steps, config, "distill.warmup_steps", f"must be less than distill.steps = {steps}")
    _require(not config.distill.steps or bool(selected_teachers(config)), config, "distill.steps", "needs teachers")
    _require(not config.multitask.steps or len(config.tasks) > 0, config, "multitask.steps", "needs tasks")
    if config.model.encoder.model:
        for key in ("distill.steps", "init_from", "model.stem_init", "model.lora.rank", "model.remat"):
            _require(not _get(config, key), config, key, "must not be set where model.encoder is a foundation model")
        _require(not selected_teachers(config), config, "model.encoder.model", "learns from no teachers: take them out")
    selected_tasks(config)
    for name, teacher in selected_teachers(config).items():
        unknown = sorted(set(teacher) - {"model", *TEACHER_OPTIONS})
        if unknown or "model" not in teacher:
            problem = f"has no option {unknown[0]!r}" if unknown else "lacks its model"
            raise UserError(f"config.teachers.{name} {problem}: it takes model, {', '.join(TEACHER_OPTIONS)}")


def check_workdir(config: ConfigDict, workdir: epath.Path) -> None:
    """Makes sure that a workdir with checkpoints was made by the same config.

    Raises:
      UserError: the workdir is another config's; names the first keys that differ.
    """
    file = workdir / "config.json"
    mine = flatten(ordered(config))
    if file.exists() and (workdir / "checkpoints").exists():
        theirs = flatten(ordered(from_dict(json.loads(file.read_text()))))
        keys = [key for key in differing(theirs, mine) if not key.startswith(RUNTIME_KEYS)]
        if keys:
            more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise UserError(
                f"{workdir} was made by another config: {keys[0]} is {theirs.get(keys[0])!r} there and "
                f"{mine.get(keys[0])!r} here{more}; give the run another --workdir"
            )


def from_dict(values: Mapping) -> ConfigDict:
    """The config that a run or a checkpoint holds as JSON."""
    config = base()
    with config.unlocked():
        config.update(values)
    config.image_size = tuple(config.image_size)
    return config


def ordered(section: ConfigDict) -> dict:
    """A section as a plain dict in the order in which the recipe gives it, where ConfigDict's own iteration sorts."""
    return json.loads(section.to_json())


def selected_teachers(config: ConfigDict) -> dict[str, dict]:
    """The recipe's teachers and their settings, in its order."""
    return {name: settings for name, settings in ordered(config.teachers).items() if isinstance(settings, dict)}


def set_teachers(config: ConfigDict, teachers: Mapping[str, Mapping]) -> None:
    """Makes `teachers`, {name: settings}, the recipe's committee, in their order, instead of the one it had."""
    for name in selected_teachers(config):
        del config.teachers[name]
    config.teachers.update(teachers)


def selected_tasks(config: ConfigDict) -> tuple[Task, ...]:
    """The recipe's tasks, in its order.

    Raises:
      UserError: a task is not fully described.
    """
    return select(ordered(config.tasks))


def flatten(values: Mapping, prefix: str = "") -> dict:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differing(one: Mapping, other: Mapping) -> list[str]:
    """The keys, sorted, under which two flat mappings hold different values, or only one of them holds any."""
    return [key for key in sorted(set(one) | set(other)) if one.get(key) != other.get(key)]


def _get(config: ConfigDict, key: str):
    for part in key.split("."):
        config = config[part]
    return config


def _require(condition: bool, config: ConfigDict, key: str, remedy: str) -> None:
    if not condition:
        raise UserError(f"config.{key} is {_get(config, key)!r}: it {remedy}")
