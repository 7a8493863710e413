"""Damaged files of every kind: a value or a UserError, never anything else. SAK_JAX_FUZZ_SECONDS lengthens it."""

import io
import os
import random
import tarfile
import time

import numpy as np
import pytest
import scipy.io
from PIL import Image

from sak_jax.data import files, labels, mat, stored
from sak_jax.data.arrayrecord import Prepared
from sak_jax.data.prepare import prepare
from sak_jax.data.rooms import layouts
from sak_jax.data.sets.imagenet import ImageNet
from sak_jax.data.sets.pascal_context import human_parts
from sak_jax.data.source import decode_text, read_split
from sak_jax.errors import UserError
from tests.faults.campaign.mutation import damaged

SECONDS = float(os.environ.get("SAK_JAX_FUZZ_SECONDS", "2"))


def fuzz(seeds, read, seconds=None):
    """Reads mutations of `seeds` until the time is over; the seed of the generator is printed on failure."""
    seed = random.randrange(2**32)
    rng, end, tried = random.Random(seed), time.monotonic() + (seconds or SECONDS), 0
    while time.monotonic() < end:
        content = damaged(rng.choice(seeds), rng)
        try:
            read(content)
        except UserError as error:
            assert "\n" not in str(error), (seed, tried)
        except BaseException as error:
            error.add_note(f"seed {seed}, try {tried}, content {content[:300]!r}")
            raise
        tried += 1
    assert tried > 20


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pictures():
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 5, (20, 30), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [saved(grey, kind) for kind in ("PNG", "TIFF", "BMP", "GIF", "PPM", "JPEG")]
    made += [saved(colour, kind) for kind in ("PNG", "TIFF", "BMP", "PPM", "WEBP", "JPEG2000")]
    made += [saved(colour, kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
    made += [saved(colour.convert("CMYK"), "JPEG"), saved(colour.convert("P"), "PNG"), saved(grey.convert("1"), "PNG")]
    made += [
        saved(colour.convert("RGBA"), "PNG"),
        saved(grey.convert("LA"), "PNG"),
        saved(colour, "JPEG", progressive=True),
    ]
    made += [saved(Image.fromarray(np.ones((20, 30), kind)), "TIFF") for kind in (np.float32, np.int32, np.uint16)]
    return made + [
        saved(Image.fromarray(np.ones((20, 30), np.uint16)), "PNG"),
        saved(grey, "TIFF", compression="tiff_lzw"),
    ]


def arrays():
    made = []
    for array in (np.ones((20, 30), np.float32), np.ones((20, 30), np.uint8), np.ones((20, 30, 3))):
        stream = io.BytesIO()
        np.save(stream, array)
        made.append(stream.getvalue())
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        write(stream, np.ones((20, 30), np.float32))
        made.append(stream.getvalue())
    return made


@pytest.mark.parametrize("upright", [False, True])
def test_images(upright):
    def read(content):
        assert files.decode_image(content, "x", upright).dtype == np.uint8

    fuzz(pictures(), read)


@pytest.mark.parametrize("encoding", [*labels.ENCODINGS, *labels.PUBLISHED])
def test_labels(encoding):
    def read(content):
        label = labels.decode(encoding, content, "x")
        assert label.dtype in (np.uint8, np.float32) and np.isfinite(label).all()

    fuzz(pictures() + arrays(), read, SECONDS / 3)


def test_headers(tmp_path):
    def read(content):
        path = tmp_path / ("x.npy" if content[:1] == b"\x93" or content[:2] == b"PK" else "x.png")
        path.write_bytes(content)
        height, width = stored.size(path, upright=True)
        assert height >= 0 and width >= 0

    fuzz(pictures() + arrays(), read)


def test_matlab_files(tmp_path):
    layouts.write_pascal_context(tmp_path / "pascal", 3, 1, size=(32, 48))
    made = []
    for path in sorted((tmp_path / "pascal" / "human_parts").iterdir()):
        annotation = scipy.io.loadmat(path)["anno"]
        for compressed in (True, False):
            stream = io.BytesIO()
            scipy.io.savemat(stream, {"anno": annotation}, do_compression=compressed)
            made.append(stream.getvalue())

    def read(content):
        mat.decode(content, "x", "anno")
        human_parts(content, "x", (32, 48))

    fuzz(made, read)


def test_split_files(tmp_path):
    def read(content):
        path = tmp_path / "train.txt"
        path.write_bytes(content)
        assert all(read_split(path))
        decode_text(content, "x")

    texts = ["0001\n0002\n0003\n" * 3, "a b\r\n\tc\r\n", "é\n日\n"]
    fuzz([text.encode(kind) for text in texts for kind in ("utf-8", "utf-8-sig", "utf-16")], read)


def test_tar_files_and_their_lists(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image = saved(Image.new("RGB", (8, 8)), "JPEG")
    made = []
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
            for name in ("train/n01/a.JPEG", "train/n02/" + "long" * 12 + ".JPEG", "train/é.JPEG"):
                member = tarfile.TarInfo(name)
                member.size = len(image)
                archive.addfile(member, io.BytesIO(image))
        made.append(stream.getvalue())
    path = tmp_path / "train.tar"

    def read(content):
        path.write_bytes(content)
        source = ImageNet(tmp_path, "train")
        for index in range(len(source)):
            source.image_bytes(index)

    fuzz(made, read)
    path.write_bytes(made[0])
    ImageNet(tmp_path, "train")
    kept = max((tmp_path / "cache").rglob("*.npy"), key=os.path.getmtime)

    def read_list(content):
        kept.write_bytes(content)
        source = ImageNet(tmp_path, "train")
        for index in range(len(source)):
            source.image_bytes(index)

    fuzz([kept.read_bytes()], read_list)


def test_array_records(tmp_path):
    layouts.write_nyud(tmp_path / "nyud", 2, 1, size=(32, 48))
    prepare("nyud", tmp_path / "nyud", tmp_path / "prepared", ("train",))
    (shard,) = (tmp_path / "prepared" / "nyud" / "1.0.0").glob("*array_record*")
    folder = shard.parent
    tasks = ("semseg", "depth", "normals", "edge")

    def read(content):
        shard.write_bytes(content)
        source = Prepared(folder, "train", tasks)
        for index in range(len(source)):
            source[index]

    whole = shard.read_bytes()
    fuzz([whole], read)
    shard.write_bytes(whole)
    for name in ("dataset_info.json", "features.json"):
        path = folder / name
        content = path.read_bytes()

        def read_metadata(damaged, path=path):
            path.write_bytes(damaged)
            source = Prepared(folder, "train", tasks)
            for index in range(len(source)):
                source[index]

        fuzz([content], read_metadata)
        path.write_bytes(content)
