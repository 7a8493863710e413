"""Worker processes of the loader and of the boundary score: how many, and what signals do to them."""

import os
import shutil
import subprocess
import sys

import pytest

from sak_jax import processes

EARLY = """
import multiprocessing, os, signal, threading, time
from sak_jax.boundary.pool import WorkerPool
from sak_jax.data import pipeline
from tests.faults.loading import Large, same

def signals():
    while len(children := multiprocessing.active_children()) < 2:
        time.sleep(0.01)
    for child in children:
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGTERM)

if __name__ == "__main__":
    threading.Thread(target=signals).start()
    {work}
else:
    time.sleep(2)  # A worker that is about to begin.
"""
SCORES = "print(sum(WorkerPool(2).map(pow, [(2, power) for power in range(10)])))"
BATCHES = """batches = pipeline.train_batches(Large(10), same, 4, seed=0, workers=2)
    print(sum(len(next(batches)["image"]) for _ in range(3)))
    batches.close()"""


@pytest.mark.parametrize(("work", "answer"), [(SCORES, "1023"), (BATCHES, "12")], ids=["scores", "batches"])
def test_signals_to_workers_that_have_not_yet_begun_are_left_to_the_parent(tmp_path, work, answer):
    script = tmp_path / "script.py"
    script.write_text(EARLY.format(work=work))
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, env=environment
    )
    assert (done.returncode, done.stdout) == (0, f"{answer}\n"), done.stderr


def test_as_many_processors_as_are_allowed(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 256)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7})
    assert processes.cpus() == 3
    command = [sys.executable, "-c", "from sak_jax import processes; print(processes.cpus())"]
    if shutil.which("taskset"):
        assert subprocess.run(["taskset", "-c", "0", *command], capture_output=True, text=True).stdout == "1\n"
