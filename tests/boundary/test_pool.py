"""The worker processes: what they import, how many there are, and how they end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from sak_jax.boundary.pool import WorkerPool
from sak_jax.errors import EndedEarly
from tests.boundary.processes import alive, gone_within


def python(script, tmp_path, **options):
    """Starts a script as a user would; spawned workers import it again."""
    path = tmp_path / "script.py"
    path.write_text(script)
    return subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True, **options)


def test_results_come_in_order_and_close_ends_the_processes():
    with WorkerPool(2) as pool:
        assert list(pool.map(pow, [(2, power) for power in range(20)])) == [2**power for power in range(20)]
        kept = {child.pid for child in multiprocessing.active_children()}
        list(pool.map(pow, [(1, 1), (1, 1)]))
        assert kept == {child.pid for child in multiprocessing.active_children()} and len(kept) == 2
    assert not multiprocessing.active_children()


def test_one_worker_is_this_process():
    pool = WorkerPool(1)
    assert list(pool.map(os.getpid, [(), ()])) == [os.getpid()] * 2
    assert not multiprocessing.active_children()


def test_workers_import_no_jax(tmp_path):
    script = """
import functools, pickle, sys
from sak_jax.boundary import maps, matching, pool, score
if __name__ == "__main__":
    job = functools.partial(score.evaluate_annotated, max_distance=0.011, protocol="sak", truth="boundary")
    pickle.loads(pickle.dumps(job))
    print("jax" in sys.modules)
    with pool.WorkerPool(2) as workers:
        import numpy as np
        maps_ = np.zeros((20, 20), np.uint8), np.zeros((20, 20), bool)
        print(len(list(workers.map(job, [maps_, maps_]))))
        print(list(workers.map(eval, [("'jax' in __import__('sys').modules",)] * 4)))
"""
    assert python(script, tmp_path).communicate()[0] == "False\n2\n[False, False, False, False]\n"


def test_a_killed_worker_is_one_error_and_no_hang():
    with WorkerPool(2) as pool:
        with pytest.raises(EndedEarly, match="one of the 2 processes .* was killed.*workers") as caught:
            list(pool.map(eval, [("__import__('os').kill(__import__('os').getpid(), 9)",)] * 2))
        assert "\n" not in str(caught.value)
        assert list(pool.map(pow, [(2, 3), (2, 4)])) == [8, 16]  # With new ones.


SLEEPERS = """
import multiprocessing, time
from sak_jax.boundary.pool import WorkerPool
if __name__ == "__main__":
    pool = WorkerPool(2)
    results = pool.map(time.sleep, [(0.1,), (0.1,), (600,), (600,)])
    next(results), next(results)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    list(results)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent_however_it_ends(tmp_path, how):
    parent = python(SLEEPERS, tmp_path)
    workers = [int(process_id) for process_id in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(map(alive, workers))
    parent.send_signal(how)
    parent.wait()
    assert gone_within(10, workers)


def test_signals_to_all_are_left_to_the_parent(tmp_path):
    parent = python(SLEEPERS, tmp_path, start_new_session=True)
    workers = [int(process_id) for process_id in parent.stdout.readline().split()]
    for worker in workers:
        os.kill(worker, signal.SIGINT)
        os.kill(worker, signal.SIGTERM)
    time.sleep(0.5)
    assert all(map(alive, workers))
    parent.kill()
    parent.wait()
    assert gone_within(10, workers)
