"""Paths, local or `gs://`, and writing files whole or not at all."""

import errno
import functools
import importlib.util
import os
import shutil

from etils import epath

from sak_jax.errors import UserError


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is an object store's, `gs://..`."""
    return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """The path from the root. (`epath` takes `gs://bucket` for a local folder when it resolves it.)"""
    return epath.Path(path) if is_remote(path) else epath.Path(path).resolve()


def check_remote(*paths: epath.PathLike) -> None:
    """Makes sure that those of `paths` that are `gs://` can be used.

    Raises:
      UserError: a package or credentials are missing, or there is no such bucket; tells the remedy.
    """
    for path in filter(is_remote, paths):
        scheme, _, rest = os.fspath(path).partition("://")
        if scheme != "gs":
            raise UserError(f"{os.fspath(path)}: paths are local or gs://, not {scheme}://")
        _check_bucket(rest.split("/")[0])


@functools.cache
def _check_bucket(bucket: str) -> None:
    missing = [name for name in ("gcsfs", "google.auth") if not _installed(name)]
    if missing:
        raise UserError(f"gs://{bucket}: gs:// needs the package {missing[0]}: pip install -e '.[gcs]'")
    import google.auth

    try:
        # Without them the readers in C++ wait for minutes, silently. An emulator asks for none.
        if "STORAGE_EMULATOR_HOST" not in os.environ:
            google.auth.default()
        if not epath.Path(f"gs://{bucket}").is_dir():
            raise UserError(f"gs://{bucket} is not there, or is not yours to list: make the bucket, or name another")
    except google.auth.exceptions.GoogleAuthError as error:
        raise UserError(f"gs://{bucket}: no credentials: gcloud auth application-default login") from error
    except OSError as error:
        raise UserError(f"gs://{bucket} cannot be reached ({' '.join(str(error).split())})") from error


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package around it
        return False


def write_bytes(file: epath.PathLike, content: bytes) -> None:
    """Writes to a temporary name beside `file`, then renames over it; makes the folder where it is missing."""
    file = epath.Path(file)
    if is_remote(file):  # There are no folders, and an object appears whole.
        file.write_bytes(content)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.parent / f".{file.name}.tmp"
    temporary.write_bytes(content)
    temporary.replace(file)


def write_text(file: epath.PathLike, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(file, text.encode())


def reason(error: BaseException, path: epath.PathLike) -> str:
    """Why a file could not be written, in a few words: with the room that is left where the disk is full."""
    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(causes[0]).split())
    if any(getattr(cause, "errno", None) == errno.ENOSPC or "No space left" in str(cause) for cause in causes):
        return f"the disk is full: {_free(path)} MB are left"
    return text[:200] or type(error).__name__


def _free(path: epath.PathLike) -> str:
    folder = epath.Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.0f}"
    except OSError:
        return "few"
