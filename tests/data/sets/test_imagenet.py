import io
import pickle
import tarfile

import cv2
import numpy as np
import pytest

from sak_jax.data import create_source, pipeline, transforms
from sak_jax.data.sets.imagenet import ImageNet
from sak_jax.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def jpegs():
    rng = np.random.default_rng(0)
    found = {}
    for group in ("n01", "n02"):
        for number in range(4):
            image = cv2.GaussianBlur(rng.integers(0, 256, (40 + number, 60, 3), dtype=np.uint8), (5, 5), 2)
            found[f"{group}/{group}_{number}.JPEG"] = cv2.imencode(".jpg", image)[1].tobytes()
    return found


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_tar(root):
    root.mkdir()
    with tarfile.open(root / "train.tar", "w") as archive:
        for name, content in jpegs().items():
            add(archive, f"train/{name}", content)
        add(archive, "train/README", b"text")


def write_original(root):
    root.mkdir()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as archive:
        for group in ("n01", "n02"):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as class_archive:
                for name, content in jpegs().items():
                    if name.startswith(group):
                        add(class_archive, name.split("/")[1], content)
            add(archive, f"{group}.tar", inner.getvalue())


def write_folders(root):
    for name, content in jpegs().items():
        path = root / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


LAYOUTS = {"tar": write_tar, "tar of tars": write_original, "folders": write_folders}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(tmp_path, layout):
    root = tmp_path / "imagenet"
    LAYOUTS[layout](root)
    source = ImageNet(root, "train")
    expected = jpegs()
    assert len(source) == len(expected)
    for index, (name, content) in enumerate(expected.items()):
        sample = source[index]
        assert set(sample) == {"id", "image"} and sample["id"].endswith(name)
        np.testing.assert_array_equal(sample["image"], cv2.imdecode(np.frombuffer(content, np.uint8), 1)[..., ::-1])
        assert source.image_bytes(index) == content
    content = pickle.dumps(source)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content)[7]["image"], source[7]["image"])


def test_a_tar_is_listed_once_and_again_when_it_changed(tmp_path, cache):
    root = tmp_path / "imagenet"
    write_tar(root)
    ImageNet(root, "train")
    (listing,) = (cache / "sak_jax" / "imagenet").iterdir()
    written = listing.stat().st_mtime_ns
    ImageNet(root, "train")
    assert listing.stat().st_mtime_ns == written
    with tarfile.open(root / "train.tar", "a") as archive:
        add(archive, "train/n03/n03_0.JPEG", jpegs()["n01/n01_0.JPEG"])
    assert len(ImageNet(root, "train")) == 9


def test_batches_from_a_tar_in_worker_processes(tmp_path):
    root = tmp_path / "imagenet"
    write_tar(root)
    source = create_source({"name": "imagenet", "root": root}, "train", (), (32, 32))
    transform = transforms.distill_transform((32, 32))
    threads = pipeline.train_batches(source, transform, 4, seed=0)
    processes = pipeline.train_batches(source, transform, 4, seed=0, workers=1)
    for _ in range(3):
        np.testing.assert_array_equal(next(threads)["image"], next(processes)["image"])
    processes.close()


def test_truncated_tars_are_named(tmp_path):
    root = tmp_path / "imagenet"
    write_tar(root)
    path = root / "train.tar"
    content = path.read_bytes()
    second = content.index(b"train/n01/n01_1.JPEG")
    for length, message in ((second + 600, "is truncated within train/n01/n01_1.JPEG"), (second + 100, "is truncated")):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=rf"train\.tar: {message}"):
            ImageNet(root, "train")
    path.write_bytes(b"\x1f\x8b" + content[:4000])
    with pytest.raises(UserError, match=r"train\.tar: is not a whole, uncompressed tar file"):
        ImageNet(root, "train")


def test_damaged_images_are_named_or_skipped(tmp_path):
    root = tmp_path / "imagenet"
    write_folders(root)
    path = root / "train" / "n01" / "n01_1.JPEG"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"n01/n01_1\.JPEG: is not a whole PNG or JPEG file"):
        ImageNet(root, "train")[1]
    source = ImageNet(root, "train", on_error="skip")
    assert source[1]["id"] == "n01/n01_2.JPEG" and list(source.skipped) == ["n01/n01_1.JPEG"]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="ImageNet-1k is not in data.root='none'.*prepare_data.py imagenet"):
        ImageNet("none", "train")
    with pytest.raises(UserError, match="has neither train.tar, ILSVRC2012_img_train.tar nor a folder train"):
        ImageNet(tmp_path, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        ImageNet(tmp_path, "train")
    with pytest.raises(UserError, match="ImageNet has no labels for 'semseg'"):
        ImageNet(tmp_path, "train", ("semseg",))
