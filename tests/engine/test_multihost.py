"""Runs shared by two processes, as two hosts would share them: each has one device and half of every batch."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from sak_jax.engine import lock
from tests import runs

ARGUMENTS = (
    "--config.model.width=64",  # So wide that some parameters are large enough to be sharded, here over the processes.
    "--config.mesh.fsdp=2",
    "--config.distill.steps=3",
    "--config.distill.warmup_steps=1",
    "--config.multitask.steps=6",
    "--config.multitask.eval_every=0",
    "--config.checkpoint.every=100",
    "--config.distill.lr=1e-5",  # Small: Adam turns differences in rounding into whole steps.
    "--config.multitask.lr=1e-5",
)


def start_two(*arguments, apart=((), ())):
    """Two processes with the same arguments, and some that each has for itself."""
    return [runs.start(*arguments, *own, env=env) for own, env in zip(apart, environments(), strict=True)]


def environments():
    """Of each of two processes that are to find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = os.environ | {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [common | {"JAX_PROCESS_ID": str(index)} for index in range(2)]


def ended(processes, status):
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        assert process.returncode == status, stderr
    return outputs


def test_processes_that_disagree_end_together_with_one_line(tmp_path):
    config = ((), ("--config.multitask.lr=2e-5",))
    for _, stderr in ended(start_two(f"--workdir={tmp_path / 'run'}", *ARGUMENTS, apart=config), 2):
        (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert "config.multitask.lr is 1e-05 for process 0 and 2e-05 for process 1" in line
        assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


def test_a_workdir_in_use_ends_all_processes(tmp_path):
    with lock.locked(tmp_path):
        for _, stderr in ended(start_two(f"--workdir={tmp_path}", *ARGUMENTS), 2):
            assert f"{tmp_path} is in use by process {os.getpid()}" in stderr and "Traceback" not in stderr


def test_a_workdir_that_is_not_shared_is_refused(tmp_path):
    code = (
        "import sys; from etils import epath; from sak_jax import cli; from sak_jax.engine import hosts, preflight\n"
        "def main(argv): hosts.join(); preflight.shared(epath.Path(argv[0]))\n"
        "sys.exit(cli.exit_status(main)(sys.argv[1:]))"
    )
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(folder)], env=env, cwd=runs.ROOT, stderr=-1, text=True)
        for folder, env in zip(folders, environments(), strict=True)
    ]
    for _, stderr in ended(processes, 2):
        assert "process 1 does not see what process 0 writes" in stderr
    assert not list(tmp_path.rglob(".seen*"))


def values(workdir):
    return [(line["split"], line["step"], line["values"]) for line in runs.lines(workdir)]


def test_two_processes_are_one_run_and_stop_together(tmp_path):
    together, alone = tmp_path / "two", tmp_path / "one"
    processes = start_two(f"--workdir={together}", *ARGUMENTS)
    log, deadline = together / "metrics.jsonl", time.monotonic() + 300
    while time.monotonic() < deadline and not (log.exists() and '"multitask"' in log.read_text()):
        time.sleep(0.02)
    os.kill(processes[1].pid, signal.SIGTERM)
    for _, stderr in ended(processes, 1):
        assert "stopped at step" in stderr and "Traceback" not in stderr

    (first, _), (second, _) = ended(start_two(f"--workdir={together}", *ARGUMENTS), 0)
    assert "depth/RMSE" in first and "depth/RMSE" not in second  # One of them speaks.
    two_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = runs.run(f"--workdir={alone}", *ARGUMENTS, env=two_devices)
    assert done.returncode == 0, done.stderr
    expected, found = values(alone), values(together)
    assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
    for (split, _, mine), (_, _, theirs) in zip(found, expected, strict=True):
        # Boundaries are scored on quantised predictions, of which rounding moves some by a level.
        assert mine == pytest.approx(theirs, rel=1e-2 if split == "val" else 1e-3)
    assert (together / "report/index.html").exists()
