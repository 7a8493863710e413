"""Worker processes of the pipeline: what they share in memory is freed, and what ends them is explained.

Arrays come from workers through files in `/dev/shm`. Those of this process carry a name of its own, and a lock beside
them: a lock that nobody holds was left by a process that was killed, and its files are removed at the next start.
"""

import atexit
import contextlib
import errno
import fcntl
import functools
import itertools
import os
import re
import secrets
import shutil
import signal
from collections.abc import Callable
from multiprocessing import current_process, resource_tracker, shared_memory

import cv2

from sak_jax import processes
from sak_jax.errors import EndedEarly

_FOLDER, _PREFIX, _LOCK = "/dev/shm", "sak_jax_", ".lock"
_GROUPS = itertools.count()
_EXIT_CODE = re.compile(r"exit code (-?\d+)")


class SharedMemory:
    """The shared memory of one group of workers."""

    def __init__(self):
        free_abandoned()
        self.prefix = f"{owner}{next(_GROUPS)}_" if (owner := _owner()) else ""

    def starter(self) -> Callable[..., None]:
        """What every worker process is to call first."""
        return functools.partial(start, self.prefix)

    def free(self) -> None:
        """Removes what workers that were killed have left; call it when none are alive."""
        if self.prefix:
            _remove(self.prefix)


def start(prefix: str, *_) -> None:
    """Makes this process a worker that names its shared memory `prefix..`."""
    processes.serve()
    if prefix:
        shared_memory._make_filename = lambda: f"/{prefix}{secrets.token_hex(8)}"
    one_thread()


def one_thread() -> None:
    """Keeps OpenCV from starting threads of its own beside the pipeline's."""
    cv2.setNumThreads(1)


def free_abandoned() -> None:
    """Removes the shared memory of processes that were killed before they could."""
    with contextlib.suppress(OSError):
        for name in os.listdir(_FOLDER):
            if name.startswith(_PREFIX) and name.endswith(_LOCK):
                with contextlib.suppress(OSError):  # Held, or another user's.
                    handle = os.open(os.path.join(_FOLDER, name), os.O_RDWR)
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        _remove(f"sem.{name.removesuffix(_LOCK)}")
                        _release(name.removesuffix(_LOCK), None)
                    finally:
                        os.close(handle)


@functools.cache
def _owner() -> str:
    """What the names of this process's shared memory and semaphores begin with; "" where there is no such folder."""
    try:
        prefix, lock = _lock()
    except OSError:
        return ""
    atexit.register(_release, prefix, lock)
    current_process()._config["semprefix"] = f"/{prefix}"
    return prefix


def _lock() -> tuple[str, int]:
    """A new prefix and the handle that holds its lock. Raises OSError where the folder cannot be written."""
    while True:
        prefix = f"{_PREFIX}{secrets.token_hex(6)}_"
        path = os.path.join(_FOLDER, f"{prefix}{_LOCK}")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(handle).st_ino:  # Else another process took it for abandoned.
                return prefix, handle
        os.close(handle)


def _release(prefix: str, lock: int | None) -> None:
    _remove(prefix)
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(_FOLDER, f"{prefix}{_LOCK}"))
    if lock is not None:
        os.close(lock)


def _remove(prefix: str) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(_FOLDER):
            if name.startswith(prefix) and not name.endswith(_LOCK):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(_FOLDER, name))
                    if not name.startswith("sem."):
                        # The library's record, lest it complain at the end; first made, as it may not be there.
                        resource_tracker.register(f"/{name}", "shared_memory")
                        resource_tracker.unregister(f"/{name}", "shared_memory")


def explained(error: Exception) -> EndedEarly | None:
    """What a failure of worker processes means and what to do; None if it is none."""
    found = _EXIT_CODE.search(str(error)) if isinstance(error, RuntimeError) else None
    if found is None and not isinstance(error, OSError):
        return None
    code = int(found[1]) if found else None
    if code == -signal.SIGBUS or getattr(error, "errno", None) == errno.ENOSPC:
        what = "the worker processes have too little shared memory"
    elif code == -signal.SIGKILL:
        what = "a worker process was killed, as the kernel does when memory runs out"
    else:
        what = f"a worker process ended with status {code}" if found else f"the worker processes failed ({error})"
    return EndedEarly(f"{what}; {_room()}: enlarge /dev/shm (docker run --shm-size=16g), take fewer, or data.workers=0")


def _room() -> str:
    try:
        room = shutil.disk_usage(_FOLDER)
    except OSError as error:
        return f"/dev/shm cannot be used ({error.strerror})"
    return f"/dev/shm has {room.total / 1e6:.0f} MB, {room.free / 1e6:.0f} of them free"
