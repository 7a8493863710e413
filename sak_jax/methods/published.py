"""Which method's code reads and writes published files."""

import importlib
from types import ModuleType

from etils import epath

from sak_jax import paths, recipe
from sak_jax.engine import checkpoints
from sak_jax.errors import UserError

METHODS = ("sak", "dune")
"""The methods whose students have a published naming; each has a module `published`."""


def of_method(name: str) -> ModuleType:
    """The module with `import_student` and `export_student`; raises UserError where the method has none."""
    if name not in METHODS:
        raise UserError(f"config.method is {name}: only students of {' and '.join(METHODS)} have published files")
    return importlib.import_module(f"sak_jax.methods.{name}.published")


def of_checkpoint(path: epath.PathLike) -> ModuleType:
    """The same, for the method that made a checkpoint; raises UserError where there is none."""
    return of_method(recipe.from_dict(checkpoints.read_config(paths.given(path))).method)
