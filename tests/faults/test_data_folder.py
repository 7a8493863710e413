"""What people did to a folder of their own photographs, and what must come of it: all of it, or one line."""

import io
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sak_jax.data.sets.folder import Folder
from sak_jax.errors import UserError
from tests.faults.conftest import photographs

PATTERNS = {"images": "images/*.jpg", "semseg": "semseg/{id}.png", "depth": "depth/{id}.png"}
ENCODINGS = {"depth": "millimetres"}


def nested(root, folders=("berlin", "paris", "rome"), ending="jpg"):
    """Four names in each of three folders; each picture's grey says which it is."""
    number = 0
    for folder in folders:
        for kind in ("train", "labels"):
            (root / kind / folder).mkdir(parents=True, exist_ok=True)
        for name in "abcd":
            Image.fromarray(np.full((16, 16, 3), 10 * number, np.uint8)).save(root / f"train/{folder}/{name}.{ending}")
            Image.fromarray(np.full((16, 16), number, np.uint8)).save(root / f"labels/{folder}/{name}.png")
            number += 1
    return root


@pytest.mark.parametrize(
    "pattern", ["train/*/*.jpg", "train/**/*.jpg", "train/**", "./train//*/?.jpg", "train/[bpr]*/*"]
)
def test_names_that_repeat_in_other_folders_are_other_images(tmp_path, pattern):
    source = Folder(nested(tmp_path), {"images": pattern, "semseg": "labels/{id}.png"}, ("semseg",))
    assert len(source) == 12 and source.ids[0] == "berlin/a" and source.ids[-1] == "rome/d"
    for sample in (source[index] for index in range(12)):
        assert abs(int(sample["image"][0, 0, 0]) - 10 * int(sample["semseg"][0, 0])) <= 2


def test_a_link_back_up_does_not_repeat_images(tmp_path):
    nested(tmp_path)
    os.symlink(tmp_path / "train", tmp_path / "train" / "rome" / "again", target_is_directory=True)
    os.symlink(tmp_path / "train" / "rome", tmp_path / "train" / "paris" / "other", target_is_directory=True)
    source = Folder(tmp_path, {"images": "train/**/*.jpg"})
    assert 12 <= len(source) <= 16


def test_two_images_of_one_id_are_refused_by_name(photos):
    shutil.copy(photos / "images" / "IMG_0001.jpg", photos / "images" / "IMG_0001.png")
    with pytest.raises(UserError, match=r"IMG_0001\.jpg and .*IMG_0001\.png are both the image 'IMG_0001'"):
        Folder(photos, {"images": "images/*"})
    assert len(Folder(photos, {"images": "images/*.jpg"})) == 4


def test_capital_endings_that_a_pattern_leaves_out_are_said(tmp_path, caplog):
    root = photographs(tmp_path / "photos", ("jpg", "JPG"))
    assert len(Folder(root, PATTERNS, ("semseg",))) == 4
    assert "matches 4 images, and leaves out 4 files" in caplog.text and "IMG_0004.JPG" in caplog.text
    caplog.clear()
    source = Folder(root, PATTERNS | {"images": "images/*"}, ("semseg", "depth"), ENCODINGS)
    assert len([source[index] for index in range(8)]) == 8 and not caplog.text
    assert len(Folder(root, PATTERNS | {"images": "images/*.[jJ][pP][gG]"})) == 8


@pytest.mark.parametrize("ending", ["JPG", "webp", "bmp", "tif", "TIFF", "PNG", "gif", "ppm"])
def test_every_ending_that_pillow_reads_is_an_image(tmp_path, ending):
    root = photographs(tmp_path / "photos", (ending,), count=2)
    source = Folder(root, PATTERNS | {"images": f"images/*.{ending}"}, ("semseg", "depth"), ENCODINGS)
    stored = Image.open(root / "images" / f"IMG_0001.{ending}").convert("RGB")
    np.testing.assert_array_equal(source[1]["image"], np.array(stored))


def test_only_other_endings_are_named(photos):
    with pytest.raises(UserError, match=r"no images match .*\.jpeg; 4 files beside them, such as .*IMG_0000\.jpg"):
        Folder(photos, {"images": "images/*.jpeg"})


