"""Recipes: the keys all have, reading a recipe file, refusing what cannot run, and what may differ on resuming."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from sak_jax import data, keys, methods, recipe_files
from sak_jax.errors import UserError
from sak_jax.keys import Key

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")

ENGINE = {
    "method": Key("sak"),  # A key of `sak_jax.methods.METHODS`.
    "seed": Key(0, at_least=0, at_most=2**32 - 1),
    "image_size": Key((448, 576), above=0, at_most=65_536, length=2),  # Height, width of what the model sees.
    "batch_size": Key(16, above=0),  # Images a step, over all devices.
    "dtype": Key("float32", choices=("float32", "bfloat16")),  # Of the computation. Parameters are float32.
    "matmul_precision": Key("", choices=("", "default", "high", "highest"), runtime=True),  # "" is JAX's default.
    "init_from": Key(""),  # A workdir, a checkpoint or a published .pth; "" starts from the stem initialisation.
    "tasks": Key({}, open=True),  # {task: {field: value}}: rows of `sak_jax.tasks.TASKS`, or new ones.
    "baselines": Key({}, open=True, runtime=True),  # Single-task scores that Delta_m compares with.
    "published": Key({}, open=True, runtime=True),  # Scores in print, and `delta_m`, to show beside ours.
    "boundary": {  # Of the metric odsF, see `sak_jax.tasks.boundary`.
        # Of the image's diagonal: 0.011 for NYUD-v2, 0.0075 for PASCAL-Context.
        "max_distance": Key(0.011, at_least=0, at_most=1, runtime=True),
        "protocol": Key("sak", choices=("sak", "invpt"), runtime=True),  # Their scores are not comparable.
        # The annotated curves as they are, or outlined (NYUD-v2).
        "truth": Key("boundary", choices=("boundary", "label_map"), runtime=True),
        "workers": Key(0, at_least=0, runtime=True),  # Processes; 0 is one a processor.
    },
    "data": data.KEYS,  # And those of the data set that `data.name` names.
    "eval_batch_size": Key(16, above=0, runtime=True),
    "log_every": Key(10, above=0, runtime=True),
    # Where scalars go besides metrics.jsonl: the latter two need the extras of their names.
    "loggers": Key(("tensorboard",), choices=("tensorboard", "wandb", "trackio"), runtime=True),
    # Steps; how many of the newest are kept (the best is kept too).
    "checkpoint": {"every": Key(100, above=0, runtime=True), "keep": Key(2, at_least=0, runtime=True)},
    # A trace of so many steps from the first on, in the workdir's `profile`; 0 is none.
    "profile": {"first_step": Key(10, above=0, runtime=True), "steps": Key(0, at_least=0, runtime=True)},
    "mesh": {  # Devices along each axis; -1 is all that fsdp leaves.
        "data": Key(-1, at_least=-1, runtime=True),
        "fsdp": Key(1, above=0, runtime=True),
        "placement": Key({}, open=True, runtime=True),  # {pattern of a parameter's path: axes}, see docs/pods.md.
    },
    # "" compiles afresh every time; where JAX_COMPILATION_CACHE_DIR is set, that is used.
    "compilation_cache": Key("~/.cache/sak_jax/xla", runtime=True),
}
"""The keys of every recipe; those of its method and of its data set come besides."""


def base(method: str = "sak") -> ConfigDict:
    """The defaults that a recipe starts from; a recipe in `configs/` changes what it needs.

    Args:
      method: a key of `sak_jax.methods.METHODS`.
    """
    config = ConfigDict(keys.defaults(keys.merged(ENGINE, methods.get(method).keys())))
    config.method = method
    return config


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


def check_arguments(chosen: Mapping[str, str], **choices: Iterable[str]) -> None:
    """Refuses recipe arguments that have none of the values they may have, by name.

    Raises:
      UserError: such an argument.
    """
    for key, values in choices.items():
        if chosen[key] not in values:
            raise UserError(f"recipe argument {key}={chosen[key]}: it must be one of {', '.join(values)}")


# Reading


def load(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The recipe `configs/NAME.py[:key=value,..]` with `--config.KEY=VALUE`s, each of its value's type.

    Args:
      path: of a Python file with `get_config(text)`, or the name of one that comes with the package; after a colon
        what `get_config` is given.
      overrides: command-line arguments.

    Raises:
      UserError: no such file, a mistake in the recipe or its arguments, an unknown key, a value of another type.
    """
    file, _, text = path.partition(":")
    config = recipe_files.get_config(recipe_files.find(file), text)
    known = keys_of(config)
    _check_unknown(config, known)
    _check_overrides(known, overrides)
    for key, default in keys.defaults(known["data"]).items():  # So that they can be set on the command line.
        if key not in config.data:
            config.data[key] = default
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["", *overrides])
        rest = values(["", *overrides])
        config = values.config
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, flags.Error) as error:
        raise UserError(" ".join(str(error).split())) from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: options are written --name=value")
    return config


