import pickle

import cv2
import numpy as np
import pytest

from sak_jax.data import create_source
from sak_jax.data.sets.nyud import NYUD, TASKS
from sak_jax.errors import UserError


def test_samples_are_what_the_files_say(nyud_files):
    source = NYUD(nyud_files, "train")
    ids = (nyud_files / "gt_sets" / "train.txt").read_text().split()
    assert len(source) == len(ids) == 5
    sample = source[2]
    name = ids[2]
    assert sample["id"] == name and set(sample) == {"id", "image", *TASKS}
    image = cv2.imread(str(nyud_files / "images" / f"{name}.png"))[..., ::-1]
    np.testing.assert_array_equal(sample["image"], image)
    stored = cv2.imread(str(nyud_files / "segmentation" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(sample["semseg"], np.where(stored == 0, 255, stored.astype(int) - 1))
    assert (stored == 0).any() and sample["semseg"].dtype == np.uint8
    np.testing.assert_array_equal(sample["depth"], np.load(nyud_files / "depth" / f"{name}.npy").astype(np.float32))
    colours = cv2.imread(str(nyud_files / "normals" / f"{name}.png"))[..., ::-1].astype(np.float32)
    np.testing.assert_allclose(sample["normals"], colours / 255 * 2 - 1, atol=1e-7)
    edge = cv2.imread(str(nyud_files / "edge" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(sample["edge"], edge.astype(np.float32) / 255)
    assert all(sample[key].dtype == np.float32 for key in ("depth", "normals", "edge"))


def test_only_the_files_of_the_tasks_are_needed(nyud_root):
    for folder in ("depth", "normals", "edge"):
        for path in (nyud_root / folder).iterdir():
            path.unlink()
    assert set(NYUD(nyud_root, "val", ("semseg",))[0]) == {"id", "image", "semseg"}
    assert set(NYUD(nyud_root, "val", ())[0]) == {"id", "image"}


def test_pickles_small_and_works_again(nyud_files):
    source = NYUD(nyud_files, "train")
    content = pickle.dumps(source)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content)[1]["image"], source[1]["image"])


def test_no_data_says_where_how_and_what_else():
    with pytest.raises(UserError) as error:
        create_source({"name": "nyud"}, "train", TASKS, (448, 576))
    message = str(error.value)
    for part in ("'data/nyud'", "github.com", "python tools/prepare_data.py nyud --source", "configs/rooms.py"):
        assert part in message
    assert "\n" not in message


def test_problems_are_reported_together(nyud_root):
    (nyud_root / "depth" / "0001.npy").unlink()
    cv2.imwrite(str(nyud_root / "edge" / "0002.png"), np.zeros((40, 64), np.uint8))
    cv2.imwrite(str(nyud_root / "segmentation" / "0003.png"), np.full((48, 64), 41, np.uint8))
    np.save(nyud_root / "depth" / "0004.npy", np.ones((48, 60), np.float32))
    with pytest.raises(UserError) as error:
        NYUD(nyud_root, "train")
    message = str(error.value)
    assert "4 problems" in message and "\n" not in message
    for part in ("depth/0001.npy is missing", "edge/0002.png is 40 x 64", "segmentation/0003.png: label 40 is unknown"):
        assert part in message
    assert "depth/0004.npy is 48 x 60" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "train.txt: the split file is empty"), ("0001\n0001\n", "train.txt: names 0001 more than once")],
)
def test_bad_split_files(nyud_root, text, message):
    (nyud_root / "gt_sets" / "train.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        NYUD(nyud_root, "train")
    with pytest.raises(UserError, match="test.txt: the split file is missing"):
        NYUD(nyud_root, "test")


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3] if how == "truncated" else content[:200] + b"\0" * 50)


@pytest.mark.parametrize("how", ["truncated", "overwritten"])
@pytest.mark.parametrize("file", ["images/0003.png", "depth/0003.npy", "normals/0003.png", "edge/0003.png"])
def test_damaged_files_are_named_or_skipped(nyud_root, file, how):
    damage(nyud_root / file, how)
    source = NYUD(nyud_root, "train")
    with pytest.raises(UserError, match=file):
        source[2]
    source = NYUD(nyud_root, "train", on_error="skip")
    good = source[3]
    for _ in range(2):
        replaced = source[2]
        assert replaced.pop("skipped") is True and replaced["id"] == "0004"
        np.testing.assert_array_equal(replaced["image"], good["image"])
    assert "skipped" not in good
    assert list(source.skipped) == ["0003"] and file in source.skipped["0003"]


def test_what_is_found_at_the_start_can_be_skipped_too(nyud_root):
    (nyud_root / "depth" / "0001.npy").unlink()
    damage(nyud_root / "segmentation" / "0002.png", "truncated")
    source = NYUD(nyud_root, "train", on_error="skip")
    assert [source[index]["id"] for index in range(len(source))] == ["0003", "0004", "0005"]
    assert set(source.skipped) == {"0001", "0002"}
    assert set(pickle.loads(pickle.dumps(source)).skipped) == {"0001", "0002"}


def test_the_skipped_are_counted_in_the_end(nyud_root, caplog):
    damage(nyud_root / "edge" / "0002.png", "overwritten")
    source = NYUD(nyud_root, "train", on_error="skip")
    for _ in range(2):
        pickle.loads(pickle.dumps(source))[1]  # As a worker process would.
    del source
    assert "NYUD-v2 train: skipped 1 of 5 samples: 0002" in caplog.text


def test_nothing_left_to_read(nyud_root):
    for path in (nyud_root / "normals").iterdir():
        damage(path, "overwritten")
    with pytest.raises(UserError, match="none of its 5 samples can be read"):
        NYUD(nyud_root, "train", on_error="skip")[0]
    for path in (nyud_root / "normals").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="5 problems"):
        NYUD(nyud_root, "train", on_error="skip")


def test_mistakes_are_named(nyud_files):
    with pytest.raises(UserError, match="NYUD-v2 has no labels for 'sal'; it has semseg"):
        NYUD(nyud_files, "train", ("sal",))
    with pytest.raises(UserError, match="data.on_error='ignore' must be one of raise, skip"):
        NYUD(nyud_files, "train", on_error="ignore")


@pytest.mark.parametrize("value", [-1.0, np.inf, np.nan])
def test_impossible_depths_are_named(nyud_root, value):
    depth = np.ones((48, 64), np.float32)
    depth[3, 4] = value
    np.save(nyud_root / "depth" / "0001.npy", depth)
    with pytest.raises(UserError, match="0001.npy: holds depths that are negative or not finite"):
        NYUD(nyud_root, "train")[0]
