"""What is wrong with any label is said at the start, all of it, by file; and found again without reading it again."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.io
from PIL import Image

import sak_jax.data as data
from sak_jax.data import checks, prepare
from sak_jax.data.checks import check_labels
from sak_jax.data.rooms import layouts
from sak_jax.data.sets.folder import Folder
from sak_jax.errors import UserError
from sak_jax.tasks import select

PATTERNS = {"images": "images/*.jpg", "semseg": "semseg/{id}.png", "depth": "depth/{id}.png"}
ENCODINGS = {"depth": "millimetres"}
SIZE = (48, 64)


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sak_jax" / "labels"


@pytest.fixture
def inspected(monkeypatch):
    """Counts the samples whose labels are read."""
    calls = []
    original = Folder.inspect
    monkeypatch.setattr(Folder, "inspect", lambda self, index: calls.append(self.ids[index]) or original(self, index))
    return calls


def classes(number):
    """The task semseg with so many classes."""
    return select({"semseg": {"channels": number}})


def folder(photos, on_error="raise"):
    return Folder(photos, PATTERNS, ("semseg", "depth"), ENCODINGS, on_error)


def test_a_class_out_of_range_in_one_map_is_said_at_the_start(photos):
    label = np.zeros(SIZE, np.uint8)
    label[0, 0] = 5
    Image.fromarray(label).save(photos / "semseg" / "IMG_0002.png")
    check_labels(folder(photos), classes(6))
    with pytest.raises(UserError, match=r"semseg/IMG_0002\.png has the label 5 of task 'semseg', .* 0\.\.4"):
        check_labels(folder(photos), classes(5))
    check_labels(folder(photos), classes(5), mode="fast")
    with pytest.raises(UserError, match="data.check='slow' must be one of full, fast"):
        check_labels(folder(photos), classes(5), mode="slow")


def test_all_that_is_wrong_is_said_together_or_left_out(photos):
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(photos / "semseg" / "IMG_0000.png")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(photos / "depth" / "IMG_0001.png")
    (photos / "semseg" / "IMG_0003.png").write_bytes((photos / "semseg" / "IMG_0003.png").read_bytes()[:-30])
    with pytest.raises(UserError) as error:
        check_labels(folder(photos), classes(5))
    for part in (
        "3 problems: ",
        "semseg/IMG_0000.png has the label 7",
        "depth/IMG_0001.png: has 8 bits",
        "IMG_0003.png",
    ):
        assert part in str(error.value)
    source = folder(photos, "skip")
    check_labels(source, classes(5))
    assert source.ids == ["IMG_0002"] and set(source.skipped) == {"IMG_0000", "IMG_0001", "IMG_0003"}


def test_images_larger_than_evaluation_pads_to_are_said_at_the_start(photos):
    check_labels(folder(photos), classes(5), largest=SIZE)
    with pytest.raises(
        UserError, match=r"4 problems: .*IMG_0000\.jpg is 48 x 64, larger than image_size 48 x 60.*resize"
    ):
        check_labels(folder(photos), classes(5), largest=(48, 60))


def test_masks_read_as_classes_are_told(photos):
    for path in (photos / "semseg").iterdir():
        Image.fromarray((np.arange(48 * 64).reshape(SIZE) % 2 * 255).astype(np.uint8)).save(path)
    with pytest.raises(
        UserError, match="all labels of semseg are 0 or 255, and 255 is void: .* binary if these are masks"
    ):
        check_labels(folder(photos), classes(2))


def test_the_second_start_reads_changed_files_alone(photos, inspected):
    check_labels(folder(photos), classes(5))
    assert len(inspected) == 4
    check_labels(folder(photos), classes(5))
    assert len(inspected) == 4
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(photos / "semseg" / "IMG_0001.png")
    with pytest.raises(UserError, match="IMG_0001.png has the label 7"):
        check_labels(folder(photos), classes(5))
    assert inspected[4:] == ["IMG_0001"]
    with pytest.raises(UserError, match="IMG_0001.png has the label 7"):
        check_labels(folder(photos), classes(5))
    assert inspected[5:] == ["IMG_0001"]  # What was wrong is looked at again.
    check_labels(Folder(photos, PATTERNS, ("semseg", "depth"), ENCODINGS | {"semseg": "index_from_1"}), classes(7))
    assert len(inspected) == 10


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1, "samples": {"IMG_0000": 3}}', '{"version": 0}'])
def test_a_damaged_record_is_made_again(photos, cached, inspected, content):
    check_labels(folder(photos), classes(5))
    (kept,) = cached.iterdir()
    kept.write_text(content)
    check_labels(folder(photos), classes(5))
    assert len(inspected) == 8 and len(json.loads(kept.read_text())["samples"]) == 4


def test_published_sets_are_checked_as_files_and_prepared(tmp_path):
    layouts.write_nyud(tmp_path / "nyud", 3, 2, size=SIZE)
    layouts.write_pascal_context(tmp_path / "pascal", 3, 2, size=SIZE)
    prepare.prepare("nyud", tmp_path / "nyud", tmp_path / "prepared")
    depth = tmp_path / "nyud" / "depth" / "0002.npy"
    np.save(depth, np.full(SIZE, -1, np.float32))
    parts = sorted((tmp_path / "pascal" / "human_parts").iterdir())[0]
    (tmp_path / "pascal" / "ImageSets" / "Parts" / "train.txt").unlink()
    scipy.io.savemat(parts, {"anno": np.zeros((1, 1))})
    for name, tasks, message in (
        ("nyud", ("semseg", "depth", "normals", "edge"), r"0002\.npy: holds depths that are negative"),
        ("pascal", ("semseg", "human_parts", "sal", "normals", "edge"), f"{parts.name}: `anno` is not laid out"),
        ("prepared", ("semseg", "depth"), "semseg of .*record 0 has the label"),
    ):
        known = {"pascal": "pascal_context"}.get(name, "nyud")
        source = data.create_source({"name": known, "root": str(tmp_path / name)}, "train", tasks, SIZE)
        with pytest.raises(UserError, match=message):
            check_labels(source, classes(2 if name == "prepared" else 40))


def test_rooms_and_stage_1_are_left_alone(photos, monkeypatch):
    monkeypatch.setattr(checks, "_inspect_all", lambda _: pytest.fail("nothing is to be read"))
    check_labels(data.create_source({"name": "rooms", "train_length": 3}, "train", ("semseg",), SIZE), classes(14))
    check_labels(Folder(photos, {"images": "images/*.jpg"}), ())


def test_a_recipe_brings_a_data_set_of_its_own():
    class Grey:
        def __init__(self, length):
            self.length = length

        def __len__(self):
            return self.length

        def __getitem__(self, index):
            return {"id": str(index), "image": np.zeros((*SIZE, 3), np.uint8)}

    def create(split, tasks, image_size, *, root, on_error, length):
        assert (split, tasks, image_size, root, on_error) == ("train", (), SIZE, "data/grey", "raise")
        return Grey(length)

    data.register("grey", create, {"length": 3})
    try:
        assert len(data.create_source({"name": "grey"}, "train", (), SIZE)) == 3
        assert len(data.create_source({"name": "grey", "length": 5}, "train", (), SIZE)) == 5
        assert data.keys("grey")["length"].default == 3 and data.keys("grey")["on_error"].default == "raise"
    finally:
        del data.DATASETS["grey"]
    for name, keys in (("rooms", {}), ("", {}), ("mine", {"workers": 1})):
        with pytest.raises(UserError, match="choose another"):
            data.register(name, create, keys)


def test_every_data_set_has_its_keys():
    assert set(data.keys("folder")) - set(data.KEYS) == {"train", "val", "encodings"}
    assert set(data.keys("rooms")) - set(data.KEYS) == {"train_length", "val_length", "seed", "cache", "look"}
    for name in ("nyud", "pascal_context", "imagenet", "camvid"):
        assert data.keys(name) == data.KEYS


def run(code, **environment):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)


def test_reading_files_imports_neither_jax_nor_tfds_nor_configs():
    code = """
