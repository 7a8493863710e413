"""What people did to their ImageNet: Macs, notebooks and damaged tar files."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from sak_jax.data.sets.imagenet import ImageNet
from sak_jax.errors import UserError


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sak_jax" / "imagenet"


def jpeg(grey=0):
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (grey,) * 3).save(stream, "JPEG")
    return stream.getvalue()


def write_tar(path, members, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_hidden_files_of_a_mac_or_a_notebook_are_no_images(tmp_path):
    members = [
        ("train/n01/a.JPEG", jpeg()),
        ("train/n01/._a.JPEG", b"Mac OS X"),
        ("train/.ipynb_checkpoints/a.JPEG", b"x"),
        ("./train/n02/b.JPEG", jpeg()),
        ("train/n02/._b.tar", b"x"),
    ]
    write_tar(tmp_path / "tar" / "train.tar", members)
    for name, content in members:
        path = tmp_path / "folders" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for layout in ("tar", "folders"):
        source = ImageNet(tmp_path / layout, "train")
        assert [source[index]["id"].rpartition("/")[2] for index in range(len(source))] == ["a.JPEG", "b.JPEG"]


def test_the_message_names_the_file_and_no_buffer(tmp_path):
    write_tar(tmp_path / "train.tar", [("train/n01/a.JPEG", b"nonsense")])
    with pytest.raises(UserError, match=r"train\.tar/train/n01/a\.JPEG: is not a whole") as error:
        ImageNet(tmp_path, "train")[0]
    assert "BytesIO" not in str(error.value)


def test_endings_that_others_use_are_images_too(tmp_path):
    (tmp_path / "val").mkdir()
    for ending in ("webp", "bmp", "JPG", "tif"):
        kind = {"JPG": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / f"a.{ending}", kind)
    source = ImageNet(tmp_path, "val")
    assert len([source[index] for index in range(len(source))]) == 4


@pytest.mark.parametrize("layout", ["tar", "folders"])
@pytest.mark.parametrize("root", ["plain", "with [brackets]*?"])
def test_names_may_be_of_any_bytes(tmp_path, layout, root):
    name = os.fsdecode(b"n01/caf\xe9 [1].JPEG")
    root = tmp_path / root
    if layout == "tar":
        write_tar(root / "train.tar", [(f"train/{name}", jpeg())], format=tarfile.GNU_FORMAT, encoding="utf-8")
    else:
        (root / "train" / "n01").mkdir(parents=True)
        (root / "train" / name).write_bytes(jpeg())
    source = ImageNet(root, "train")
    assert source[0]["image"].shape == (16, 16, 3) and source[0]["id"].endswith(name)


def with_size(content, size):
    """The first header of a tar file with another size, in GNU's binary form."""
    header = bytearray(content[:512])
    header[124:136] = size.to_bytes(12, "big", signed=True)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content[512:]


@pytest.mark.parametrize("kind", ["file", "long name"])
@pytest.mark.parametrize("size", [-512, -(2**60), 2**62])
def test_sizes_that_cannot_be_are_one_line(tmp_path, kind, size):
    name = "train/n01/a.JPEG" if kind == "file" else "train/" + "x" * 200 + ".JPEG"
    write_tar(tmp_path / "train.tar", [(name, jpeg())], format=tarfile.GNU_FORMAT)
    path = tmp_path / "train.tar"
    path.write_bytes(with_size(path.read_bytes(), size))
    with pytest.raises(UserError, match=r"train\.tar: "):
        ImageNet(tmp_path, "train")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "offsets", "folder"])
def test_a_damaged_list_is_made_again(tmp_path, cached, damage):
    write_tar(tmp_path / "train.tar", [("train/n01/a.JPEG", jpeg(9)), ("train/n01/b.JPEG", jpeg(99))])
    expected = ImageNet(tmp_path, "train")[1]["image"].copy()
    (kept,) = cached.iterdir()
    if damage == "offsets":
        table = np.load(kept)
        table["offset"] += 10**9
        np.save(kept, table)
    elif damage == "folder":
        kept.unlink()
    else:
        kept.write_bytes({"empty": b"", "text": b"hello", "cut": kept.read_bytes()[:-20]}[damage])
    source = ImageNet(tmp_path, "train")
    np.testing.assert_array_equal(source[1]["image"], expected)


def test_without_a_home_the_list_is_kept_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "nobody" / "home"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "nobody").write_text("a file where a folder should be")
    write_tar(tmp_path / "train.tar", [("train/n01/a.JPEG", jpeg())])
    assert len(ImageNet(tmp_path, "train")) == 1
    assert list((tmp_path / "temporary").rglob("*.npy"))


def test_an_owner_without_an_entry_is_not_asked_for(tmp_path, monkeypatch):
    def nobody(*_):
        raise KeyError("getpwuid(): uid not found")

    write_tar(tmp_path / "train.tar", [("train/n01/a.JPEG", jpeg())])
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr("grp.getgrgid", nobody)
    assert ImageNet(tmp_path, "train")[0]["image"].shape == (16, 16, 3)
