"""Where data sets keep what they found out, to find it out once."""

import contextlib
import os
import tempfile

import numpy as np


def folder(name: str) -> str:
    """A folder that can be written: `~/.cache/sak_jax/NAME`, or below the temporary folder where there is no home."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    places = (
        [home] if os.path.isabs(home) else []
    )  # "~" is left as it is where there is neither HOME nor a user's entry
    for place in (*places, os.path.join(tempfile.gettempdir(), f"sak_jax_cache_{os.getuid()}")):
        path = os.path.join(place, "sak_jax", name)
        with contextlib.suppress(OSError):
            os.makedirs(path, mode=0o700, exist_ok=True)
            if os.access(path, os.W_OK | os.X_OK):
                return path
    return tempfile.mkdtemp(prefix="sak_jax_cache_")


def write(path: str, content: np.ndarray | bytes) -> None:
    """Writes a file, of an array as `.npy`, whole or not at all, from any number of processes.

    Raises:
      OSError: a full disk, or the like.
    """
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content) if isinstance(content, bytes) else np.save(file, content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def stamp(path: os.PathLike | str) -> str:
    """Size and time of change of a file. (epath's `stat` asks for the owner's name, which some owners lack.)"""
    if "://" in os.fspath(path):
        from etils import epath

        found = epath.Path(path).stat()
        return f"{found.length} {found.mtime}"
    found = os.stat(path)
    return f"{found.st_size} {found.st_mtime_ns}"
