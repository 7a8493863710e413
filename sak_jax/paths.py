"""Paths, local or `gs://`, and writing files whole or not at all."""

import atexit
import contextlib
import errno
import functools
import importlib.util
import os
import shutil
import tempfile

from etils import epath

from sak_jax.errors import UserError


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path is an object store's, `gs://..`."""
    return "://" in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """The path from the root. (`epath` takes `gs://bucket` for a local folder when it resolves it.)"""
    return epath.Path(path) if is_remote(path) else epath.Path(path).resolve()


def without_patterns(folder: epath.PathLike) -> epath.Path:
    """A path from the root to a folder that is there, for libraries that look for files below it by patterns.

    Where its name holds `*`, `?` or `[`, it is a link to it in a temporary folder, which goes with the process.
    """
    path = absolute(folder)
    if is_remote(path) or not set("*?[") & set(os.fspath(path)):
        return path
    holder = tempfile.mkdtemp(prefix="sak_jax_link_")
    atexit.register(shutil.rmtree, holder, ignore_errors=True)
    link = epath.Path(holder) / "folder"
    os.symlink(path, link)
    return link


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


def given(path: epath.PathLike, *, flag: str = "") -> epath.Path:
    """A path as a user gives it: `~` is the home folder, and `gs://` can be used.

    Args:
      path: of a file or a folder.
      flag: the option that gave it, for messages.

    Raises:
      UserError: nothing, a null character, a `~` without a home folder, another kind of address, or see `check_remote`.
    """
    if not os.fspath(path):
        raise UserError(f"{flag or 'a path'} is empty (an unset variable?): give a file or a folder, . for this one")
    if "\0" in os.fspath(path):
        text = f"{flag}={os.fspath(path)!r}".removeprefix("=")
        raise UserError(f"{text} holds a null character, which no path can: give another one")
    check_remote(path)
    path = epath.Path(os.path.expanduser(path))
    if os.fspath(path).startswith("~"):
        raise UserError(f"{path}: there is no home folder for ~; give the whole path")
    return path


def check_output(path: epath.PathLike, *, force: bool = False, flag: str = "--output") -> epath.Path:
    """The file that a tool is to write, checked before the work begins.

    Args:
      path: of the file; folders above it may be missing.
      force: whether a file that is there may be replaced.
      flag: the option that gave the path, for messages.

    Raises:
      UserError: there is such a file already, or it can't be written; names the remedy.
    """
    file = given(path, flag=flag)
    try:
        if file.is_dir():
            raise UserError(f"{flag}={file} is a folder; give the name of a file")
        if file.exists() and not force:
            raise UserError(f"{flag}={file} is there already; give another name, or --force to replace it")
        if not is_remote(file):
            _probe(file)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{flag}={file} can't be written ({reason}); give another place") from error
    return file


def _probe(file: epath.Path) -> None:
    """Writes a byte where `file` is to be, or in the nearest folder there is."""
    folder = os.path.abspath(file.parent)
    while True:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(folder)
            break
        folder = os.path.dirname(folder)
    probe = os.path.join(folder, f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(probe, "wb") as opened:
            opened.write(b"0")
    finally:
        with contextlib.suppress(OSError):
            os.unlink(probe)


def cache_directory(name: str, *, writable: bool = True) -> epath.Path:
    """`~/.cache/sak_jax/NAME`, or a temporary folder of this user's where there is no home or it can't be written.

    Args:
      name: of the cache.
      writable: False takes a folder that is there although it can only be read.

    Returns:
      The folder; it need not exist yet.
    """
    home = os.environ.get("HOME", os.path.expanduser("~"))  # "~" stays without an entry in the user database
    if os.path.isabs(home) and os.path.isdir(home):
        folder = os.path.join(home, ".cache", "sak_jax", name)
        nearest = folder
        while not os.path.exists(nearest):
            nearest = os.path.dirname(nearest)
        readable = not writable and nearest == folder
        if os.path.isdir(nearest) and (readable or os.access(nearest, os.W_OK | os.X_OK)):
            return epath.Path(folder)
    return epath.Path(_temporary_directory()) / name


@functools.cache
def _temporary_directory() -> str:
    """A folder for this user's caches among the temporary ones."""
    folder = os.path.join(tempfile.gettempdir(), f"sak_jax-{os.getuid()}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if os.lstat(folder).st_uid == os.getuid() and os.path.isdir(folder) and not os.path.islink(folder):
            return folder
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="sak_jax-")  # The name is taken, perhaps by somebody else.


def write_bytes(file: epath.PathLike, content: bytes) -> None:
    """Writes a file whole or not at all: to a temporary name beside it, synced, then renamed over it.

    The folder is made where it is missing.

    Raises:
      OSError: it cannot be written; what was there before is as it was.
    """
    file = epath.Path(file)
    if is_remote(file):  # There are no folders, and an object appears whole.
        file.write_bytes(content)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.parent / f".{file.name}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())  # Else a power cut may leave the new name on an empty file.
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


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


def unwritable(workdir: epath.PathLike, error: OSError) -> UserError:
    """What to raise where nothing can be written into a run's workdir."""
    return UserError(f"--workdir={workdir} cannot be written ({reason(error, workdir)}): give another --workdir")


def _free(path: epath.PathLike) -> str:
    folder = epath.Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:.0f}"
    except OSError:
        return "few"
