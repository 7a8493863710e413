import os

import cv2
import numpy as np
import pytest

from sak_jax.data import create_source, transforms
from sak_jax.data.sets.camvid import CLASSES, CamVid, boundaries
from sak_jax.errors import UserError

REAL = os.environ.get("SAK_JAX_CAMVID", "")


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
        for number in range(count):
            labels = np.kron(rng.integers(0, 12, (3, 4), dtype=np.uint8), np.ones((10, 12), np.uint8))
            cv2.imwrite(str(tmp_path / split / f"{number}.png"), rng.integers(0, 256, (30, 48, 3), dtype=np.uint8))
            cv2.imwrite(str(tmp_path / f"{split}annot" / f"{number}.png"), labels)
    return tmp_path


def test_samples_are_what_the_files_say(root):
    source = CamVid(root, "train")
    assert len(source) == 3
    sample = source[1]
    stored = cv2.imread(str(root / "trainannot" / "1.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(sample["semseg"], np.where(stored == 11, 255, stored))
    np.testing.assert_array_equal(sample["image"], cv2.imread(str(root / "train" / "1.png"))[..., ::-1])
    np.testing.assert_array_equal(sample["edge"], boundaries(sample["semseg"]))
    assert set(CamVid(root, "val", ("edge",))[0]) == {"id", "image", "edge"}
    assert set(CamVid(root, "val", ())[0]) == {"id", "image"}


def test_boundaries_compare_with_right_lower_and_lower_right():
    labels = np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]], np.uint8)
    np.testing.assert_array_equal(boundaries(labels), [[0, 1, 0], [1, 1, 1], [0, 0, 0]])
    corner = np.array([[0, 0], [0, 1]], np.uint8)
    np.testing.assert_array_equal(boundaries(corner), [[1, 1], [1, 0]])


def test_boundaries_next_to_void_are_unknown():
    labels = np.array([[0, 0, 255, 1, 1]], np.uint8)
    np.testing.assert_array_equal(boundaries(labels), [[0, 255, 255, 0, 0]])
    known = np.array([[0, 255], [1, 1]], np.uint8)  # Void to the right, but a boundary below.
    np.testing.assert_array_equal(boundaries(known), [[1, 255], [0, 0]])


def test_shrinking_keeps_boundaries(root):
    source = create_source({"name": "camvid", "root": root}, "train", ("semseg", "edge"), (15, 24))
    sample = transforms.evaluation_transform((15, 24), ("semseg", "edge"), shrink=True)(source[0])
    assert sample["image"].shape == (15, 24, 3)
    expected, found = boundaries(sample["semseg"]), sample["edge"]
    # Every boundary between shrunk classes is there, at most a pixel beside it.
    near = cv2.dilate((found == 1).astype(np.uint8), np.ones((3, 3), np.uint8))
    assert near[expected == 1].all() and (found == 1).sum() < 2.5 * (expected == 1).sum()


def test_problems_are_named(root):
    with pytest.raises(UserError, match=r"test: the folder of CamVid's split 'test' is missing"):
        CamVid(root, "test")
    with pytest.raises(UserError, match="CamVid has no labels for 'depth'"):
        CamVid(root, "train", ("depth",))
    (root / "trainannot" / "0.png").unlink()
    cv2.imwrite(str(root / "trainannot" / "2.png"), np.zeros((30, 40), np.uint8))
    with pytest.raises(UserError, match=r"2 problems: .*0\.png is missing; .*2\.png is 30 x 40"):
        CamVid(root, "train")
    cv2.imwrite(str(root / "valannot" / "1.png"), np.full((30, 48), 12, np.uint8))
    with pytest.raises(UserError, match=r"valannot/1\.png: label 12 is unknown"):
        CamVid(root, "val")[1]
    with pytest.raises(UserError, match="CamVid is not in data.root"):
        CamVid(root / "none", "val")


@pytest.mark.skipif(not REAL, reason="set SAK_JAX_CAMVID to the folder of CamVid")
def test_the_real_photographs():
    counts = {split: len(CamVid(REAL, split)) for split in ("train", "val")}
    assert min(counts.values()) > 0
    sample = CamVid(REAL, "val")[0]
    assert sample["image"].shape == (360, 480, 3)
    assert set(np.unique(sample["semseg"])) <= {*range(len(CLASSES)), 255}
    assert 0.01 < (sample["edge"] == 1).mean() < 0.2
