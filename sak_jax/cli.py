"""What all command lines share: flags, recipes with their overrides, and one line and a status for what goes wrong."""

import argparse
import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from sak_jax.errors import EndedEarly, UserError

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")


class Parser(argparse.ArgumentParser):
    """Flags, written --name=value, with the module's docstring as help; mistakes are a `UserError`."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str):
        """Raises it as a `UserError`."""
        raise UserError(f"{message} (--help lists the flags)")

    def parse_recipe(self, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, ConfigDict]:
        """The flags, `--config=RECIPE` among them, and the recipe with its overrides `--config.KEY=VALUE`.

        The attribute `overrides` of the flags holds the latter as they were given.

        Raises:
          UserError: anything wrong with either.
        """
        self.add_argument("--config", metavar="RECIPE", help="configs/NAME.py[:key=value,..]; --config.KEY=VALUE sets")
        options, options.overrides = self.parse_known_args(argv)
        for argument in options.overrides:
            if argument.startswith("--") and not _OVERRIDE.match(argument):
                flag = argument.partition("=")[0]
                self.error(f"there is no flag {flag}{_near(flag, self._option_string_actions)}")
        if options.config is None:
            self.error("--config is missing: give a recipe, e.g. --config=configs/rooms.py")
        return options, recipe(options.config, options.overrides)


def recipe(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The recipe `configs/NAME.py[:key=value,..]` with `--config.KEY=VALUE`s, each of its value's type.

    Raises:
      UserError: no such file, a mistake in the recipe's arguments, an unknown key, a value of another type.
    """
    argv = ["", f"--config={path}", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    try:
        rest = values(argv)
        values.config.seed  # noqa: B018 - a recipe that could not be loaded says so when it is first looked at
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OSError, flags.Error) as error:
        if isinstance(error, AttributeError | KeyError):
            _check_keys(values["config"].parser.parse(path), overrides)
        text = str(error).strip()
        if isinstance(error, OSError):
            text = f"the recipe can't be loaded: {text.splitlines()[-1].strip()}"
        elif "Traceback" in text:  # The flags' library quotes that of a recipe that refused its arguments.
            text = text.splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")
        raise UserError(text) from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: options are written --name=value")
    return values.config


def recipe_name(path: str) -> str:
    """`NAME` of `configs/NAME.py:key=value`."""
    return os.path.splitext(os.path.basename(path.split(":")[0]))[0]


def _check_keys(config: Mapping, overrides: Sequence[str]) -> None:
    """Raises a UserError that names the first key that the recipe does not have."""
    for key in (match[1] for match in map(_OVERRIDE.match, overrides) if match):
        section, parents = config, []
        for part in (part.split("[")[0] for part in key.split(".")):
            if not isinstance(section, ConfigDict) or part not in section:
                raise UserError(f"config has no key {key!r}{_near(part, section, parents)}")
            section, parents = section[part], [*parents, part]


def _near(name: str, known: object, parents: Sequence[str] = ()) -> str:
    """`: did you mean ..?`, or all that could have been meant, or nothing."""
    names = sorted(known) if isinstance(known, Mapping | ConfigDict) else []
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f": did you mean {'.'.join([*parents, *near])}?"
    return f": {'.'.join(['config', *parents])} has {', '.join(names)}" if parents and names else ""


def exit_status(main: Callable[[Sequence[str] | None], None]) -> Callable[..., int]:
    """A command line that returns its exit status: 0 done, 2 the user's mistake, 1 a run that ended early.

    The latter two are said in one line on stderr; any other exception is a defect, and leaves its traceback.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            main(argv)
        except (UserError, EndedEarly) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2 if isinstance(error, UserError) else 1
        except KeyboardInterrupt:  # Before or after training, which takes Ctrl-C as a wish to save and stop.
            print("error: interrupted; run the same command to go on", file=sys.stderr)
            return 1
        return 0

    return run
