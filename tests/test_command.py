"""The command `sak-jax`, and the package as it is installed without a checkout."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

from sak_jax import command
from tests import runs


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the wheel's content, and an empty one to work in."""
    folder = tmp_path_factory.mktemp("installed")
    copy = folder / "source"  # So that nothing is built into the checkout.
    files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=runs.ROOT, text=True)
    for name in files.splitlines():
        if not name.startswith("tests/") and (runs.ROOT / name).is_file():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((runs.ROOT / name).read_bytes())
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(copy),
    ]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    (folder / "empty").mkdir()
    return folder


def run(installed, *arguments):
    env = {**os.environ, "PYTHONPATH": str(installed / "site")}
    return subprocess.run(
        [sys.executable, "-m", "sak_jax.command", *arguments],
        cwd=installed / "empty", env=env, capture_output=True, text=True,
    )  # fmt: skip


def test_the_wheel_trains_by_the_name_of_a_recipe(installed):
    small = ["--config.multitask.steps=1", "--config.data.train_length=8", "--config.data.val_length=8"]
    done = run(installed, "train", "--config=rooms:method=single-depth", *small, "--config.compilation_cache=")
    assert done.returncode == 0, done.stderr
    results = json.loads((installed / "empty/runs/rooms/results.json").read_text())
    assert results["steps"] == 1 and results["metrics"]["depth/RMSE"] > 0


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_subcommand_is_there(installed, name):
    done = run(installed, name, "--no_such_flag=1")
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr


def test_what_it_can_do_is_listed(capsys):
    assert command.main(["--help"]) == 0
    assert "convert-teacher" in capsys.readouterr().out
    assert command.main(["trian"]) == 2 and "trian" in capsys.readouterr().err