# Checking


def keys_of(config: Mapping) -> dict:
    """All keys that a recipe may have, by its method and its data set.

    Raises:
      UserError: it names an unknown method or data set.
    """
    method, section = config.get("method"), config.get("data")
    name = section.get("name") if isinstance(section, Mapping | ConfigDict) else None
    for key, value in (("method", method), ("data.name", name)):
        if not isinstance(value, str):
            raise UserError(f"config.{key} is {value!r}: it must be a text; a recipe starts from recipe.base()")
    return keys.merged(ENGINE, methods.get(method).keys(), {"data": data.keys(name)})


def check_keys(config: ConfigDict) -> None:
    """Makes sure that every key is there and holds what it may hold.

    Raises:
      UserError: names the key, its value and what would do.
    """
    values, known = ordered(config), keys_of(config)
    keys.check(values, known)
    # Of `data` what is missing has its default.
    missing = keys.missing(values, {name: section for name, section in known.items() if name != "data"})
    if missing:
        raise UserError(f"config.{missing} is missing: set it, or leave the section above it as recipe.base() has it")


def check(config: ConfigDict, devices: int) -> None:
    """Refuses what cannot run, before anything is loaded.

    Raises:
      UserError: names the key, its value and what would do.
    """
    check_keys(config)
    if config.mesh.data == 0:
        raise UserError("config.mesh.data is 0: it must be positive, or -1")
    for key in ("batch_size", "eval_batch_size"):
        require(config[key] % devices == 0, config, key, f"must be a multiple of the {devices} devices")
    methods.get(config.method).check(config, devices)


def require(condition: bool, config: ConfigDict, key: str, remedy: str) -> None:
    """Raises a UserError that names a key, its value and the remedy, unless the condition holds."""
    if not condition:
        raise UserError(f"config.{key} is {keys.flatten(ordered(config)).get(key)!r}: it {remedy}")


def _check_unknown(config: ConfigDict, known: keys.Keys) -> None:
    """Refuses keys that a recipe file sets and nothing reads."""

    def look(section: Mapping, known: keys.Keys, parents: tuple[str, ...]) -> None:
        for name, value in section.items():
            key = keys.get(known, name)
            if key is None:
                raise UserError(
                    f"the recipe sets the key {'.'.join((*parents, name))!r}, which does not exist"
                    f"{keys.near(name, known, parents)}"
                )
            if isinstance(key, Mapping) and isinstance(value, Mapping):
                look(value, key, (*parents, name))

    look(ordered(config), known, ())


def _check_overrides(known: keys.Keys, overrides: Sequence[str]) -> None:
    """Raises a UserError that names the first key that the recipe does not have."""
    for key in (match[1] for match in map(_OVERRIDE.match, overrides) if match):
        section, parents = known, ()
        for part in (part.split("[")[0] for part in key.split(".")):
            if isinstance(section, Key) and section.open:
                break
            if not isinstance(section, Mapping) or keys.get(section, part) is None:
                names = section if isinstance(section, Mapping) else ()
                raise UserError(f"config has no key {key!r}{keys.near(part, names, parents)}")
            section, parents = keys.get(section, part), (*parents, part)


