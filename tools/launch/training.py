"""What all launchers share: the training command that follows `--`, and the running of other programs."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

import yaml

from sak_jax.errors import EndedEarly, UserError

MODULE = ("python", "-m", "sak_jax.main")


def split(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The launcher's own flags, and those of training, which follow `--`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own = argv.index("--") if "--" in argv else len(argv)
    return argv[:own], argv[own + 1 :]


def check(training: Sequence[str], shared: Sequence[str]) -> None:
    """Makes sure that training has a recipe, and a workdir that all hosts see.

    Args:
      training: the flags of `sak_jax.main`.
      shared: what the path of a workdir that all hosts see begins with.

    Raises:
      UserError: what is missing.
    """
    flags = {flag.partition("=")[0]: flag.partition("=")[2] for flag in training}
    if not flags.get("--config"):
        raise UserError("the training command is missing: .. -- --config=configs/NAME.py --workdir=DIR")
    if not flags.get("--workdir", "").startswith(tuple(shared)):
        raise UserError(
            f"--workdir={flags.get('--workdir', '')}: all hosts must see it; it is to begin with {shared[0]}"
        )


def check_name(name: str) -> str:
    """`name` itself. Raises UserError unless it can name a machine or job everywhere."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        raise UserError(f"the name {name!r} must be lower-case letters, digits and hyphens, 40 at most")
    return name


class Programs:
    """Runs other programs, or prints them.

    Args:
      dry_run: print the commands instead.
    """

    def __init__(self, dry_run: bool):
        self.dry_run = dry_run

    def run(self, *command: str, check: bool = True, stdin: str | None = None) -> int:
        """Runs a command with its output shown, and returns its exit status.

        Raises:
          UserError: the program is not installed.
          EndedEarly: it failed, and `check` is set.
        """
        print(shlex.join(command), flush=True)
        if self.dry_run:
            return 0
        status = subprocess.run([_find(command[0]), *command[1:]], input=stdin, text=True).returncode
        if status and check:
            raise EndedEarly(f"{' '.join(command[:5])} .. ended with status {status}")
        return status

    def ask(self, *command: str) -> tuple[int, str, str]:
        """Runs a command without showing it; its exit status, output and errors."""
        done = subprocess.run([_find(command[0]), *command[1:]], capture_output=True, text=True)
        return done.returncode, done.stdout.strip(), done.stderr.strip()


def _find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise UserError(f"{program} is not installed or not in PATH; --dry_run shows what would run")
    return found


def environment(pairs: Sequence[str]) -> dict[str, str]:
    """`--env=NAME=VALUE`s as a dict. Raises UserError."""
    for pair in pairs:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", pair, re.DOTALL):
            raise UserError(f"--env={pair}: write NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def to_yaml(tree: dict) -> str:
    """As people write it: keys in their order, long texts as blocks, nothing abbreviated."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=1000)