def test_sizes_are_compared_whatever_the_ending(tmp_path):
    root = photographs(tmp_path / "photos", ("TIF",), count=2)
    Image.new("L", (10, 10)).save(root / "semseg" / "small.TIF")
    shutil.move(root / "semseg" / "small.TIF", root / "semseg" / "IMG_0000.TIF")
    shutil.copy(root / "semseg" / "IMG_0000.TIF", root / "semseg" / "IMG_0001.TIF")
    with pytest.raises(UserError, match=r"IMG_0000\.TIF is 10 x 10, but .*IMG_0000\.TIF is 48 x 64"):
        Folder(root, {"images": "images/*.TIF", "semseg": "semseg/{id}.TIF"}, ("semseg",))


def with_orientation(root, number, upright):
    """Stores an image so that `number` turns it to `upright`."""
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270,
            2: Image.Transpose.FLIP_LEFT_RIGHT, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
            7: Image.Transpose.TRANSVERSE}[number]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = number
    Image.fromarray(upright).transpose(back).save(root, exif=exif, quality=100, subsampling=0)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("number", range(2, 9))
def test_images_lie_as_viewers_show_them(tmp_path, number, ending):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16], upright[8:, 16:] = 250, 120
    (tmp_path / "images").mkdir()
    (tmp_path / "semseg").mkdir()
    with_orientation(tmp_path / "images" / f"a.{ending}", number, upright)
    Image.fromarray((upright[..., 0] > 200).astype(np.uint8)).save(tmp_path / "semseg" / "a.png")
    sample = Folder(tmp_path, {"images": "images/*", "semseg": "semseg/{id}.png"}, ("semseg",))[0]
    assert sample["image"].shape == (16, 32, 3)
    np.testing.assert_array_equal(sample["image"][..., 0] > 200, sample["semseg"] == 1)


def test_labels_drawn_on_the_unturned_image_are_told_of_exif(photos):
    with_orientation(photos / "images" / "IMG_0000.jpg", 6, np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(UserError, match="IMG_0000.jpg is 64 x 48, turned upright by its EXIF orientation"):
        Folder(photos, PATTERNS, ("semseg",))


@pytest.mark.parametrize("name", ["my [photos]", "a*b", "what?", "{id}", "[!a]", "a[0:2]"])
def test_folders_may_have_any_name(tmp_path, name):
    root = photographs(tmp_path / name / "photos")
    source = Folder(root, PATTERNS, ("semseg", "depth"), ENCODINGS)
    assert len(source) == 4 and source[0]["semseg"].shape == (48, 64)


def test_image_names_may_hold_anything(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "semseg").mkdir()
    names = ["a [1]", "b {x}", "c*?", "d\te", "f\ng", "é 日", os.fsdecode(b"\xff\xfe")]
    for name in names:
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{name}.jpg", "JPEG")
        Image.new("L", (8, 8)).save(tmp_path / "semseg" / f"{name}.png", "PNG")
    for name in ("f\ng", names[-1]):
        (tmp_path / "semseg" / f"{name}.png").write_bytes(b"damaged")
    source = Folder(tmp_path, {"images": "images/*", "semseg": "semseg/{id}.png"}, ("semseg",), on_error="skip")
    assert len(source) == 5 and set(source.skipped) == {"f\ng", names[-1]}
    assert {source[index]["id"] for index in range(5)} == {"a [1]", "b {x}", "c*?", "d\te", "é 日"}


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"images": "../images/*.jpg"}, "must be a path below data.root"),
        ({"images": "/images/*.jpg"}, "must be a path below data.root"),
        ({"images": ""}, "must be a path below data.root"),
        ({"images": "images/*.jpg", "semseg": "semseg/{id}_{camera}.png"}, "{id} alone stands for something"),
        ({"images": "images/*.jpg", "semseg": "semseg/{}{id}.png"}, "{id} alone stands for something"),
        ({"images": "images/*.jpg", "semseg": "semseg/{id}*.png"}, "{id} alone stands for something"),
        ({"images": "images/*.jpg", "semseg": "../semseg/{id}.png"}, "must be a path below data.root"),
        ({"images": "**/*.*", "semseg": "semseg/{id}.png"}, "IMG_0000"),
        ({"images": "semseg/*.png", "semseg": "semseg/{id}.png"}, "matches labels too"),
        ({"images": "images"}, "no images match"),
        ({"images": "images/[.jpg"}, "no images match"),
    ],
)
def test_mistaken_patterns_are_one_line(photos, patterns, message):
    tasks = tuple(key for key in patterns if key != "images")
    with pytest.raises(UserError) as error:
        Folder(photos, patterns, tasks)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_hidden_files_are_no_images(photos):
    (photos / "images" / "._IMG_0000.jpg").write_bytes(b"\0\5\26\7Mac OS X")
    (photos / "images" / ".ipynb_checkpoints").mkdir()
    shutil.copy(photos / "images" / "IMG_0000.jpg", photos / "images" / ".ipynb_checkpoints" / "IMG-checkpoint.jpg")
    for pattern in ("images/*", "images/**/*.jpg", "images/**"):
        assert len(Folder(photos, PATTERNS | {"images": pattern}, ("semseg",))) == 4


