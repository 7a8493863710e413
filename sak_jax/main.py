"""The command line: `python -m sak_jax.main --config=configs/rooms.py [--workdir=DIR] [--mode=train|evaluate]`."""

import logging
import os
import sys
import time

from absl import flags
from etils import epath
from ml_collections import config_flags

from sak_jax import files
from sak_jax.errors import EndedEarly, UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, configs/NAME.py[:key=value,..].")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lies; runs/NAME by default.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "Train and evaluate, or evaluate only.")


def main() -> int:
    """Runs a recipe; returns the exit status (0 done, 2 the user's mistake, 1 anything else)."""
    started = time.monotonic()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("sak_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of what is as it should be.
    try:
        _parse(sys.argv)
        workdir = epath.Path(_workdir())
        files.check_remote(workdir, _CONFIG.value.init_from, _CONFIG.value.teachers.dir)
        from sak_jax import runner  # After parsing: a mistyped flag is told before JAX is imported.

        runner.start_jax(_CONFIG.value)
        runner.run(_CONFIG.value, workdir, _MODE.value, started)
    except (UserError, flags.Error) as error:
        return _say(error, status=2)
    except EndedEarly as error:
        return _say(error, status=1)
    return 0


def _say(error: Exception, status: int) -> int:
    text = str(error).strip()
    if "Traceback" in text:  # The flag's library quotes the traceback of a recipe that refused its arguments.
        text = text.splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return status


def _parse(argv: list[str]) -> None:
    """Parses the flags; whatever is wrong with them is a `UserError`."""
    try:
        rest = flags.FLAGS(argv)
        flags.FLAGS.config  # noqa: B018 - reads the file
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{error}") from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: options are written --name=value")
    if _CONFIG.value is None:
        raise UserError("--config is missing: give a recipe, e.g. --config=configs/rooms.py")
    try:
        _CONFIG.value.seed  # noqa: B018 - a recipe that could not be loaded says so when it is first looked at
    except OSError as error:
        raise UserError(f"the recipe can't be loaded: {str(error).splitlines()[-1].strip()}") from error


def _workdir() -> str:
    if _WORKDIR.value:
        return _WORKDIR.value
    path = next(argument for argument in sys.argv if argument.startswith(("--config=", "-config=")))
    file = path.split("=", 1)[1].split(":")[0]
    return os.path.join("runs", os.path.splitext(os.path.basename(file))[0])


if __name__ == "__main__":
    sys.exit(main())
