"""Runs shared by two processes, as two hosts would share them: each has one device and half of every batch."""

import os
import signal
import socket
import time

import pytest

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


def start_two(*arguments):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        runs.start(
            *arguments,
            env={"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)},
        )
        for index in range(2)
    ]


def ended(processes, status):
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        assert process.returncode == status, stderr
    return outputs


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
