"""Worker processes when something is killed, or memory is short. Real processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sak_jax.data import workers

pytestmark = pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="shared memory lies in /dev/shm on Linux")
ROOT = Path(__file__).parents[2]


def is_alive(pid):
    """Whether a process runs; a zombie, whose parent has not looked yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def within(seconds, condition):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def left(prefix):
    return [name for name in os.listdir("/dev/shm") if name.startswith(prefix)]


@contextlib.contextmanager
def loading(*arguments, **options):
    """The loader as a process of its own, with the prefix of its shared memory and its two workers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.loading", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip
    try:
        prefix, *pids = process.stdout.readline().split()
        assert len(pids) == 2 and all(is_alive(pid) for pid in pids)
        yield process, prefix, [int(pid) for pid in pids]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_workers_outlive_signals_to_all_and_end_with_a_parent_that_was_killed():
    with loading() as (process, prefix, pids):
        workers.free_abandoned()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        time.sleep(1)
        assert all(is_alive(pid) for pid in pids)
        assert within(30, lambda: left(prefix))  # Nothing for a moment, where the reader is faster than the workers.
        process.kill()
        assert within(15, lambda: not any(is_alive(pid) for pid in pids))
        assert within(15, lambda: not left(prefix))


def test_what_a_killed_group_left_is_freed_at_the_next_start_and_a_killed_worker_is_one_line():
    with loading() as (process, prefix, pids):
        owner = prefix.removesuffix("0_")
        os.killpg(process.pid, signal.SIGKILL)
        assert within(10, lambda: not any(is_alive(pid) for pid in pids))
        Path(f"/dev/shm/{prefix}0123").write_bytes(bytes(1000))
    assert left(owner) and left(f"sem.{owner}")
    with loading() as (process, other, pids):
        assert not left(owner) and not left(f"sem.{owner}") and within(30, lambda: left(other))
        os.kill(pids[0], signal.SIGKILL)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 1 and error.count("\n") == 1, error
        assert error.startswith("error: a worker process was killed") and "/dev/shm" in error
        assert "data.workers=0" in error
        assert not any(is_alive(pid) for pid in pids)
        assert within(10, lambda: not left(other) and not left(f"sem.{other.removesuffix('0_')}"))


def small_shared_memory(size):
    """A command that runs another with so little shared memory, or None where that is not allowed."""
    command = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh"]
    tried = subprocess.run([*command, "true"], capture_output=True) if shutil.which("unshare") else None
    return command if tried and tried.returncode == 0 else None


def test_little_shared_memory_is_one_line():
    command = small_shared_memory("8m")
    if command is None:
        pytest.skip("mounting is not allowed here")
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.faults.loading", "3"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: the worker processes have too little shared memory; /dev/shm has 8 MB")
    assert "data.workers=0" in done.stderr and done.stderr.count("\n") == 1
