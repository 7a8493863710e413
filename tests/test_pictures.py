"""What a student is shown of a picture: reading, padding, tiles, and putting results together again."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from sak_jax import pictures
from sak_jax.errors import UserError
from sak_jax.pictures import Sizes

NYUD = Sizes(16, (448, 576))
ROOMS = Sizes(8, (72, 96))


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def merged(outputs, layout):
    blend = pictures.Blend(layout)
    for index, output in reversed(list(enumerate(outputs))):  # In any order.
        blend.add(index, output)
    return blend.result()


def saved(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def test_arrays_of_all_forms_become_rgb():
    picture = noise(5, 7)
    np.testing.assert_array_equal(pictures.read(picture), picture)
    np.testing.assert_array_equal(pictures.read(np.dstack([picture, noise(5, 7, 1)])), picture)
    np.testing.assert_array_equal(pictures.read(picture[..., 0]), np.repeat(picture[..., :1], 3, 2))
    np.testing.assert_array_equal(pictures.read(picture[..., :1]), np.repeat(picture[..., :1], 3, 2))
    np.testing.assert_array_equal(pictures.read(picture.astype(np.uint16) * 257), picture)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (np.zeros((4, 4, 3), np.float32), "student\\(images\\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), "list"),
        (np.zeros((4, 4, 2), np.uint8), r"\[h, w, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[h, w, 3\]"),
        (None, "NoneType"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_is_no_picture_is_refused(given, word):
    with pytest.raises(UserError, match=word):
        pictures.read(given)


def test_files_of_all_forms(tmp_path):
    picture = noise(6, 9)
    exif = Image.Exif()
    exif[0x0112] = 6  # Shown turned by 90 degrees clockwise.
    turned = pictures.read(saved(tmp_path / "a.png", picture, exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(picture, -1))
    grey = pictures.read(saved(tmp_path / "b.png", picture[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(picture[..., :1], 3, 2))
    alpha = pictures.read(saved(tmp_path / "c.png", np.dstack([picture, noise(6, 9, 1)])))
    np.testing.assert_array_equal(alpha, picture)
    cv2.imwrite(str(tmp_path / "d.png"), picture[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(pictures.read(tmp_path / "d.png"), picture)
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).convert("CMYK").save(stream, "JPEG", quality=100)
    (tmp_path / "e.jpg").write_bytes(stream.getvalue())
    assert np.abs(pictures.read(str(tmp_path / "e.jpg")).astype(int) - 200).max() <= 3


@pytest.mark.parametrize(
    ("sizes", "size", "window"),
    [
        (NYUD, (425, 560), (448, 576)),  # As the evaluation pads NYUD-v2.
        (NYUD, (448, 576), (448, 576)),
        (NYUD, (449, 577), (512, 640)),
        (NYUD, (10, 700), (64, 704)),
        (ROOMS, (72, 96), (72, 96)),
        (ROOMS, (65, 97), (72, 128)),
        (ROOMS, (1, 64), (32, 64)),
        (Sizes(14, (70, 70)), (57, 71), (70, 112)),
        (Sizes(1, (24, 32), fixed=True), (10, 32), (24, 32)),
    ],
)
def test_sides_are_padded_by_the_rule(sizes, size, window):
    layout = sizes.layout(size)
    assert layout.window == window and layout.tops == layout.lefts == (0,)
    assert all(side % sizes.patch == 0 for side in window)


@pytest.mark.parametrize(
    ("sizes", "size", "tile", "window"),
    [
        (NYUD, (1411, 1411), None, (448, 576)),  # More than 4096 patches.
        (NYUD, (1024, 1024), None, (1024, 1024)),  # Just as many.
        (NYUD, (400, 9000), None, (448, 576)),
        (NYUD, (1000, 300), (500, 500), (512, 320)),
        (ROOMS, (100, 100), (32, 32), (32, 32)),
        (ROOMS, (100, 100), (99, 97), (128, 128)),  # A tile of 104 x 104 holds it all.
        (Sizes(1, (24, 32), fixed=True), (50, 20), (99, 99), (24, 32)),
    ],
)
def test_large_pictures_are_cut_into_tiles_that_cover_them(sizes, size, tile, window):
    layout = sizes.layout(size, tile)
    assert layout.window == window
    seen = np.zeros(size, int)
    for rows, columns in layout.places:
        assert 0 <= rows.start < rows.stop <= size[0] and 0 <= columns.start < columns.stop <= size[1]
        seen[rows, columns] += 1
    assert seen.min() >= 1
    for starts, length in ((layout.tops, window[0]), (layout.lefts, window[1])):
        assert all(later - earlier <= 0.75 * length + 1 for earlier, later in zip(starts, starts[1:], strict=False))


def test_windows_are_normalised_and_padded_with_zeros():
    picture = noise(5, 9)
    layout = Sizes(4, (8, 16)).layout((5, 9))
    found = pictures.window(picture, layout, 0)
    assert found.shape == (8, 16, 3) and found.dtype == np.float32
    wanted = (picture / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found[1:6, 3:12], wanted, atol=1e-6)
    assert not found[0].any() and not found[6:].any() and not found[:, :3].any() and not found[:, 12:].any()
    assert layout.inside == (slice(1, 6), slice(3, 12))


@pytest.mark.parametrize("tile", [None, (8, 8), (12, 40)])
def test_windows_and_merging_are_inverse(tile):
    picture = noise(29, 35)
    layout = Sizes(4, (8, 12)).layout((29, 35), tile)
    assert (len(layout.places) > 1) == (tile is not None)
    windows = [pictures.window(picture, layout, index) for index in range(len(layout.places))]
    wanted = (picture / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(merged(windows, layout), wanted, atol=1e-5)


def test_tiles_are_blended_without_a_seam():
    layout = Sizes(8, (16, 16)).layout((16, 28), (16, 16))
    assert layout.lefts == (0, 12)
    outputs = [np.full((16, 16, 1), value, np.float32) for value in (0.0, 1.0)]
    row = merged(outputs, layout)[3, :, 0]
    assert (row[:12] == 0).all() and (row[16:] == 1).all()
    np.testing.assert_allclose(row[12:16], [0.125, 0.375, 0.625, 0.875], atol=1e-6)


def test_scaling_keeps_proportions():
    assert pictures.scaled(noise(40, 20), (20, 20)).shape == (20, 10, 3)
    assert pictures.scaled(noise(40, 20), (80, 80)).shape == (80, 40, 3)
    flat = np.full((30, 50, 3), 77, np.uint8)
    assert (pictures.scaled(flat, (7, 90)) == 77).all()
    for channels in (1, 150):
        output = np.ones((3, 4, channels), np.float32)
        output[..., -1] = 2
        found = pictures.at_size(output, (9, 8))
        assert found.shape == (9, 8, channels) and (found == output[:1, :1]).all()
    with pytest.raises(UserError, match="resize is 9000,8000"):
        pictures.scaled(flat, (9000, 8000))