import sys
from sak_jax.data import create_source, labels, workers
from sak_jax.data.sets import camvid, folder, imagenet, nyud, pascal_context
from sak_jax.data.rooms import layouts, source
print(sorted({"jax", "ml_collections", "tensorflow_datasets", "tensorflow", "torch"} & set(sys.modules)))
"""
    done = run(code, PATH=os.environ["PATH"], PYTHONPATH=os.getcwd())
    assert done.stdout == "[]\n", done.stderr


def test_neither_a_home_nor_a_user_is_needed(photos, tmp_path):
    code = f"""
import os, pwd
def nobody(*_): raise KeyError("getpwuid(): uid not found")
pwd.getpwuid = pwd.getpwnam = nobody
from sak_jax.data.sets.folder import Folder
from sak_jax.data.checks import check_labels
source = Folder({str(photos)!r}, {PATTERNS!r}, ("semseg", "depth"), {ENCODINGS!r})
check_labels(source, dict(semseg=5))
print(source[0]["image"].shape)
"""
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path / "empty", timeout=120,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd(), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == "(48, 64, 3)\n", done.stderr
    assert not list((tmp_path / "empty").iterdir())


def test_labels_of_another_type_than_the_task_measures_are_said_at_the_start(photos):
    source = Folder(photos, {"images": "images/*.jpg", "depth": "semseg/{id}.png"}, ("depth",), {"depth": "index"})
    with pytest.raises(UserError, match="photos: the labels of task 'depth' are uint8.*data.encodings.depth to metres"):
        check_labels(source, ("depth",))
