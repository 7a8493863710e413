"""SIGTERM and Ctrl-C at every moment of a run: one line within 30 s, and the same command goes on to the same end."""

import os
import signal
import time

import numpy as np
import pytest

from tests import runs

TINY = f"{runs.TINY}:method=multitask"
STEPS = ("--config.checkpoint.every=100", "--config.multitask.steps=8", "--config.multitask.eval_every=4")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return runs.finished(tmp_path_factory.mktemp("undisturbed") / "run", *STEPS, config=TINY)


def at(workdir, moment):
    """Whether a run has come so far."""
    steps = [line["step"] for line in runs.lines(workdir, "multitask")] if (workdir / "metrics.jsonl").exists() else []
    return {
        "start": True,
        "compiling": (workdir / ".lock").exists(),
        "training": bool(steps),
        "saving": 4 in steps,
        "the last evaluation": 8 in steps and (workdir / "checkpoints" / "multitask" / "8").exists(),
        "the report": (workdir / "results.json").exists(),
    }[moment]


def stop(workdir, moment, number, group):
    """Signals a run at a moment, or its workers too as a terminal does; its status, and what it said."""
    workers = ("--config.boundary.workers=2", "--config.data.workers=1") if group else ()
    process = runs.start(f"--workdir={workdir}", *STEPS, *workers, config=TINY, start_new_session=True)
    end = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        try:
            if at(workdir, moment):
                break
        except ValueError:
            pass  # A line that is being written.
        time.sleep(0.01)
    time.sleep(1.0 if moment == "start" else 0.0)
    os.killpg(process.pid, number) if group else process.send_signal(number)
    began = time.monotonic()
    _, stderr = process.communicate(timeout=120)
    assert time.monotonic() - began < 45  # 30 s, and the machine may be busy.
    return process.returncode, stderr


@pytest.mark.parametrize(
    ("moment", "number", "group"),
    [
        ("start", signal.SIGTERM, False),
        ("compiling", signal.SIGTERM, True),
        ("training", signal.SIGINT, False),
        ("saving", signal.SIGTERM, False),
        ("the last evaluation", signal.SIGINT, True),
        ("the report", signal.SIGTERM, False),
    ],
)
def test_a_signal_is_one_line_and_the_same_command_goes_on(undisturbed, tmp_path, moment, number, group):
    status, stderr = stop(tmp_path, moment, number, group)
    if status:  # It may have been done before the signal was heard.
        errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert status == 1 and len(errors) == 1 and "Traceback" not in stderr, stderr
        assert "run the same command" in errors[0]
    else:
        assert moment == "the report", stderr
    if moment == "the last evaluation":  # The steps are not lost, though no checkpoint was due.
        assert (tmp_path / "checkpoints" / "multitask" / "8").exists()
    done = runs.run(f"--workdir={tmp_path}", *STEPS, config=TINY)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert runs.lines(tmp_path, "multitask") == runs.lines(undisturbed, "multitask")
    assert [line["step"] for line in runs.lines(tmp_path, "val")] == [4, 8]
    found = runs.parameters(tmp_path)
    for name, value in runs.parameters(undisturbed).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
