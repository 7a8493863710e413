"""A run that is stopped, in whatever way, ends where the undisturbed run ends."""

import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests import runs

STEPS = ("--config.distill.steps=12", "--config.multitask.steps=12", "--config.multitask.eval_every=5")
"""Of both stages, with checkpoints every third."""


def run(workdir):
    return runs.run(f"--workdir={workdir}", *STEPS, config=runs.SMALLEST)


def start(workdir):
    return runs.start(f"--workdir={workdir}", *STEPS, config=runs.SMALLEST)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return runs.finished(tmp_path_factory.mktemp("undisturbed"), *STEPS, config=runs.SMALLEST)


def assert_same_end(workdir, undisturbed):
    expected, got = runs.parameters(undisturbed), runs.parameters(workdir)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert runs.lines(workdir) == runs.lines(undisturbed)


def wait_for_line(workdir, split, step, process):
    """Until metrics.jsonl has a line of `split` at `step` or later."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if (Path(workdir) / "metrics.jsonl").exists():
            try:
                if any(entry["step"] >= step for entry in runs.lines(workdir, split)):
                    return
            except ValueError:
                pass  # Read in the middle of a line being written.
        time.sleep(0.02)


def test_killed_at_random_points_of_both_stages(undisturbed, tmp_path):
    draw = random.Random(0)
    for split in ("distill", "multitask"):
        for earliest in (draw.randrange(1, 6), draw.randrange(6, 11)):
            process = start(tmp_path)
            wait_for_line(tmp_path, split, earliest, process)
            time.sleep(draw.random() * 0.5)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
    half_written = tmp_path / "checkpoints/multitask/99.orbax-checkpoint-tmp"
    (half_written / "model").mkdir(parents=True)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_end(tmp_path, undisturbed)
    assert not half_written.exists()


def test_sigterm_saves_and_the_same_command_goes_on(undisturbed, tmp_path):
    process = start(tmp_path)
    wait_for_line(tmp_path, "multitask", 4, process)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "run the same command to go on" in stderr and "Traceback" not in stderr
    stopped_at = max(entry["step"] for entry in runs.lines(tmp_path, "multitask"))
    assert (tmp_path / "checkpoints" / "multitask" / str(stopped_at)).exists()
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"resumes at step {stopped_at}" in done.stderr
    assert_same_end(tmp_path, undisturbed)


def test_finished_run_says_so_and_only_evaluates(undisturbed):
    before = (undisturbed / "metrics.jsonl").read_text()
    done = run(undisturbed)
    assert done.returncode == 0, done.stderr
    assert "is finished" in done.stderr
    assert (undisturbed / "metrics.jsonl").read_text() == before
    assert "depth/RMSE" in done.stdout
