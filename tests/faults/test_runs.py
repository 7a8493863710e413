"""What a user may do to a run: start it twice, damage what it wrote, give it a folder it cannot have."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import sak_jax
from sak_jax.engine import checkpoints
from tests import runs

SMALL = ("--config.multitask.steps=4", "--config.multitask.eval_every=2")


def run(workdir, *options):
    return runs.run(f"--workdir={workdir}", *SMALL, *options, config=runs.SMALLEST)


def start(workdir):
    return runs.start(f"--workdir={workdir}", *SMALL, config=runs.SMALLEST)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return runs.finished(tmp_path_factory.mktemp("finished") / "run", *SMALL, config=runs.SMALLEST)


def one_line(done, *words):
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in errors[0], errors[0]


def test_the_same_run_started_twice(tmp_path):
    first = start(tmp_path)
    deadline = time.monotonic() + 300
    while not (tmp_path / "config.json").exists() and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.05)
    one_line(run(tmp_path), str(tmp_path), f"process {first.pid}")
    _, stderr = first.communicate(timeout=600)
    assert first.returncode == 0, stderr
    assert [line["step"] for line in runs.lines(tmp_path, "multitask")] == [1, 2, 3, 4]


def test_a_killed_runs_lock_does_not_block(finished, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    while not (workdir / "config.json").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (workdir / ".lock").exists()
    code = "import sys; from etils import epath; from sak_jax.engine.lock import locked\nwith locked(epath.Path(sys.argv[1])): pass"  # noqa: E501
    assert subprocess.run([sys.executable, "-c", code, str(workdir)], cwd=runs.ROOT).returncode == 0


@pytest.mark.parametrize("damage", ["emptied array", "emptied config", "an empty folder"])
def test_a_damaged_newest_checkpoint_is_set_aside_for_the_one_before(finished, tmp_path, damage):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    newest = workdir / "checkpoints" / "multitask" / "4"
    if damage == "emptied array":
        for file in (newest / "model").rglob("*"):
            if file.is_file() and file.stat().st_size > 1000:
                file.write_bytes(b"")
    elif damage == "emptied config":
        (newest / "config" / "metadata").write_bytes(b"")
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    done = run(workdir)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "4.damaged1" in done.stderr and "set aside" in done.stderr
    expected, found = runs.parameters(finished), runs.parameters(workdir)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe\x00", None])
def test_side_files_do_not_stop_a_whole_run(finished, tmp_path, content):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    for name in ("config.json", "results.json", "metrics.jsonl"):
        (workdir / name).unlink()
        if content is not None:
            (workdir / name).write_bytes(content)
    done = run(workdir)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert json.loads((workdir / "results.json").read_text())["metrics"]
    # Each checkpoint holds its own recipe: another one may not go on from it, whatever config.json says.
    (workdir / "config.json").unlink()
    one_line(run(workdir, "--config.multitask.lr=0.5"), "multitask.lr", "--workdir")


def test_seconds_add_up_and_the_best_checkpoint_is_evaluated_beside_the_results(finished):
    seconds = [json.loads((finished / "results.json").read_text())["seconds"]]
    before = (finished / "results.json").read_text()
    done = run(finished, "--mode=evaluate", "--best")
    assert done.returncode == 0, done.stderr
    assert (finished / "results.json").read_text() == before and (finished / "evaluation.json").exists()
    scores = json.loads((finished / "checkpoints" / "multitask" / "scores.json").read_text())
    assert set(scores) == {"2", "4"}
    best = checkpoints.find(finished, best=True)
    assert best.name == max(scores, key=scores.get)
    assert sak_jax.load(finished, best=True).source == best
    done = run(finished)
    assert done.returncode == 0, done.stderr
    seconds.append(json.loads((finished / "results.json").read_text())["seconds"])
    assert 0 < seconds[0] <= seconds[1]


@pytest.mark.parametrize("kind", ["a file", "below a file", "proc", "a dangling link", "a long name", "http", "empty"])
def test_a_workdir_that_cannot_be(kind, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    workdir = {
        "a file": file,
        "below a file": file / "run",
        "proc": "/proc/run",
        "a dangling link": tmp_path / "link" / "run",
        "a long name": tmp_path / ("x" * 300),
        "http": "http://example.org/run",
        "empty": "",
    }[kind]
    started = time.monotonic()
    one_line(run(workdir), "--workdir" if kind != "http" else "http")
    assert time.monotonic() - started < 120


def test_output_that_nobody_reads(finished):
    command = [sys.executable, "-m", "sak_jax.main", f"--config={runs.SMALLEST}", f"--workdir={finished}", *SMALL]
    process = subprocess.Popen(command, cwd=runs.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=600) in (0, 1) and "Traceback" not in stderr and "BrokenPipe" not in stderr
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=runs.ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("delay", [0.5, 1.5, 4.0])
def test_ctrl_c_in_the_first_seconds(delay, tmp_path):
    process = start(tmp_path)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (1, -signal.SIGINT) and "Traceback" not in stderr, stderr


def test_main_in_a_thread(tmp_path):
    code = (
        "import threading, sys\n"
        "from sak_jax import main\n"
        f"arguments = ['--config={runs.SMALLEST}', '--workdir={tmp_path}', *{list(SMALL)!r}]\n"
        "found = []\n"
        "thread = threading.Thread(target=lambda: found.append(main.main(arguments)))\n"
        "thread.start(); thread.join(); sys.exit(found[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=runs.ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
