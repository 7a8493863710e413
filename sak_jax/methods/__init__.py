"""Methods: what a recipe can train, one folder each, all answering the same questions.

A method is a module, or any object, with:

  keys() -> Keys                          the keys of a recipe that are its own, with defaults and ranges
  check(config, devices)                  refuses what cannot run, with a UserError
  stages(config) -> tuple[Stage, ..]      what is trained, in order
  student(config, stage, rngs) -> Module  the model of a stage, with fresh parameters
  architecture(config, stage) -> dict     what the arrays of a model and their meaning depend on, by name

`METHODS` holds those that come with the package; a recipe file brings its own by `register`.
"""

import importlib
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from sak_jax import keys
from sak_jax.errors import UserError

METHODS: dict[str, "str | Method"] = {
    "sak": "sak_jax.methods.sak.method",
    "foundation": "sak_jax.methods.foundation.method",
    "dune": "sak_jax.methods.dune.method",
}
"""Modules by name, imported when they are asked for, or what `register` was given."""


@runtime_checkable
class Method(Protocol):
    """The questions that a method answers, see the module's docstring."""

    def keys(self) -> keys.Keys:
        """The keys of a recipe that are its own, with defaults and ranges."""

    def check(self, config: Any, devices: int) -> None:
        """Refuses what cannot run."""

    def stages(self, config: Any) -> tuple:
        """What is trained, in order."""

    def student(self, config: Any, stage: str, rngs: Any) -> Any:
        """The model of a stage, with fresh parameters."""

    def architecture(self, config: Any, stage: str) -> dict[str, object]:
        """What the arrays of a model and their meaning depend on, by name."""


def register(name: str, method: Method) -> None:
    """Makes a method known under a name, so that a recipe can say `method = name`.

    Raises:
      UserError: the name belongs to a method of the package.
    """
    if isinstance(METHODS.get(name), str):
        raise UserError(f"the method {name!r} comes with the package: give yours another name")
    METHODS[name] = method


def get(name: str) -> "Method | ModuleType":
    """The method of a name.

    Raises:
      UserError: there is none.
    """
    if name not in METHODS:
        raise UserError(
            f"config.method is {name!r}: it must be one of {', '.join(METHODS)}, or registered by the recipe file"
        )
    method = METHODS[name]
    return importlib.import_module(method) if isinstance(method, str) else method