def test_other_files_beside_the_images_are_said(photos, caplog):
    (photos / "images" / "notes.txt").write_text("sunny")
    assert len(Folder(photos, PATTERNS | {"images": "images/*"}, ("semseg",))) == 4
    assert "leaves out 1 files beside them" in caplog.text and "notes.txt" in caplog.text


def png_of(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["images", "semseg"])
def test_pictures_that_claim_to_be_huge_are_named_or_skipped(photos, kind):
    path = photos / kind / ("IMG_0001.jpg" if kind == "images" else "IMG_0001.png")
    path.write_bytes(png_of(30000, 30000))
    with pytest.raises(UserError, match=r"IMG_0001\.\w+: claims 30000 x 30000 pixels"):
        Folder(photos, PATTERNS, ("semseg",))
    source = Folder(photos, PATTERNS, ("semseg",), on_error="skip")
    assert len(source) == 3 and list(source.skipped) == ["IMG_0001"]


def test_a_gif_that_claims_to_be_huge_is_named(photos):
    stream = io.BytesIO()
    Image.new("P", (8, 8)).save(stream, "GIF")
    content = bytearray(stream.getvalue())
    content[6:10] = struct.pack("<HH", 60000, 60000)
    (photos / "images" / "IMG_0001.jpg").write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"IMG_0001\.jpg: claims more than \d+ pixels"):
        Folder(photos, PATTERNS, ("semseg",))


def test_cmyk_photographs_are_as_pillow_has_them(photos):
    rng = np.random.default_rng(1)
    cmyk = Image.fromarray(rng.integers(0, 256, (48, 64, 4), dtype=np.uint8), "CMYK")
    cmyk.save(photos / "images" / "IMG_0000.jpg", quality=95)
    sample = Folder(photos, PATTERNS)[0]
    np.testing.assert_array_equal(
        sample["image"], np.array(Image.open(photos / "images" / "IMG_0000.jpg").convert("RGB"))
    )


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_photographs_of_16_bits_keep_their_brightness(tmp_path, ending):
    import cv2

    (tmp_path / "images").mkdir()
    levels = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * np.uint16(21)
    cv2.imwrite(str(tmp_path / "images" / f"grey.{ending}"), levels)
    colours = np.dstack([levels, levels[::-1], levels[:, ::-1]])
    cv2.imwrite(str(tmp_path / "images" / f"rgb.{ending}"), colours)
    source = Folder(tmp_path, {"images": "images/*"})
    np.testing.assert_array_equal(source[0]["image"], np.repeat(np.rint(levels / 257)[..., None], 3, axis=2))
    np.testing.assert_array_equal(source[1]["image"], np.rint(colours[..., ::-1] / 257))
    cv2.imwrite(str(tmp_path / "images" / f"grey.{ending}"), levels // 16)
    with pytest.raises(UserError, match="it would be black"):
        Folder(tmp_path, {"images": "images/*"})[0]


def test_images_of_floats_are_refused(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "images" / "a.tif")
    with pytest.raises(UserError, match=r"a\.tif: is an image of floating point numbers"):
        Folder(tmp_path, {"images": "images/*"})[0]
