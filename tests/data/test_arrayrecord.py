import os
import pickle
import shutil
import sys

import numpy as np
import pytest

from sak_jax.data import arrayrecord, create_source, pipeline, prepare, transforms
from sak_jax.data import prepared as prepared_sets
from sak_jax.data.sets.nyud import NYUD
from sak_jax.data.sets.pascal_context import PASCALContext
from sak_jax.errors import UserError

SOURCES = {"nyud": NYUD, "pascal_context": PASCALContext}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, nyud_files, pascal_files):
    output = tmp_path_factory.mktemp("prepared")
    for name, source in (("nyud", nyud_files), ("pascal_context", pascal_files)):
        counts, problems = prepare.prepare(name, source, output / name, samples_per_shard=2)
        assert counts == {"train": 5 if name == "nyud" else 6, "val": 3} and not problems
    return output


def assert_same(first, second):
    assert len(first) == len(second)
    for index in range(len(first)):
        a, b = first[index], second[index]
        assert set(a) == set(b) and a["id"] == b["id"]
        for key in set(a) - {"id"}:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", SOURCES)
def test_samples_equal_those_of_the_original_files(prepared, nyud_files, pascal_files, name, split):
    original = SOURCES[name](nyud_files if name == "nyud" else pascal_files, split)
    read = create_source({"name": name, "root": prepared / name}, split, original.tasks, (64, 80))
    assert isinstance(read, arrayrecord.Prepared)
    assert_same(original, read)


def test_parts_alone_take_the_images_with_people(prepared, pascal_files):
    original = PASCALContext(pascal_files, "train", ("human_parts",))
    read = arrayrecord.Prepared(prepared_sets.find(prepared / "pascal_context"), "train", ("human_parts",))
    assert 0 < len(original) < 6
    assert_same(original, read)


def test_training_batches_equal_those_of_the_original_files(prepared, nyud_files):
    transform = transforms.multitask_transform((32, 48), ("depth", "semseg"))
    first, second = (
        pipeline.train_batches(
            create_source({"name": "nyud", "root": root}, "train", ("depth", "semseg"), (32, 48)), transform, 4, seed=7
        )
        for root in (nyud_files, prepared / "nyud")
    )
    for _ in range(3):
        a, b = next(first), next(second)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def test_reading_and_writing_need_no_tensorflow(prepared):
    arrayrecord.Prepared(prepared_sets.find(prepared / "nyud"), "val", ("semseg", "depth"))[2]
    assert "tensorflow" not in sys.modules


def test_an_interrupted_run_continues(nyud_root, tmp_path, monkeypatch):
    calls = []
    original = prepare._Shards.example

    def counted(self, source, index):
        calls.append((source.name, index))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, source, index)

    monkeypatch.setattr(prepare._Shards, "example", counted)
    monkeypatch.setattr(prepare, "_THREADS", 1)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare("nyud", nyud_root, tmp_path / "out", samples_per_shard=2)
    assert prepared_sets.find(tmp_path / "out") is None
    interrupted = len(calls)
    counts, _ = prepare.prepare("nyud", nyud_root, tmp_path / "out", samples_per_shard=2)
    assert counts == {"train": 5, "val": 3}
    assert calls[interrupted:][0] == ("NYUD-v2 train", 2) and len(calls) - interrupted == 6
    assert not list((tmp_path / "out").glob(".unfinished*"))
    assert_same(
        NYUD(nyud_root, "train"),
        create_source({"name": "nyud", "root": tmp_path / "out"}, "train", NYUD(nyud_root, "train").tasks, (48, 64)),
    )
    finished = len(calls)
    prepare.prepare("nyud", nyud_root, tmp_path / "out", samples_per_shard=2)
    assert len(calls) == finished


def truncate(path):
    path.write_bytes(path.read_bytes()[: os.path.getsize(path) // 2])


def test_damaged_originals_are_reported_together_or_left_out(nyud_root, tmp_path):
    truncate(nyud_root / "images" / "0001.png")
    truncate(nyud_root / "depth" / "0004.npy")
    with pytest.raises(UserError, match=r"2 problems: .*images/0001\.png.*; .*depth/0004\.npy.*--on_error=skip"):
        prepare.prepare("nyud", nyud_root, tmp_path / "raise")
    counts, problems = prepare.prepare("nyud", nyud_root, tmp_path / "skip", on_error="skip")
    assert counts == {"train": 3, "val": 3} and len(problems) == 2


@pytest.fixture
def copied(prepared, tmp_path):
    return shutil.copytree(prepared / "nyud", tmp_path / "copy")


def test_truncated_and_missing_shards_are_named(copied):
    folder = prepared_sets.find(copied)
    shards = sorted(folder.glob("nyud-train*"))
    assert len(shards) == 3
    truncate(shards[1])
    with pytest.raises(UserError, match="nyud-train.array_record-00001-of-00003: holds 0 samples instead of 2"):
        arrayrecord.Prepared(folder, "train", ("depth",))
    source = arrayrecord.Prepared(folder, "train", ("depth",), on_error="skip")
    assert len(source) == 3 and len(source.skipped) == 2
    assert [source[index]["id"] for index in range(3)] == ["0001", "0002", "0005"]
    shards[2].unlink()
    with pytest.raises(UserError, match=r"2 problems: .*00001-of-00003: holds 0 .*00002-of-00003 is missing"):
        arrayrecord.Prepared(folder, "train", ("depth",))


def test_overwritten_records_are_named(copied):
    folder = prepared_sets.find(copied)
    path = sorted(folder.glob("nyud-train*"))[0]
    content = bytearray(path.read_bytes())
    middle = content.find(b"IHDR")
    content[middle + 200 : middle + 260] = bytes(60)
    path.write_bytes(bytes(content))
    source = arrayrecord.Prepared(folder, "train", ("semseg",))
    with pytest.raises(UserError, match="nyud-train.array_record-00000-of-00003"):
        for index in range(2):
            source[index]


def test_pickles_small(prepared):
    source = arrayrecord.Prepared(prepared_sets.find(prepared / "nyud"), "val", ("edge",))
    first = source[0]
    content = pickle.dumps(source)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content)[0]["edge"], first["edge"])


def test_what_cannot_be_stored_exactly_is_refused():
    from sak_jax.data.rooms.source import Rooms

    sample = Rooms("train", 1, tasks=("normals",))[0]
    with pytest.raises(UserError, match="cannot be stored without loss"):
        arrayrecord.encode(sample, arrayrecord._png(sample["image"][..., ::-1]))


def test_mistakes_are_named(prepared):
    folder = prepared_sets.find(prepared / "nyud")
    with pytest.raises(UserError, match="has no split 'test'; it has train, val"):
        arrayrecord.Prepared(folder, "test")
    with pytest.raises(UserError, match="has no labels for 'sal'"):
        arrayrecord.Prepared(folder, "train", ("sal",))
