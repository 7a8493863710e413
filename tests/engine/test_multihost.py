"""Runs shared by two processes, as two hosts would share them: each has one device and half of every batch."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sak_jax.data import pipeline
from sak_jax.data.rooms import layouts
from sak_jax.engine import lock
from tests import runs

ARGUMENTS = (
    "--config.model.width=64",  # So wide that some parameters are large enough to be sharded, here over the processes.
    "--config.mesh.fsdp=2",
    "--config.distill.steps=3",
    "--config.distill.warmup_steps=1",
    "--config.multitask.steps=40",
    "--config.multitask.eval_every=0",
    "--config.checkpoint.every=100",
    "--config.distill.lr=1e-5",  # Small: Adam turns differences in rounding into whole steps.
    "--config.multitask.lr=1e-5",
)


def start_two(*arguments, apart=((), ())):
    """Two processes with the same arguments, and some that each has for itself."""
    apart = zip(apart, runs.environments(), strict=True)
    return [runs.start(*arguments, *own, config=runs.SMALLEST, env=env) for own, env in apart]


def test_processes_that_disagree_end_together_with_one_line(tmp_path):
    config = ((), ("--config.multitask.lr=2e-5",))
    for _, stderr in runs.ended(start_two(f"--workdir={tmp_path / 'run'}", *ARGUMENTS, apart=config), 2):
        (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert "config.multitask.lr is 1e-05 for process 0 and 2e-05 for process 1" in line
        assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


def test_a_workdir_in_use_ends_all_processes(tmp_path):
    with lock.locked(tmp_path):
        for _, stderr in runs.ended(start_two(f"--workdir={tmp_path}", *ARGUMENTS), 2):
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
        for folder, env in zip(folders, runs.environments(), strict=True)
    ]
    for _, stderr in runs.ended(processes, 2):
        assert "process 1 does not see what process 0 writes" in stderr
    assert not list(tmp_path.rglob(".seen*"))


def values(workdir):
    return [(line["split"], line["step"], line["values"]) for line in runs.lines(workdir)]


def wait_for(log, text, processes, seconds=600):
    """Until the log of processes that run has a text."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not (log.exists() and text in log.read_text()):
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    assert text in log.read_text()


def test_two_processes_are_one_run_stop_together_and_go_on_after_one_was_killed(tmp_path):
    together, alone = tmp_path / "two", tmp_path / "one"
    log = together / "metrics.jsonl"
    processes = start_two(f"--workdir={together}", *ARGUMENTS)
    wait_for(log, '"multitask"', processes)
    os.kill(processes[1].pid, signal.SIGTERM)
    steps = set()
    for _, stderr in runs.ended(processes, 1):
        assert "stopped at step" in stderr and "Traceback" not in stderr
        steps.add(stderr.split("stopped at step ")[1].split()[0])
    (step,) = steps  # The same for both.
    assert (together / "checkpoints" / "multitask" / step).exists()

    processes = start_two(f"--workdir={together}", *ARGUMENTS)
    wait_for(log, f'"step": {int(step) + 1}, "split": "multitask"', processes)
    for process in reversed(processes):  # What starts processes ends them all when one was killed.
        process.kill()
        process.communicate()

    (first, _), (second, _) = runs.ended(start_two(f"--workdir={together}", *ARGUMENTS), 0)
    assert "depth/RMSE" in first and "depth/RMSE" not in second  # One of them speaks.
    two_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = runs.run(f"--workdir={alone}", *ARGUMENTS, config=runs.SMALLEST, env=two_devices)
    assert done.returncode == 0, done.stderr
    expected, found = values(alone), values(together)
    assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
    for (split, _, mine), (_, _, theirs) in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3), split
    assert (together / "report/index.html").exists()


def test_hosts_with_other_validation_images_do_not_evaluate(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from tests.recipes import tiny\n"
        "def get_config(text=''):\n"
        "    config = tiny.get_config('method=multitask')\n"
        "    config.data = {'name': 'nyud', 'root': 'nyud'}\n"
        "    config.tasks.semseg.channels = 40\n"
        "    config.multitask.steps = 1\n"
        "    return config\n"
    )
    for name, images in (("a", 8), ("b", 9)):
        layouts.write_nyud(tmp_path / name / "nyud", 8, images, size=(24, 32))
    path = {"PYTHONPATH": str(runs.ROOT)}
    command = [sys.executable, "-m", "sak_jax.main", f"--config={recipe}", f"--workdir={tmp_path / 'run'}"]
    trained = subprocess.run(command, cwd=tmp_path / "a", env=os.environ | path, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [
        subprocess.Popen([*command, "--mode=evaluate"], cwd=tmp_path / name, env=env | path, **options)
        for name, env in zip("ab", runs.environments(), strict=True)
    ]
    for _, stderr in runs.ended(processes, 2):
        assert "images that score multitask is 8 for process 0 and 9 for process 1" in stderr
        assert "Traceback" not in stderr and stderr.count("error: ") == 1


def numbers_in_order(length, count):
    """The numbers of the first samples that training sees, of a set of so many."""
    batches = pipeline.train_batches(range(length), lambda number, rng: {"number": np.array(number)}, 1, seed=0)
    found = [int(next(batches)["number"][0]) for _ in range(count)]
    batches.close()
    return found


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_that_is_damaged_for_one_process_ends_both_with_one_line(tmp_path, split):
    layouts.write_nyud(tmp_path / "nyud", 24, 8, size=(24, 32))
    # Of the second global batch of eight the second process has the last four rows; of the first to be scored as well.
    damaged = numbers_in_order(24, 14)[-1] if split == "train" else 24 + 5
    file = tmp_path / "nyud" / "images" / f"{damaged + 1:04d}.png"
    file.write_bytes(file.read_bytes()[:-200])
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from tests.recipes import tiny\n"
        "def get_config(text=''):\n"
        "    config = tiny.get_config('method=multitask')\n"
        f"    config.data = {{'name': 'nyud', 'root': {str(tmp_path / 'nyud')!r}}}\n"
        "    config.tasks.semseg.channels = 40\n"
        "    config.multitask.steps, config.multitask.eval_every = 3, 0\n"
        "    return config\n"
    )
    processes = [runs.start(f"--workdir={tmp_path / 'run'}", config=recipe, env=env) for env in runs.environments()]
    for _, stderr in runs.ended(processes, 2):
        (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert "process 1" in line and file.name in line and "Traceback" not in stderr
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints" / "multitask").glob("[0-9]*"))
    assert kept == ([] if split == "train" else ["3"])  # Nothing is kept of what was trained without it.
