"""What a user sees of the command line: files of a run, and one clear line for a mistake."""

import json
import logging
import os
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

import sak_jax
from sak_jax import main, methods
from sak_jax import run as runner
from sak_jax.teachers import registry
from tests import runs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "tiny"
    # Relative, as the default is.
    relative = os.path.relpath(workdir, runs.ROOT)
    options = ("--config.distill.steps=3", "--config.multitask.steps=3", '--config.loggers=("tensorboard",)')
    done = runs.run(f"--workdir={relative}", *options)
    assert done.returncode == 0, done.stderr
    assert "depth/RMSE" in done.stdout and "Delta_m" in done.stdout
    return workdir


@pytest.fixture
def here(capsys, monkeypatch):
    """Runs the command line in this process, in which JAX has started already."""
    monkeypatch.setattr(runner, "start_jax", lambda config: None)
    loggers = [logging.getLogger(name) for name in ("sak_jax", "absl")]
    levels = [logger.level for logger in loggers]

    def run(*arguments):
        return subprocess.CompletedProcess(arguments, main.main(arguments), *capsys.readouterr())

    yield run
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_run_leaves_its_files(workdir):
    results = json.loads((workdir / "results.json").read_text())
    assert set(results["metrics"]) == {"semseg/mIoU", "depth/RMSE", "edge/odsF", "edge/oisF", "edge/AP"}
    assert results["steps"] == 6 and results["seconds"] > 0 and results["delta_m"] is None
    assert json.loads((workdir / "config.json").read_text())["multitask"]["steps"] == 3
    assert [entry["step"] for entry in runs.lines(workdir, "distill")] == [1, 2, 3]
    assert set(runs.lines(workdir, "multitask")[0]["values"]) >= {"total", "distill", "semseg", "grad_norm", "lr"}
    assert (workdir / "report/index.html").stat().st_size > 1000
    assert (workdir / "report/predictions.png").exists()
    assert list((workdir / "events/multitask").glob("events*"))


def test_the_report_compares_the_features_with_the_teachers(workdir):
    kept = json.loads((workdir / "report/report.json").read_text())
    assert list(kept["fidelity"]) == ["scene", "geometry"] and kept["experts"] == ["stem", "scene", "geometry"]
    assert all(len(row) == 4 and all(-1 <= cosine <= 1 for cosine in row) for row in kept["fidelity"].values())
    shown = ["stem", "scene: path", "scene: teacher", "geometry: path", "geometry: teacher"]
    assert all(list(picture["features"]) == shown for picture in kept["pictures"])
    student = sak_jax.load(workdir)
    evaluation = methods.get("sak").stages(student.config)[-1].evaluation()
    images = jnp.stack([evaluation.sample(index)["image"] for index in range(evaluation.images)])
    teacher, view = registry.load("rooms_scene", image_size=images.shape[1:3])
    ours = np.asarray(student(images).aligned["scene"][-1])
    theirs = np.asarray(view.select(teacher(view(images)), images.shape[1:3])[-1])
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    assert kept["fidelity"]["scene"][-1] == pytest.approx(float(((ours * theirs).sum(-1) / norms).mean()), abs=1e-4)


def test_evaluate_gives_the_same_scores(workdir):
    before = (workdir / "results.json").read_text()
    options = ("--config.distill.steps=3", "--config.multitask.steps=3")
    done = runs.run(f"--workdir={workdir}", "--mode=evaluate", *options)
    assert done.returncode == 0, done.stderr
    assert (workdir / "results.json").read_text() == before  # What training left is left alone.
    found = json.loads((workdir / "evaluation.json").read_text())["metrics"]
    assert found == pytest.approx(json.loads(before)["metrics"], rel=1e-5)


def test_evaluate_refuses_another_student(workdir):
    done = runs.run(f"--workdir={workdir}", "--mode=evaluate", "--config.model.heads=4")  # The arrays would fit.
    assert_mistake(done, "stem.heads", "2", "4")


def test_results_tell_the_steps_that_were_made(workdir):
    options = ("--config.distill.steps=3", "--config.multitask.steps=40")
    assert runs.run(f"--workdir={workdir}", "--mode=evaluate", *options).returncode == 0
    assert json.loads((workdir / "evaluation.json").read_text())["steps"] == 6


def test_another_config_may_not_use_the_workdir(workdir):
    assert_mistake(runs.run(f"--workdir={workdir}", "--config.seed=1"), "config", "distill.steps", "--workdir")


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--config.batch_sise=4", ["batch_sise"]),
        ("--config.batch_size=-4", ["batch_size", "-4", "above 0"]),
        ("--config.batch_size=four", ["batch_size", "four"]),
        ("--config.model.router=moe", ["model.router", "moe", "mor, none"]),
        ("--config.image_size=(25, 32)", ["image_size", "25", "patch 8"]),
        ("--config.teachers.scene.model=dino", ["dino"]),
        ("--config.distill.warmup_steps=12", ["warmup_steps", "12"]),
        ("--config.init_from=/nowhere", ["/nowhere", "checkpoint"]),
        ("--mode=evaluate", ["no checkpoint"]),
        ("--mode=eval", ["mode", "eval"]),
        ("train", ["train", "--name=value"]),
    ],
)
def test_mistakes(argument, words, tmp_path, here):
    assert_mistake(here(f"--config={runs.TINY}", f"--workdir={tmp_path / 'run'}", argument), *words)


def test_a_mistake_in_a_process_of_its_own():
    assert_mistake(runs.run(config="configs/nowhere.py"), "nowhere.py")


@pytest.mark.parametrize(
    ("arguments", "workdir"),
    [
        (["--config=configs/nyud.py:stem=small"], "runs/nyud"),
        (["--config", "configs/nyud.py"], "runs/nyud"),
        (["--config=configs/nyud.py", "--config=configs/rooms.py"], "runs/rooms"),
        (["--config=configs/rooms.py", "--workdir", "~/there"], os.path.expanduser("~/there")),
    ],
)
def test_where_a_run_lies(arguments, workdir, here, monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "run", lambda config, workdir, *rest: seen.append(str(workdir)))
    assert here(*arguments).returncode == 0 and seen == [workdir]


def test_batch_that_the_devices_cannot_share(tmp_path):
    devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    assert_mistake(runs.run(f"--workdir={tmp_path}", env=devices), "batch_size", "8", "3 devices")


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    options = ("--config.distill.lr=1e30", "--config.distill.warmup_lr=1e30", "--config.checkpoint.every=1")
    done = runs.run(f"--workdir={tmp_path}", *options)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "not finite" in done.stderr and "distill/scene" in done.stderr and "step " in done.stderr


def assert_mistake(done, *words):
    assert done.returncode == 2, done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(message) == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in message[0], message[0]
