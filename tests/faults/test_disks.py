"""Disks that are full or may only be read: real ones, mounted for one process (root alone may)."""

import json
import shutil
import subprocess
import time

import numpy as np
import pytest
from etils import epath
from flax import nnx

from sak_jax.engine import checkpoints, logs
from sak_jax.errors import EndedEarly, UserError
from tests import runs

STEPS = ("--config.checkpoint.every=2", "--config.multitask.steps=6", "--config.multitask.eval_every=0")
RECIPE = f"{runs.SMALLEST}:method=multitask"


def may_mount():
    tried = shutil.which("unshare") and subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True
    )
    return bool(tried) and tried.returncode == 0


pytestmark = pytest.mark.skipif(not may_mount(), reason="mounting is not allowed here")


@pytest.fixture
def small(tmp_path):
    """A file system of so many kB."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], check=True)
        return disk

    yield mount
    subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return runs.finished(tmp_path_factory.mktemp("undisturbed") / "run", *STEPS, config=RECIPE)


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) // 1024


@pytest.mark.parametrize("begun", [True, False])
def test_an_import_to_a_full_disk_is_one_line_and_leaves_nothing(small, capsys, begun):
    workdir = epath.Path(small(1000)) / "imported"
    if begun:
        workdir.mkdir()
    state = nnx.state(nnx.Linear(1000, 1000, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="imported/checkpoints/multitask cannot be written .*disk is full"):
        checkpoints.write_model(workdir, "multitask", 1, {}, state)
    assert [child.name for child in workdir.parent.iterdir()] == ["imported"] * begun
    assert not begun or not list(workdir.iterdir())
    assert capsys.readouterr().err == ""
    checkpoints.write_model(workdir, "multitask", 1, {}, nnx.state(nnx.Linear(10, 10, rngs=nnx.Rngs(0))))
    assert checkpoints.load(workdir)[1] == "multitask"


@pytest.mark.parametrize("share", [0.15, 0.4, 0.75])
def test_a_full_disk_is_one_line_and_with_more_room_the_run_goes_on_to_the_same_end(undisturbed, small, share):
    disk = small(int(size(undisturbed) * share))
    done = runs.run(f"--workdir={disk / 'run'}", *STEPS, config=RECIPE)
    assert done.returncode in (1, 2), done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert str(disk) in errors[0] and "disk is full" in errors[0] and "MB are left" in errors[0]
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    done = runs.run(f"--workdir={disk / 'run'}", *STEPS, config=RECIPE)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert runs.lines(disk / "run") == runs.lines(undisturbed)
    found = runs.parameters(disk / "run")
    for name, value in runs.parameters(undisturbed).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert (disk / "run" / "report" / "index.html").read_text().rstrip().endswith("</html>")


def test_metrics_that_cannot_be_written_stop_the_run_in_one_line(small):
    workdir = epath.Path(small(64))
    (workdir / "filling").write_bytes(bytes(40 * 1024))
    log, written = logs.Log(workdir, "multitask", 0, scored=False, writers=()), 0
    with pytest.raises(EndedEarly, match="metrics.jsonl cannot be written .*disk is full.* same command") as caught:
        for step in range(1, 1000):
            log.write(step, None, {"total": 1.5})
            written = step
    assert written > 10 and "\n" not in str(caught.value)
    log.close()
    (workdir / "filling").unlink()
    assert [line["step"] for line in logs.read(workdir / "metrics.jsonl")] == list(range(1, written + 1))
    log = logs.Log(workdir, "multitask", written, scored=False, writers=())
    log.write(written + 1, None, {"total": 1.5})
    log.close()
    assert [line["step"] for line in logs.read(workdir / "metrics.jsonl")] == list(range(1, written + 2))


def test_a_read_only_run_is_evaluated_and_its_scores_are_printed(undisturbed, tmp_path):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    for options in (["--bind", str(workdir)], ["-o", "remount,ro,bind"]):
        subprocess.run(["mount", *options, str(workdir)], check=True)
    try:
        done = runs.run(f"--workdir={workdir}", *STEPS, "--mode=evaluate", config=RECIPE)
        assert "depth/RMSE" in done.stdout and "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 2 and "cannot be written" in done.stderr
        began = time.monotonic()
        done = runs.run(f"--workdir={workdir}", *STEPS, config=RECIPE)
        assert done.returncode == 2 and "--workdir" in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert time.monotonic() - began < 120
    finally:
        subprocess.run(["umount", "-l", str(workdir)], check=True)
    assert json.loads((workdir / "results.json").read_text())["metrics"]
