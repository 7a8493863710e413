"""Keys of a recipe that methods which distil share: teachers, data in groups, standardised features, dropping."""

from collections.abc import Mapping

from ml_collections import ConfigDict

from sak_jax import data, keys, recipe
from sak_jax.data import mixture
from sak_jax.errors import UserError
from sak_jax.keys import Key

STANDARDISE = ("none", "batch", "running", "frozen", "phi_s")
"""How teacher features may be standardised, see `statistics`."""
DROPPING = ("none", "lowest_loss", "own", "own+generic")
"""Which teachers an image may teach with, see `dropping`."""

TEACHER = {
    "model": Key(""),  # A key of the registry of teachers.
    # Of the images it gets: the student's own, or what its weights were trained with.
    "normalisation": Key("imagenet", choices=("imagenet", "native")),
    "pad": Key(True),  # SAM's images are padded to 1024 x 1024.
    "crop": Key(False),  # The padded part of SAM's maps is left out.
    "group": Key(""),  # Of the data that it knows, for dropping by group.
}

TEACHERS = {
    "random": Key(False),  # Random teachers, to try a recipe out without weights.
    "dir": Key("", runtime=True),  # Where converted weights lie; "" is ~/.cache/sak_jax/teachers.
    # Of their weights and computation; "" is bfloat16 on accelerators and float32 on CPUs.
    "dtype": Key("", choices=("", "float32", "bfloat16")),
}

DISTILL = {
    "standardise": Key("none", choices=STANDARDISE),
    # Share of a step's batch in the running statistics: half a cosine from the first value to the last.
    "momentum": Key((1.0, 0.001), at_least=0, at_most=1, length=2),
    "measure": Key(16, above=0),  # Batches that `frozen` and `phi_s` take their statistics from, before the first step.
    "dropping": Key("none", choices=DROPPING),
    "drop_probability": Key(0.5, at_least=0, at_most=1),  # Of `lowest_loss`.
    "generic": Key(()),  # Groups of data whose images teach all teachers, for `own+generic`.
    "data": Key({}, open=True),  # What differs from `data` in distillation, which reads the images without labels.
    "mix": {  # Several data sets at once, in the place of that one.
        "sets": Key({}, open=True),  # {name: {"name": a data set, "group": .., and its keys as in `data`}}.
        "balance": Key("group", choices=mixture.BALANCES),  # What has an equal share: each group, or each image.
        "missing": Key("raise", choices=("raise", "leave_out")),  # What becomes of sets whose root is not there.
    },
}
"""`config.distill`."""


def selected_teachers(config: ConfigDict) -> dict[str, dict]:
    """The recipe's teachers and their settings, in its order."""
    rows = recipe.ordered(config.teachers).items()
    return {name: settings for name, settings in rows if name not in TEACHERS and isinstance(settings, dict)}


def distill_data(config: ConfigDict) -> dict:
    """`config.data` as distillation reads it."""
    return recipe.ordered(config.data) | recipe.ordered(config.distill.data)


def mix(config: ConfigDict) -> dict[str, dict]:
    """The rows of `distill.mix.sets`, what they do not say as in `distill_data`; none for one data set."""
    shared = {key: value for key, value in distill_data(config).items() if key in data.KEYS}
    rows = recipe.ordered(config.distill.mix.sets)
    return {name: shared | {"root": ""} | row for name, row in rows.items()}


def groups(config: ConfigDict) -> tuple[str, ...]:
    """The groups of data, in the order of their numbers."""
    return mixture.groups(row.get("group", "") for row in mix(config).values())


def own_groups(config: ConfigDict) -> dict[str, tuple[int, ...]]:
    """Groups by number, as `dropping.kept` takes them: `own`, each teacher's (-1 for none), and `generic`."""
    number = {group: index for index, group in enumerate(groups(config))}
    rows = sorted(selected_teachers(config).items())
    return {
        "own": tuple(number.get(row.get("group", ""), -1) for _, row in rows),
        "generic": tuple(number[group] for group in config.distill.generic if group in number),
    }


def check_images(config: ConfigDict) -> None:
    """Makes sure that the data of distillation is what its data sets know.

    Raises:
      UserError: names the key.
    """
    rows = mix(config)
    if not rows:
        settings = distill_data(config)
        keys.check(settings, data.keys(settings["name"]), ("distill.data",))
    for name, row in recipe.ordered(config.distill.mix.sets).items():
        where = f"distill.mix.sets.{name}"
        if not isinstance(row, Mapping) or not row.get("name") or not row.get("group"):
            raise UserError(f"config.{where} must have the name of a data set and its group")
        known = {key: value for key, value in data.keys(row["name"]).items() if key not in data.READING}
        keys.check(row, known | {"group": Key("")}, (where,))


def check_following(config: ConfigDict) -> None:
    """Makes sure that teachers can be dropped as the recipe says, and that generic groups are groups.

    Raises:
      UserError: names the key.
    """
    from sak_jax.methods.distillation import dropping  # Brings JAX, without which a recipe can be read.

    settings, known = config.distill, groups(config)
    teachers = dict(sorted(selected_teachers(config).items()))
    for name, row in teachers.items():
        if not row.get("model"):
            raise UserError(f"config.teachers.{name} lacks its model: give it a key of the registry of teachers")
    own = [row.get("group", "") for row in teachers.values()]
    dropping.check(settings.dropping, settings.drop_probability, list(teachers), known, own)
    for group in settings.generic if settings.dropping == "own+generic" else ():
        if group not in known:
            raise UserError(f"config.distill.generic: {group!r} is none of the groups of data, {', '.join(known)}")
