"""Where scalars and pictures go: event files, and services by their own packages where they are installed."""

import errno
import importlib.util
import math
import os
import subprocess
import sys
import types

import numpy as np
import pytest
from etils import epath

from sak_jax.engine import loggers, logs
from sak_jax.errors import UserError
from tests import events, runs

PICTURE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


class Recorder(types.ModuleType):
    """A package with wandb's three functions, and `Image` unless it is old, that keeps what it is given."""

    def __init__(self, old=False):
        super().__init__("recorder")
        self.calls = []
        if not old:
            self.Image = lambda picture: ("image", picture)

    def init(self, **options):
        self.calls.append(("init", options))

    def log(self, values, step):
        self.calls.append(("log", step, values))

    def finish(self):
        self.calls.append(("finish",))


def written(workdir, names, first=0):
    workdir.mkdir(exist_ok=True)
    log = logs.Log(workdir, "distill", first, scored=True, writers=names, config={"seed": 3})
    log.write(first + 1, None, {"total": 2.5, "lr": math.nan})
    log.write(first + 2, "val", {"depth/RMSE": 1.5})
    log.write(first + 3, None, {"total": math.inf})
    log.close()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_every_scalar_under_its_split(name, tmp_path, monkeypatch):
    package = Recorder()
    monkeypatch.setitem(sys.modules, name, package)
    workdir = epath.Path(tmp_path / "nyud")
    written(workdir, [name])
    (_, options), *values, last = package.calls
    assert options["project"] == "sak_jax" and options["name"] == "nyud/distill" and options["config"] == {"seed": 3}
    assert options["resume"] == "allow"
    assert values == [("log", 1, {"distill/total": 2.5}), ("log", 2, {"val/depth/RMSE": 1.5})]
    assert last == ("finish",)
    assert not (workdir / "events").exists()
    assert len(logs.read(workdir / "metrics.jsonl")) == 3
    written(workdir, [name], first=3)  # A resumed run goes on in the same place.
    again = [call[1] for call in package.calls if call[0] == "init"][1]
    assert again == options


def shown(workdir, name, step=3):
    workdir.mkdir(parents=True, exist_ok=True)
    writer = loggers.WRITERS[name](workdir, "distill", step - 1, {})
    writer.show(step, "routing", {"depth": PICTURE})
    writer.write(step, "routing", {"depth/level1/stem": 0.25})
    writer.close()


def test_event_files_hold_pictures_and_once_however_often_a_run_ends(tmp_path):
    workdir = epath.Path(tmp_path / "nyud")
    written(workdir, ["tensorboard"])
    for _ in range(3):  # Within a second: no file takes another one's place.
        shown(workdir, "tensorboard", step=4)
    assert len(list((workdir / "events" / "distill").glob("events*"))) == 4
    found = events.read(workdir / "events" / "distill")
    assert found["val/depth/RMSE"] == [(2, 1.5)] and found["routing/depth/level1/stem"] == [(4, 0.25)]
    ((step, picture),) = found["routing/depth"]
    assert step == 4
    np.testing.assert_array_equal(picture, PICTURE)
    written(workdir, ["tensorboard"], first=3)  # More steps, in whose place the end was.
    assert events.read(workdir / "events" / "distill")["routing/depth"] == []


def test_pictures_on_a_full_disk_end_the_event_files_not_the_run(tmp_path, caplog):
    writer = loggers.TensorBoard(epath.Path(tmp_path), "distill", 0, {})

    def full(event):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer._writer.write_event = full
    for _ in range(2):
        writer.show(1, "predictions", {"image1": PICTURE})
    writer.close()
    assert caplog.text.count("cannot be written (No space left on device): the run goes on without") == 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_pictures_unless_its_package_takes_none(name, tmp_path, monkeypatch):
    for old in (False, True):
        package = Recorder(old)
        monkeypatch.setitem(sys.modules, name, package)
        shown(epath.Path(tmp_path / "nyud"), name)
        (init, *pictures, scalars, finish) = package.calls
        assert init[0] == "init" and finish == ("finish",)
        assert scalars == ("log", 3, {"routing/depth/level1/stem": 0.25})
        assert pictures == ([] if old else [("log", 3, {"routing/depth": ("image", PICTURE)})])


def test_several_writers_or_none(tmp_path, monkeypatch):
    package = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", package)
    written(epath.Path(tmp_path / "both"), ["tensorboard", "wandb"])
    assert list((tmp_path / "both" / "events" / "distill").glob("events.*")) and package.calls[-1] == ("finish",)
    written(epath.Path(tmp_path / "none"), [])
    assert {path.name for path in (tmp_path / "none").iterdir()} == {"metrics.jsonl", "timing.jsonl"}


def test_a_name_or_package_that_is_missing_is_told(monkeypatch):
    loggers.check(("tensorboard",))
    with pytest.raises(UserError, match="'mlflow'.*tensorboard, wandb, trackio"):
        loggers.check(("mlflow",))
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'sak_jax\[wandb\]'"):
        loggers.check(("wandb",))


def test_a_run_says_so_before_it_begins(tmp_path):
    missing = [name for name in ("wandb", "trackio") if importlib.util.find_spec(name) is None]
    for name, word in [("mlflow", "config.loggers"), *((name, f"sak_jax[{name}]") for name in missing[:1])]:
        done = runs.run(f"--workdir={tmp_path / 'run'}", f'--config.loggers=("{name}",)')
        assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "run").exists()


OFFLINE = """
import sys
from etils import epath
from tests.engine.test_loggers import shown, written
for first in (0, 3):
    written(epath.Path(sys.argv[1]), [sys.argv[2]], first)
shown(epath.Path(sys.argv[1]), sys.argv[2], 7)
"""


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_package_itself_takes_what_it_is_given(name, tmp_path):
    pytest.importorskip(name)
    environment = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path / "trackio")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path / "nyud"), name],
        cwd=runs.ROOT,
        env={**os.environ, **environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    place = tmp_path / ("nyud/wandb" if name == "wandb" else "trackio")
    assert any(path.is_file() for path in place.rglob("*"))
