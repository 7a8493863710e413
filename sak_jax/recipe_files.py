"""Recipe files: where they are, and the config that one gives."""

import importlib.util
import os
import re
import sys
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from sak_jax.errors import UserError


def find(name: str) -> Path:
    """A recipe's file: a path, or the name of a recipe that comes with the package.

    Raises:
      UserError: there is none.
    """
    path = Path(os.path.expanduser(name))
    if path.is_file():
        return path
    packaged = Path(__file__).parent / "configs" / f"{name}.py"
    checkout = Path(__file__).parents[1] / "configs" / f"{name}.py"
    for candidate in (packaged, checkout):
        if re.fullmatch(r"\w+", name) and candidate.is_file():
            return candidate
    known = sorted(file.stem for folder in {packaged.parent, checkout.parent} for file in folder.glob("*.py"))
    raise UserError(
        f"the recipe can't be loaded: there is no file {name}; give a path, or one of {', '.join(dict.fromkeys(known))}"
    )


def name_of(path: str) -> str:
    """`NAME` of `configs/NAME.py:key=value`."""
    return os.path.splitext(os.path.basename(path.split(":")[0]))[0]


def get_config(file: Path, text: str) -> ConfigDict:
    """What a recipe file's `get_config(text)` gives.

    Raises:
      UserError: the file's own mistake, by file and line, or no config.
    """
    specification = importlib.util.spec_from_file_location(f"sak_jax_recipe_{file.stem}", file)
    if specification is None or specification.loader is None:
        raise UserError(f"{file}: a recipe is a Python file with get_config(); this is none")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # What it brings (a kind of task, say) can then be pickled.
    try:
        specification.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"{file}: a recipe defines get_config(text), which gives its config; this file does not")
        config = module.get_config(text)
    except UserError:
        raise
    except SyntaxError as error:
        where = f"{error.filename or file}" + (f", line {error.lineno}" if error.lineno else "")
        raise UserError(f"{where}: {error.msg}; mend the recipe") from error
    except SystemExit as error:
        raise UserError(f"{file}: ends Python by itself (exit {error.code}); a recipe gives a config") from error
    except Exception as error:  # noqa: BLE001 - a recipe is the user's own Python
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f"{file}, line {lines[-1]}" if lines else str(file)
        raise UserError(f"{where}: {type(error).__name__}: {error}; mend the recipe") from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"{file}: get_config() gives {type(config).__name__}, not a ConfigDict: start from recipe.base()"
        )
    return config
