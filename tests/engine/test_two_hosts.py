"""What two hosts of four devices each are to one another, without a run around it."""

import subprocess
import sys
import time

from sak_jax.engine import loop
from sak_jax.engine.stop import Stop
from tests import runs

START = """
import sys
import jax, numpy as np
from sak_jax import cli
from sak_jax.engine import hosts, mesh as meshes
from sak_jax.errors import EndedEarly, UserError
"""

# Orders in which a host's chips are, and are not, a block of the mesh; those of a slice seldom are.
ROWS = """
hosts.join()
devices, index = jax.devices(), jax.process_index()
for order in ([0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 4, 5, 2, 3, 6, 7], [4, 0, 5, 1, 6, 2, 7, 3], [7, 6, 5, 4, 3, 2, 1, 0]):
    for shape in ((8, 1), (2, 4), (4, 2)):
        mesh = jax.sharding.Mesh(np.array([devices[i] for i in order]).reshape(shape), ("data", "fsdp"))
        rows = np.arange(8, dtype=np.int32) + 8 * index
        batch = meshes.put_batch({"x": rows}, mesh)
        doubled = jax.jit(lambda x: 2 * x, out_shardings=meshes.batch_sharding(mesh))(batch["x"])
        np.testing.assert_array_equal(meshes.local_rows(doubled), 2 * rows)
print("equal")
"""

FAILING = """
def end(kind, *text):
    raise kind(*text)

def main(argv):
    hosts._PARTING = 2.0
    hosts.join()
    for kind in (EndedEarly, UserError):
        try:
            hosts.together(lambda: end(kind, "a disk is full") if jax.process_index() else None)
        except kind as error:
            print(error, flush=True)
    if jax.process_index():
        meshes.any_process(False)  # It waits for the other, which does not come.
    end(UserError, "alone")

sys.exit(cli.exit_status(main)([]))
"""


def start(code):
    command = [sys.executable, "-c", START + code]
    return [
        subprocess.Popen(command, env=env | runs.devices(4), cwd=runs.ROOT, stdout=-1, stderr=-1, text=True)
        for env in runs.environments()
    ]


def test_a_host_gets_its_own_rows_back_wherever_its_devices_are_in_the_mesh():
    for stdout, _ in runs.ended(start(ROWS), 0):
        assert stdout == "equal\n"


def test_what_fails_on_one_host_ends_both_or_at_least_itself_in_time():
    began, (first, second) = time.monotonic(), start(FAILING)
    stdout, stderr = first.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert first.returncode == 2 and "error: alone" in stderr
    assert stdout.endswith(2 * "process 1: a disk is full\n")
    stdout, _ = second.communicate(timeout=120)  # By JAX, which has lost the first.
    assert second.returncode != 0 and stdout.endswith(2 * "process 1: a disk is full\n")


def test_hosts_ask_each_other_in_time_for_a_signal(monkeypatch):
    class Batches:
        problem = None

        def check(self):
            pass

    now, asked = [0.0], []
    monkeypatch.setattr(loop.jax, "process_count", lambda: 2)
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(loop.meshes, "largest", lambda *values: asked.append(step) or list(map(float, values)))
    for seconds, expected in ((0.1, [1, 11, 21]), (2.0, [1, 3, 5, 7]), (20.0, [1, 2, 3])):
        now[0], asking = 0.0, loop.Asking(Stop(), Batches(), 0, 0.0)
        asked.clear()
        for step in range(1, 31):
            now[0] += seconds
            assert not asking.stopping(step, due=False)
        assert asked[: len(expected)] == expected
    asking.stop._received = 15
    assert asking.stopping(31, due=True)
