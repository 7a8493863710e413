"""One run at a time in a workdir."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator

from etils import epath

from sak_jax import paths
from sak_jax.engine import mesh as meshes
from sak_jax.errors import UserError

NAME = ".lock"


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Within it no other run trains in this workdir; the system lets go of it when the process ends, however.

    On `gs://`, and where the file system knows no locks, nothing is locked. Of several processes the first holds it.

    Raises:
      UserError: another run holds it (says which), or the workdir cannot be written.
    """
    if paths.is_remote(workdir) or not meshes.is_main():
        yield
        return
    import fcntl

    file = workdir / NAME
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise paths.unwritable(workdir, error) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{workdir} is in use by {_holder(file)}: wait for it, stop it, or give another --workdir"
            ) from error
        except OSError:
            pass  # No locks here.
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(file: epath.Path) -> str:
    try:
        found = json.loads(file.read_text())
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run"
