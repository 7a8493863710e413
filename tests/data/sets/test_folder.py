import cv2
import numpy as np
import pytest

from sak_jax.data import create_source
from sak_jax.data.sets.folder import Folder
from sak_jax.data.transforms import evaluation_transform, multitask_transform
from sak_jax.errors import UserError
from sak_jax.tasks import select

SIZE = (20, 30)


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("photos", "classes", "depth", "metres", "normals", "edges", "sal"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.jpg"), rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        maps = {
            "classes": rng.integers(0, 4, SIZE, dtype=np.uint8),
            "depth": rng.integers(0, 9000, SIZE, dtype=np.uint16),
            "normals": np.array([0, 128, 255], np.uint8) * rng.integers(0, 2, (*SIZE, 1), dtype=np.uint8),
            "edges": rng.integers(0, 256, SIZE, dtype=np.uint8),
            "sal": rng.integers(0, 256, SIZE, dtype=np.uint8),
        }
        for folder, value in maps.items():
            cv2.imwrite(str(tmp_path / folder / f"{name}_l.png"), value)
        np.save(tmp_path / "metres" / f"{name}.npy", maps["depth"] / 1000)
    return tmp_path


def read(root, folder, name="b_l.png"):
    return cv2.imread(str(root / folder / name), cv2.IMREAD_UNCHANGED)


def test_every_encoding(root):
    patterns = {
        "images": "photos/*.jpg",
        "semseg": "classes/{id}_l.png",
        "depth": "depth/{id}_l.png",
        "normals": "normals/{id}_l.png",
        "edge": "edges/{id}_l.png",
        "sal": "sal/{id}_l.png",
        "distance": "metres/{id}.npy",
    }
    tasks = tuple(key for key in patterns if key != "images")
    encodings = {"depth": "millimetres", "semseg": "index_from_1", "distance": "metres"}
    config = {"name": "folder", "root": root, "val": patterns, "encodings": encodings}
    source = create_source(config, "val", tasks, SIZE)
    assert [source[index]["id"] for index in range(len(source))] == ["a", "b"]
    sample = source[1]
    assert set(sample) == {"id", "image", *tasks}
    np.testing.assert_array_equal(sample["image"], cv2.imread(str(root / "photos" / "b.jpg"))[..., ::-1])
    classes = read(root, "classes").astype(int)
    np.testing.assert_array_equal(sample["semseg"], np.where(classes == 0, 255, classes - 1))
    np.testing.assert_array_equal(sample["depth"], read(root, "depth").astype(np.float32) / np.float32(1000))
    np.testing.assert_allclose(sample["distance"], sample["depth"], rtol=1e-6)
    np.testing.assert_allclose(sample["edge"], read(root, "edges") / 255, rtol=1e-6)
    np.testing.assert_array_equal(sample["sal"], read(root, "sal") > 127.5)
    normals = read(root, "normals")[..., ::-1]
    black = (normals == 0).all(axis=-1)
    assert black.any() and (sample["normals"][black] == 0).all()
    np.testing.assert_allclose(sample["normals"][~black], normals[~black] / 127.5 - 1, atol=1e-6)
    for task in ("depth", "distance", "edge", "normals"):
        assert sample[task].dtype == np.float32


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            {"semseg": {"channels": 3}},
            "sample 'a' has the label 3 of task 'semseg'.* for 0..2; .*tasks.semseg.channels",
        ),
        (
            {"height": {"channels": 1, "kind": "depth", "weight": 1.0, "metric": "RMSE"}},
            "labels of task 'height' are uint8.*data.encodings.height to metres, millimetres",
        ),
    ],
)
def test_labels_that_do_not_go_with_the_task_are_refused(root, task, message):
    tasks = select(task)
    name = tasks[0].name
    source = Folder(root, {"images": "photos/*.jpg", name: "classes/{id}_l.png"}, (name,))
    for transform in (multitask_transform(SIZE, tasks, scale_range=(1, 1)), evaluation_transform(SIZE, tasks)):
        with pytest.raises(UserError, match=message):
            transform(source[0], np.random.default_rng(0))


def test_images_alone_serve_stage_1(root):
    assert set(Folder(root, {"images": "photos/*.jpg"})[0]) == {"id", "image"}


def test_mistakes_are_named(root):
    patterns = {"images": "photos/*.jpg", "semseg": "classes/{id}_l.png"}
    with pytest.raises(UserError, match="no pattern for the labels of 'depth'"):
        Folder(root, patterns, ("depth",))
    with pytest.raises(UserError, match="data.encodings.semseg='rgb' is unknown; take one of index"):
        Folder(root, patterns, ("semseg",), {"semseg": "rgb"})
    with pytest.raises(UserError, match=r"no images match .*\.png"):
        Folder(root, {"images": "photos/*.png"})
    with pytest.raises(UserError, match="data.train is missing"):
        create_source({"name": "folder", "root": root}, "train", (), SIZE)
    with pytest.raises(UserError, match="data.name='mine' is unknown; the data sets are rooms"):
        create_source({"name": "mine"}, "train", (), SIZE)
    (root / "classes" / "a_l.png").unlink()
    with pytest.raises(UserError, match=r"a_l\.png is missing"):
        Folder(root, patterns, ("semseg",))
