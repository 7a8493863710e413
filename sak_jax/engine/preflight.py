"""What is made sure of before several processes train together: one code, one recipe, one workdir."""

import hashlib
import importlib.metadata
import platform
import secrets
from collections.abc import Mapping
from pathlib import Path

import jax
from etils import epath

from sak_jax import paths
from sak_jax.engine import hosts
from sak_jax.engine import mesh as meshes
from sak_jax.errors import UserError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "opencv-python-headless")
"""Those whose version may change what a step computes or what batches hold."""


def agree(config: Mapping[str, object], workdir: epath.Path) -> None:
    """Makes sure that all processes of a run have the same code, packages, recipe and workdir.

    Args:
      config: the recipe, by key.
      workdir: of the run.

    Raises:
      UserError: says what differs, and for which process.
    """
    if jax.process_count() == 1:
        return
    if set("*?[") & set(str(workdir)):  # Alone, a process has a link of its own, see `paths.without_patterns`.
        raise UserError(f"--workdir={workdir}: several processes want a name without *, ? and [: give another one")
    facts = {"the code of sak_jax": code(), "Python": platform.python_version()}
    facts |= {name: _version(name) for name in PACKAGES}
    facts |= {f"config.{key}": value for key, value in config.items()}
    hosts.agree(facts | {"--workdir": str(workdir)})


def code() -> str:
    """A short name of the package's source, as it lies on this host."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _leave(file: epath.Path, token: str) -> None:
    if not meshes.is_main():
        return
    try:
        paths.write_text(file, token)
    except OSError as error:
        raise paths.unwritable(file.parent, error) from error


def shared(workdir: epath.Path) -> None:
    """Makes sure that all processes see what process 0 writes into the workdir.

    Raises:
      UserError: names a process that does not.
    """
    if jax.process_count() == 1:
        return
    token = hosts.gather_texts(secrets.token_hex(8))[0]
    file = workdir / f".seen_{token}"
    hosts.together(lambda: _leave(file, token))
    seen = hosts.gather_texts("seen" if file.exists() else "")
    if meshes.is_main():
        file.unlink()
    blind = [index for index, text in enumerate(seen) if not text]
    if blind:
        raise UserError(
            f"process {blind[0]} does not see what process 0 writes into {workdir}: give a --workdir that all hosts "
            "share, on gs:// or a network file system"
        )
