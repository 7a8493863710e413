"""What all command lines share: flags, recipes with their overrides, and one line and a status for what goes wrong."""

import argparse
import contextlib
import errno
import functools
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from etils import epath
from ml_collections import ConfigDict

from sak_jax import keys, paths, recipe, recipe_files
from sak_jax.errors import EndedEarly, Stopped, UserError

_CANNOT_PRINT = (errno.ENOSPC, errno.EIO, errno.EBADF)
_OVERRIDE = re.compile(r"--?(?:no)?config\.")


def count(text: str) -> int:
    """A flag's whole number, 1 or more, as `type=` of `add_argument`."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A flag's whole number, 0 or more."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not re.fullmatch(r"\d+", text, re.ASCII) or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, {least} or more")
    return int(text)


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
        words = "configs/NAME.py[:key=value,..], or the NAME of one of the package's; --config.KEY=VALUE sets a key"
        self.add_argument("--config", metavar="RECIPE", help=words)
        options, options.overrides = self.parse_known_args(argv)
        for argument in options.overrides:
            if argument.startswith("--") and not _OVERRIDE.match(argument):
                flag = argument.partition("=")[0]
                self.error(f"there is no flag {flag}{keys.near(flag, self._option_string_actions)}")
        if options.config is None:
            self.error("--config is missing: give a recipe, e.g. --config=configs/rooms.py")
        return options, recipe.load(options.config, options.overrides)


def workdir(options: argparse.Namespace) -> epath.Path:
    """Where a run lies: `--workdir`, else `runs/NAME` after the recipe.

    Raises:
      UserError: `--workdir` is empty.
    """
    if options.workdir == "":
        raise UserError("--workdir is empty (an unset variable?): give a folder, or leave it out for runs/NAME")
    return paths.given(options.workdir or f"runs/{recipe_files.name_of(options.config)}")


def show_progress() -> None:
    """Shows what the package logs, and of its libraries nothing but errors."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("sak_jax").setLevel(logging.INFO)
    # Orbax warns of what is as it should be, and its threads print hundreds of lines of what it raises besides.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def exit_status(main: Callable[[Sequence[str] | None], None]) -> Callable[..., int]:
    """A command line that returns its exit status: 0 done, 2 the user's mistake, 1 a run that ended early.

    The latter two are said in one line on stderr; any other exception is a defect, and leaves its traceback.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            with _ended_as_interrupted():
                main(argv)
                sys.stdout.flush()
        except (UserError, EndedEarly, Stopped) as error:
            _close_progress()
            # Under Slurm all processes write into one file, and the first says for all that they were stopped.
            if not isinstance(error, Stopped) or os.environ.get("SLURM_PROCID", "0") == "0":
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return _left(2 if isinstance(error, UserError) else 1)
        except KeyboardInterrupt:  # Where nothing has to be saved.
            _close_progress()
            print("error: interrupted; run the same command to go on", file=sys.stderr)
            return _left(1)
        except BrokenPipeError:  # Whoever read the output has had enough of it.
            _forget_stdout()
            return 1
        except OSError as error:
            if error.filename is not None or error.errno not in _CANNOT_PRINT:
                _left(1)
                raise
            _forget_stdout()
            print(f"error: nothing can be printed ({error.strerror}): give the output another place", file=sys.stderr)
            return _left(1)
        except Exception:
            _left(1)
            raise
        return 0

    return run


def _left(status: int) -> int:
    """The status, after it is seen to that other processes of the run cannot keep this one from ending with it."""
    if hosts := sys.modules.get("sak_jax.engine.hosts"):
        hosts.leave(status)
    return status


def _close_progress() -> None:
    """Ends the lines of progress bars, so that an error has one of its own."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()


@contextlib.contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Within it SIGTERM is as Ctrl-C, unless somebody has seen to it: what was begun is cleared away."""
    free = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if free:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if free:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _forget_stdout() -> None:
    """Keeps Python from complaining of what it could not print when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
