"""Finding the other processes of a run, and what is said where they are not there."""

import os
import socket
import subprocess
import sys
import time

import pytest

from sak_jax.engine import hosts
from sak_jax.errors import UserError
from tests import runs

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
STEP = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
GIVEN = {"JAX_COORDINATOR_ADDRESS": "first:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


@pytest.mark.parametrize(
    "environment",
    [
        POD,  # With or without rights, and with or without the package that asks the cluster.
        POD | {"TPU_WORKER_HOSTNAMES": "only-one"},
        STEP | {"SLURM_NTASKS": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},  # A shell within an allocation: no step.
        GIVEN | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    ],
)
def test_one_process_runs_alone(environment):
    assert hosts.found(environment) is None


def test_the_others_are_found():
    given = hosts.found(POD | GIVEN)
    assert (given.address, given.count, given.index, given.method) == ("first:1234", 4, 3, "deactivate")
    assert hosts.found(GIVEN).method is None  # Slurm may still say which GPU is ours.
    slurm = hosts.found(STEP | {"SLURM_NTASKS": "4"})
    assert (slurm.address, slurm.count, slurm.index, slurm.method) == (None, 4, 1, "slurm")
    assert hosts.found(POD | {"TPU_WORKER_HOSTNAMES": "a,b"}).method == "gketpu"
    assert hosts.found({}) == hosts.Processes()


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID is not"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID=4"),
        ({"JAX_NUM_PROCESSES": "four"}, "JAX_NUM_PROCESSES=four"),
        ({"JAX_COORDINATOR_ADDRESS": "first"}, "HOST:PORT"),
    ],
)
def test_variables_that_do_not_fit_are_one_line(changed, word):
    with pytest.raises(UserError, match=word):
        hosts.found(GIVEN | changed)


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize(("index", "word"), [(0, "not all came"), (1, "cannot be reached within 2 s")])
def test_processes_that_do_not_come_are_one_line_in_time(index, word, tmp_path):
    environment = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
        hosts.PATIENCE: "2",
    }
    code = (
        "import sys; from sak_jax import cli; from sak_jax.engine import hosts; cli.show_progress(); "
        "sys.exit(cli.exit_status(lambda argv: hosts.join())([]))"
    )
    began = time.monotonic()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=runs.ROOT, env=os.environ | environment, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and time.monotonic() - began < 50, done.stderr
    assert lines[-1].startswith("error: ") and word in lines[-1] and "Traceback" not in done.stderr
    if index == 0:
        assert "waiting for 2 processes" in lines[0] and "to run this one alone" in lines[0]
    else:
        assert len(lines) == 1


def test_sigterm_stays_ours_after_joining():
    code = (
        "import os, signal, sys, time; from sak_jax.engine import hosts; got = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: got.append(1))\n"
        "import jax; jax.distributed.initialize, join = None, jax.distributed.initialize\n"
        f"jax.distributed.initialize = lambda **_: join('localhost:{free_port()}', 1, 0)\n"
        "hosts.join({}); os.kill(os.getpid(), signal.SIGTERM); time.sleep(1); sys.exit(0 if got else 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_failure_before_joining_starts_no_device(monkeypatch):
    monkeypatch.setattr(hosts.jax, "process_count", lambda: pytest.fail("JAX's devices would be started"))
    hosts.leave(2)
