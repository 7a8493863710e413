"""What a shared student tells of its run: the scores of its own checkpoint, and nothing of its machine."""

import json
import os
import shlex

import jax
import numpy as np
import pytest
from flax import nnx

import sak_jax
from sak_jax import hub, predict, recipe
from sak_jax.engine import checkpoints
from tests import runs
from tools import export, push_to_hub

DUNE = str(runs.ROOT / "tests/recipes/tiny_dune.py")
SECRET = "/home/somebody/secret"


def written(workdir, config, step, *stages):
    """Checkpoints of students all of whose parameters are one number."""
    for stage in stages:
        state = nnx.state(predict.abstract_student(config, stage))
        state = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), state)
        checkpoints.write_model(workdir, stage, step, recipe.plain(config), state)


def finished(workdir, config, command):
    """The files of a run that has ended."""
    (workdir / "config.json").write_text(config.to_json())
    (workdir / "results.json").write_text(json.dumps({"metrics": {"semseg/mIoU": 12.5}, "steps": 24, "seconds": 9.0}))
    (workdir / "report").mkdir()
    versions = {"jax": "0.10.2", "device": "1 x cpu", "processor": "AMD EPYC, 2 processors"}
    (workdir / "report" / "report.json").write_text(json.dumps({"command": command, "versions": versions}))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose two stages ended with the same step."""
    config, workdir = recipe.load(runs.TINY), tmp_path_factory.mktemp("run")
    written(workdir, config, 12, "distill", "multitask")
    finished(workdir, config, "python -m sak_jax.main --config=rooms")
    return workdir


def test_scores_are_those_of_the_stage_that_was_scored(workdir, tmp_path):
    cards = {}
    for stage in ("distill", "multitask"):
        given = f"--checkpoint={workdir / 'checkpoints' / stage / '12'}"
        assert push_to_hub.main([given, f"--output={tmp_path / stage}"]) == 0
        cards[stage] = (tmp_path / stage / hub.CARD).read_text()
    assert "12.5" in cards["multitask"] and "No scores" not in cards["multitask"]
    assert "12.5" not in cards["distill"] and "No scores were measured" in cards["distill"]
    for card in cards.values():
        assert "- hardware: 1 x cpu (AMD EPYC, 2 processors)\n- " in card and "- versions: jax 0.10.2\n" in card


@pytest.mark.parametrize("inside", [".", "checkpoints", "checkpoints/multitask", "checkpoints/multitask/12"])
def test_a_checkpoint_is_the_same_from_whatever_folder_it_is_named(workdir, tmp_path, monkeypatch, inside):
    monkeypatch.chdir(workdir / inside)
    student = sak_jax.load(os.path.relpath(workdir / "checkpoints" / "multitask" / "12"))
    assert student.stage == "multitask"
    monkeypatch.chdir(tmp_path)  # The student has been read, and does not depend on where one is.
    assert "12.5" in (sak_jax.save_pretrained(student, "out") / hub.CARD).read_text()


def test_a_checkpoint_alone_has_no_run(workdir, tmp_path):
    (tmp_path / "12").symlink_to(workdir / "checkpoints" / "multitask" / "12")
    assert checkpoints.find(tmp_path / "12") == tmp_path / "12"
    assert hub._about(predict.Predictor(None, None, "multitask", checkpoints.epath.Path("/12"))) == {}


def texts(folder):
    return "".join((folder / name).read_text() for name in (hub.CONFIG, hub.CARD))


def test_nothing_of_the_machine_is_shared(tmp_path):
    config = recipe.load(runs.TINY)
    config.init_from = f"{SECRET}/runs/first"
    config.model.stem_init = f"{SECRET}/stems/small.npz"
    config.data.root = config.teachers.dir = SECRET
    config.distill.data = {"root": SECRET}
    config.compilation_cache = f"{SECRET}/xla"
    (tmp_path / "run").mkdir()
    flags = ["--workdir", SECRET, f"--config={SECRET}/mine.py:teachers=all", "--config.teachers.random"]
    flags += [f"--config.data.root={SECRET}", "--config.distill.data.root", "secret", f"--config.init_from={SECRET}/x"]
    flags += ["--config.model.stem_init=rooms", "--config.seed", "7", "--config.teachers.dir=secret"]
    written(tmp_path / "run", config, 12, "multitask")
    finished(tmp_path / "run", config, shlex.join(["python", f"{SECRET}/tools/train.py", *flags]))
    folder = sak_jax.save_pretrained(tmp_path / "run", tmp_path / "shared")
    found = json.loads((folder / hub.CONFIG).read_text())
    assert "secret" not in texts(folder) and "somebody" not in texts(folder)
    assert found["recipe"]["init_from"] == "first" and found["recipe"]["model"]["stem_init"] == "small.npz"
    assert found["about"]["command"] == (
        "python train.py --config=mine.py:teachers=all --config.teachers.random --config.model.stem_init=rooms "
        "--config.seed 7"
    )
    card = (folder / hub.CARD).read_text()
    assert "The stem started from `small.npz`." in card and "Training started from `first`." in card
    ours, theirs = (jax.tree.leaves(nnx.state(sak_jax.load(place).student)) for place in (folder, tmp_path / "run"))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ("gs://bucket/a/b.npz", "b.npz"),
        ("~/a/b.py:stem=base", "b.py:stem=base"),
        ("--x=['/a/b', '/c d/e']", "--x=['b', 'e']"),
        ("wall / door", "wall / door"),
        ("train/**/*.jpg", "train/**/*.jpg"),
        ("semseg/mIoU", "semseg/mIoU"),
    ],
)
def test_folders_of_paths_from_the_root_are_left_out(given, shared):
    assert hub._public({"key": [given]}) == {"key": [shared]}


def test_a_distilled_encoder_is_shared_without_its_data_sets_places_and_has_nothing_to_export(tmp_path, capsys):
    config = recipe.load(DUNE)
    with config.unlocked():
        for row in config.distill.mix.sets.values():
            row.root = SECRET
    written(tmp_path / "run", config, 5, "distill")
    folder = sak_jax.save_pretrained(tmp_path / "run", tmp_path / "shared")
    assert "secret" not in texts(folder) and sak_jax.load(folder).stage == "distill"
    for ending in ("stablehlo", "onnx"):
        assert export.main([f"--checkpoint={folder}", f"--output={tmp_path / 'x'}.{ending}"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and ("has no tasks, as after a distillation" in error or "jax2onnx" in error)
    assert not list(tmp_path.glob("x.*"))