# Resuming


def incompatible(theirs: Mapping, config: ConfigDict, where: str) -> None:
    """Makes sure that a run of one recipe may go on with another: that its steps compute the same.

    Args:
      theirs: the recipe that the run was begun with, as plain data.
      config: the recipe it is to go on with.
      where: the run, for the message.

    Raises:
      UserError: names the first key that differs.
    """
    theirs, mine = keys.flatten(ordered(from_dict(theirs))), keys.flatten(ordered(config))
    known = keys_of(config)
    changed = [key for key in keys.differing(theirs, mine) if not _is_runtime(known, key)]
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        raise UserError(
            f"{where} was made by another config: {changed[0]} is {theirs.get(changed[0])!r} there and "
            f"{mine.get(changed[0])!r} here{more}; give the run another --workdir"
        )


def _is_runtime(known: keys.Keys, path: str) -> bool:
    """Whether a key says how a run is carried out, not what it computes."""
    parts = path.split(".")
    if parts[:3] == ["distill", "mix", "sets"]:  # And each set of a mixture has them.
        path = ".".join(["data", *parts[4:]])
    elif parts[0] in known and "data" in parts[1:-1]:  # A stage's own `data` has the keys of `data`.
        path = ".".join(parts[parts.index("data", 1) :])
    key = keys.find(known, path)
    drawn = parts[0] == "tasks" and parts[2:] in (["names"], ["palette"])  # These say how classes are drawn alone.
    return drawn or (key is not None and key.runtime)


def check_workdir(config: ConfigDict, workdir: epath.Path) -> None:
    """Makes sure that a workdir with checkpoints was made by the same config.

    Raises:
      UserError: the workdir is another config's; names the first keys that differ.
    """
    if not (workdir / "checkpoints").exists():
        return
    try:
        theirs = json.loads((workdir / "config.json").read_text())
        from_dict(theirs)
    except (OSError, ValueError, TypeError, AttributeError):
        return  # Each checkpoint holds its own.
    incompatible(theirs, config, str(workdir))


# Plain data


def from_dict(values: Mapping) -> ConfigDict:
    """The config that a run or a checkpoint holds as JSON.

    Raises:
      UserError: it holds no recipe, or one of a method that is not known here.
    """
    if not isinstance(values, Mapping):
        raise UserError("the recipe that is kept with the run is damaged: it is no section of keys")
    method = values.get("method")
    if method is None:  # Before methods had names.
        encoder = values.get("model", {}).get("encoder", {})
        method = "foundation" if encoder.get("model") else "sak"
    config = base(method)
    try:
        model = values.get("model", {})
        if method == "sak" and isinstance(model.get("remat"), bool):  # It was a flag.
            values = {**values, "model": {**model, "remat": "full" if model["remat"] else "none"}}
        with config.unlocked():
            config.update(values)
        config.image_size = tuple(config.image_size)
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"the recipe kept with the run is none of this version: {error}") from error
    return config


def plain(config: ConfigDict) -> dict:
    """The config as JSON has it."""
    return json.loads(config.to_json())


def teachers(config: ConfigDict) -> dict:
    """The section `teachers`, as `ordered` gives it; empty where the method has none."""
    return ordered(config).get("teachers", {})


def ordered(section: ConfigDict) -> dict:
    """A section as a plain dict in the order in which the recipe gives it, where ConfigDict's own iteration sorts.

    Raises:
      UserError: a value that is not plain data.
    """
    try:
        return json.loads(section.to_json())
    except TypeError as error:
        raise UserError(f"the recipe holds what is not plain data ({error}): give names, numbers and texts") from error
