"""Everything that reads or writes `gs://`, on a bucket served by this process."""

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

import sak_jax
from sak_jax import paths, predict, recipe, run
from sak_jax.data import create_source, prepare
from sak_jax.data.rooms import layouts
from sak_jax.engine import checkpoints
from sak_jax.engine.logs import Log
from sak_jax.errors import UserError
from sak_jax.methods.sak import method
from tests import gcs, runs

TASKS = ("semseg", "depth", "normals", "edge")


@pytest.fixture(scope="module", autouse=True)
def environment():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in gcs.environment(gcs.serve()).items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("original") / "nyud"
    layouts.write_nyud(root, 3, 2, size=(32, 40))
    return root


def assert_same(found, expected):
    assert len(found) == len(expected)
    for index in range(len(expected)):
        assert found[index].keys() == expected[index].keys()
        for key, value in expected[index].items():
            np.testing.assert_array_equal(found[index][key], value, err_msg=key)


def source(root):
    return create_source({"name": "nyud", "root": str(root)}, "train", TASKS, (32, 40))


def test_prepared_data_are_written_after_an_interruption_and_read(original, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    last = sorted((original / "normals").iterdir())[2]
    content = last.read_bytes()
    last.write_bytes(content[:-200])
    with pytest.raises(UserError, match=last.name):
        prepare.prepare("nyud", original, "gs://bucket/prepared", samples_per_shard=2)
    last.write_bytes(content)
    kept = list(tmp_path.glob(".unfinished-nyud-*/nyud-train.array_record-00000-of-00002"))
    assert len(kept) == 1
    counts, _ = prepare.prepare("nyud", original, "gs://bucket/prepared", samples_per_shard=2)
    assert counts == {"train": 3, "val": 2}
    assert_same(source("gs://bucket/prepared"), source(original))


def test_original_files_are_read(original):
    for file in original.glob("*/*"):
        paths.write_bytes(f"gs://bucket/original/{file.relative_to(original)}", file.read_bytes())
    assert_same(source("gs://bucket/original"), source(original))


def test_metrics_are_appended_to_and_forgotten_as_on_a_disk(tmp_path):
    written = {}
    for workdir in (epath.Path("gs://bucket/log"), epath.Path(tmp_path)):
        log = Log(workdir, "distill", 0, scored=False)
        log.write(1, None, {"loss": 2.0})
        log.write(2, None, {"loss": 1.0})
        log.close()
        time.sleep(1.1)  # TensorBoard's files are named by the second.
        log = Log(workdir, "distill", 1, scored=False)
        log.write(2, None, {"loss": 0.5})
        log.close()
        written[workdir] = (workdir / "metrics.jsonl").read_text()
        assert len(list((workdir / "events" / "distill").iterdir())) >= 1
    remote, local = written.values()
    assert remote == local
    assert [json.loads(line)["values"]["loss"] for line in remote.splitlines()] == [2.0, 0.5]


def _student() -> tuple[ConfigDict, nnx.State]:
    config = recipe.load(runs.TINY)
    abstract = nnx.state(predict.abstract_student(config, "multitask"))
    return config, nnx.State(nnx.map_state(lambda _, leaf: np.full(leaf.shape, 0.5, leaf.dtype), abstract))


def test_a_student_is_saved_and_loaded_and_a_half_written_one_is_not_seen():
    config, model = _student()
    workdir = epath.Path("gs://bucket/student")
    checkpoints.write_model(workdir, "multitask", config.multitask.steps, recipe.plain(config), model)
    paths.write_bytes(workdir / "checkpoints/multitask/99/model/_METADATA", b"{}")
    half_written = epath.Path("gs://bucket/half_written")
    paths.write_bytes(half_written / f"checkpoints/multitask/{config.multitask.steps}/model/_METADATA", b"{}")
    stages = method.stages(config)
    assert run.finished(workdir, stages) and not run.finished(half_written, stages)
    assert checkpoints.find(workdir).name == str(config.multitask.steps)
    _, stage, loaded = checkpoints.load(workdir)
    assert stage == "multitask"
    expected = nnx.to_pure_dict(model)
    assert loaded.keys() == expected.keys()
    images = np.zeros((1, *config.image_size, 3), np.float32)
    assert sak_jax.load(workdir)(images).predictions["depth"].shape == (1, *config.image_size, 1)
    assert not os.path.exists("gs:")


def test_no_such_bucket():
    with pytest.raises(UserError, match="gs://nobucket is not there"):
        create_source({"name": "nyud", "root": "gs://nobucket/x"}, "train", TASKS, (32, 40))


def test_other_object_stores_are_refused():
    with pytest.raises(UserError, match="not s3://"):
        paths.check_remote("s3://bucket/x")


def test_a_missing_package_is_named(original):
    code = "import sys; sys.modules['gcsfs'] = None; from sak_jax import main; sys.exit(main.main())"
    command = [sys.executable, "-c", code, f"--config={runs.TINY}", "--workdir=gs://bucket/x"]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: gs://bucket: gs:// needs the package gcsfs: pip install -e '.[gcs]'"
