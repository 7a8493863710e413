"""The contract of label files: every way of saving a label gives what it means, or an error that names the file."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from sak_jax.data import labels
from sak_jax.errors import UserError

CLASSES = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 255, 0]], np.uint8)
MASK = np.array([[0, 1, 1, 0], [1, 0, 0, 1]], np.uint8)
DEPTH = np.array([[0.5, 1.25, 8.999], [0, 3, 2]], np.float32)
VECTORS = np.tile(
    np.array([[[0, 0, 1], [0.6, 0, 0.8], [0, 0, 0]], [[0, -0.6, 0.8], [1, 0, 0], [0, 1, 0]]], np.float32), (1, 2, 1)
)


def picture(array, kind="PNG", **options):
    stream = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(stream, kind, **options)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def opencv(array, ending):
    return cv2.imencode(ending, array)[1].tobytes()


def _kind(content):
    return {b"\x89P": "PNG", b"\x93N": "npy", b"PK": "npz", b"RI": "WebP", b"BM": "BMP", b"P5": "PGM"}.get(
        content[:2], "TIFF"
    )


def grey_png(values, bits):
    """A grey PNG of 1, 2 or 4 bits, as PNG optimisers write."""
    each = 8 // bits
    rows = b""
    for row in values:
        padded = [*row, *[0] * (-len(row) % each)]
        packed = [sum(int(v) << (8 - bits * (k + 1)) for k, v in enumerate(padded[i : i + each]))
                  for i in range(0, len(padded), each)]  # fmt: skip
        rows += b"\0" + bytes(packed)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def coloured_palette(values):
    image = Image.fromarray(values, "P")
    image.putpalette([channel for k in range(256) for channel in (k * 37 % 256, k * 91 % 256, 255 - k)])
    return image


def rgba(colours, alpha):
    return Image.fromarray(np.dstack([colours, alpha]))


NO_VOID = np.where(CLASSES == 255, 0, CLASSES)
WITH_NAN = np.where(CLASSES == 255, np.nan, CLASSES)
MINUS_1 = np.where(CLASSES == 255, -1, CLASSES.astype(np.int64))
IN_16_BITS = np.where(CLASSES == 255, 65535, CLASSES.astype(np.uint16)).astype(np.uint16)


@pytest.mark.parametrize(
    "content",
    [
        picture(CLASSES),
        picture(CLASSES.astype(np.uint16)),
        picture(IN_16_BITS),
        picture(coloured_palette(CLASSES)),
        picture(coloured_palette(CLASSES), transparency=0),
        picture(np.dstack([CLASSES] * 3)),
        picture(rgba(np.dstack([CLASSES] * 3), np.full(CLASSES.shape, 255, np.uint8))),
        picture(Image.fromarray(CLASSES).convert("LA")),
        picture(CLASSES, "TIFF"),
        picture(CLASSES, "BMP"),
        picture(CLASSES, "PPM"),
        picture(CLASSES, "WEBP", lossless=True),
        picture(WITH_NAN.astype(np.float32), "TIFF"),
        opencv(np.dstack([IN_16_BITS] * 3), ".png"),
        opencv(MINUS_1.astype(np.int16), ".tif"),
        opencv(WITH_NAN, ".tif"),
        npy(CLASSES),
        npy(CLASSES[None]),
        npy(CLASSES[..., None]),
        npy(np.asfortranarray(CLASSES)),
        npy(CLASSES.astype(">i4")),
        npy(MINUS_1),
        npy(WITH_NAN),
        npy(WITH_NAN.astype(np.float16)),
        npz(labels=CLASSES),
    ],
    ids=_kind,
)
def test_class_maps_are_the_same_however_they_were_saved(content):
    label = labels.decode("index", content, "x")
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, CLASSES)
    from_1 = labels.decode("index_from_1", content, "x")
    np.testing.assert_array_equal(from_1, np.where((CLASSES == 0) | (CLASSES == 255), 255, CLASSES.astype(int) - 1))


def test_few_bits_are_classes_and_not_their_brightness():
    for bits in (2, 4):
        np.testing.assert_array_equal(labels.decode("index", grey_png(NO_VOID, bits), "x"), NO_VOID)
    np.testing.assert_array_equal(labels.decode("index", grey_png(MASK, 1), "x"), MASK)
    np.testing.assert_array_equal(labels.decode("index", npy(MASK.astype(bool)), "x"), MASK)


COLOURS = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
GREY_PALETTE = Image.fromarray(MASK, "P")
GREY_PALETTE.putpalette([0, 0, 0, 255, 255, 255])
HALF = rgba(np.dstack([CLASSES] * 3), np.full(CLASSES.shape, 128, np.uint8))
WORDS = npy(np.array([["a", "b"]]))
STRUCT = npy(np.zeros((3, 4), [("a", np.uint8), ("b", np.uint8)]))


def npy_of_dict():
    stream = io.BytesIO()
    np.save(stream, {"depth": DEPTH}, allow_pickle=True)
    return stream.getvalue()


def sparse_npz():
    stream = io.BytesIO()
    scipy.sparse.save_npz(stream, scipy.sparse.csr_matrix(CLASSES))
    return stream.getvalue()


NEVER_LABELS = {
    "JPEG": (picture(CLASSES, "JPEG"), "JPEG.*changes"),
    "lossy WebP": (picture(CLASSES, "WEBP", quality=90), "compressed with loss"),
    "TIFF with JPEG inside": (picture(CLASSES, "TIFF", compression="jpeg"), "compressed with loss"),
    "strings": (WORDS, "holds <U1, not numbers"),
    "struct": (STRUCT, "holds a struct, not numbers"),
    "dict": (npy_of_dict(), "holds Python objects, not numbers"),
    "several arrays": (npz(a=CLASSES, b=CLASSES), "holds a, b, and one array is wanted"),
    "sparse": (sparse_npz(), r"sparse matrix of SciPy: save its \.toarray"),
    "GIF": (picture(coloured_palette(CLASSES), "GIF"), "GIF file, which labels are not read from"),
    "video": (npy(np.zeros((5, 3, 4))), r"must be one map, this has the shape \(5, 3, 4\)"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "HTML": (b"<!DOCTYPE html><html>not found</html>", "HTML page"),
    "EXR": (b"v/1\x01" + bytes(100), "OpenEXR, which is not read"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "empty": (b"", "empty"),
    "animation": (
        picture(Image.fromarray(CLASSES), "TIFF", save_all=True, append_images=[Image.fromarray(CLASSES)]),
        "holds 2 pictures",
    ),
}


@pytest.mark.parametrize("encoding", ["index", "index_from_1", "fraction", "millimetres", "metres", "rgb_normals"])
@pytest.mark.parametrize("kind", NEVER_LABELS)
def test_what_no_encoding_allows_is_refused_by_name(encoding, kind):
    content, _ = NEVER_LABELS[kind]
    with pytest.raises(UserError, match=r"^label\.x: [^\n]*$"):
        labels.decode(encoding, content, "label.x")


@pytest.mark.parametrize("kind", NEVER_LABELS)
def test_the_reason_is_named(kind):
    content, message = NEVER_LABELS[kind]
    with pytest.raises(UserError, match=message):
        labels.decode("index", content, "label.x")


@pytest.mark.parametrize(
    ("encoding", "content", "message"),
    [
        ("index", picture(COLOURS), "3 channels that differ"),
        ("index", picture(HALF), "transparent pixels"),
        ("index", picture(GREY_PALETTE), "greys other than its indices"),
        ("index", npy(DEPTH), "holds 0.5, and classes are whole numbers"),
        ("index", npy(np.array([[np.inf, 0]])), "holds inf"),
        ("index", npy(np.array([[-2, 0]])), "label -2 does not fit"),
        ("index", picture(np.full((2, 2), 300, np.uint16)), "label 300 does not fit"),
        ("binary", picture(CLASSES * 20 % 100), "largest level is"),
        ("binary", picture(np.array([[0, 1, 255]], np.uint8)), "holds 0, 1 and 255"),
        ("binary", npy(np.array([[0, -1]])), "holds int64 of -1"),
        ("binary", picture(coloured_palette(CLASSES)), "palette of colours"),
        ("fraction", npy(np.array([[0.0, 1.5]])), "holds float64 of 0.0 to 1.5"),
        ("fraction", npy(np.array([[0.0, np.inf]])), "to inf"),
        ("fraction", npy(np.array([[0.0, -0.5]])), "of -0.5"),
        ("fraction", picture(COLOURS), "3 channels that differ"),
        ("rgb_normals", picture(CLASSES), "has one channel"),
        ("rgb_normals", npy(np.random.default_rng(0).uniform(0, 0.5, (3, 4, 3))), "no unit vectors"),
        ("rgb_normals", npy(np.zeros((3, 4, 3), np.int16)), "holds int16"),
        ("rgb_normals", picture(rgba(COLOURS, np.full((3, 4), 100, np.uint8))), "half transparent"),
        ("metres", npy((DEPTH * 1000).astype(np.int16)), "holds int16.*set data.encodings to millimetres"),
        ("metres", npy(DEPTH * 1000), "8999 m: set data.encodings to millimetres"),
        ("metres", npy(-DEPTH - 2), "depths of -.* depth is positive"),
        ("metres", picture((DEPTH * 1000).astype(np.uint16)), "holds uint16.*millimetres"),
        ("metres", picture(CLASSES), "holds uint8"),
        ("metres", npz(a=DEPTH, b=DEPTH), "holds a, b"),
        ("millimetres", picture(CLASSES), "has 8 bits, too few"),
        ("millimetres", picture(CLASSES, "JPEG"), "changes depth"),
        ("millimetres", npy(DEPTH), "nothing farther than 8.999 mm: set data.encodings to metres"),
        ("millimetres", npy((-DEPTH * 1000 - 2).astype(np.int16)), "depth is positive"),
        ("millimetres", npy((DEPTH * 1e6).astype(np.int32)), "holds depths of 8999 m"),
    ],
    ids=lambda value: _kind(value) if isinstance(value, bytes) else value[:20],
)
def test_what_an_encoding_does_not_allow_is_refused_with_the_remedy(encoding, content, message):
    with pytest.raises(UserError, match=rf"^label\.x: .*{message}"):
        labels.decode(encoding, content, "label.x")


@pytest.mark.parametrize(
    "content",
    [
        picture(MASK),
        picture(MASK * 255),
        picture(MASK * np.uint16(65535)),
        picture(MASK.astype(np.uint16)),
        grey_png(MASK, 1),
        picture(Image.fromarray(MASK * 255).convert("1")),
        picture(GREY_PALETTE),
        picture(coloured_palette(MASK)),
        picture(np.dstack([MASK * 255] * 3)),
        npy(MASK.astype(bool)),
        npy(MASK.astype(np.float32)),
        npy(MASK.astype(np.int64)),
        npy(MASK * 255.0),
        npz(mask=MASK),
    ],
    ids=_kind,
)
def test_masks_are_the_same_however_they_were_saved(content):
    mask = labels.decode("binary", content, "x")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK)
    edges = labels.decode("fraction", content, "x")
    assert edges.dtype == np.float32
    np.testing.assert_array_equal(edges, MASK)


def test_masks_saved_as_jpeg_are_what_was_drawn():
    drawn = np.kron(MASK, np.ones((16, 16), np.uint8))
    np.testing.assert_array_equal(labels.decode("binary", picture(drawn * 255, "JPEG"), "x"), drawn)
    nothing = np.zeros((16, 16), np.uint8)
    nothing[3, 4] = 9
    assert not labels.decode("binary", picture(nothing, "JPEG"), "x").any()


def test_levels_are_cut_in_the_middle():
    np.testing.assert_array_equal(
        labels.decode("binary", picture(np.array([[0, 127, 128, 255]], np.uint8)), "x"), [[0, 0, 1, 1]]
    )
    np.testing.assert_array_equal(labels.decode("binary", npy(np.array([[0.49, 0.5, np.nan]])), "x"), [[0, 1, 255]])


def test_fractions_keep_their_depth():
    eight = np.array([[0, 51, 255]], np.uint8)
    np.testing.assert_array_equal(labels.decode("fraction", picture(eight), "x"), eight / np.float32(255))
    sixteen = np.array([[0, 300, 65535]], np.uint16)
    np.testing.assert_array_equal(labels.decode("fraction", picture(sixteen), "x"), sixteen / np.float32(65535))
    floats = np.array([[0, 0.25, np.nan]], np.float32)
    np.testing.assert_array_equal(labels.decode("fraction", npy(floats), "x"), [[0, 0.25, 255]])


def test_normals_are_the_same_however_they_were_saved():
    valid = VECTORS.any(axis=-1, keepdims=True)
    colours = np.where(valid, np.rint((VECTORS + 1) * 127.5), 0).astype(np.uint8)
    sixteen = np.where(valid, np.rint((VECTORS + 1) * 32767.5), 0).astype(np.uint16)
    alpha = np.where(valid[..., 0], 255, 0).astype(np.uint8)
    blue = np.where(valid, colours, [128, 128, 255]).astype(np.uint8)
    with_nan = np.where(valid, VECTORS, np.nan)
    coarse = [
        picture(colours),
        picture(colours, "TIFF"),
        picture(rgba(blue, alpha)),
        npy(colours),
        npy(colours.transpose(2, 0, 1)),
    ]
    fine = [
        opencv(sixteen[..., ::-1], ".png"),
        opencv(sixteen[..., ::-1], ".tif"),
        npy(sixteen),
        npy(VECTORS),
        npy(with_nan),
        npy(VECTORS.astype(np.float64)),
        opencv(VECTORS[..., ::-1], ".tif"),
    ]
    for contents, step in ((coarse, 1 / 255), (fine, 1 / 65535)):
        for content in contents:
            normals = labels.decode("rgb_normals", content, "x")
            assert normals.dtype == np.float32
            np.testing.assert_allclose(normals, VECTORS, rtol=0, atol=step * 1.01)
            assert not normals[~valid[..., 0]].any()


def test_depth_is_the_same_however_it_was_saved():
    missing = DEPTH == 0
    metres = [
        npy(DEPTH),
        npy(DEPTH.astype(np.float64)),
        npy(DEPTH[..., None]),
        npy(np.where(missing, np.nan, DEPTH)),
        npy(np.where(missing, np.inf, DEPTH)),
        npy(np.where(missing, -np.inf, DEPTH)),
        npy(np.where(missing, -1, DEPTH)),
        npz(depth=DEPTH),
        picture(DEPTH, "TIFF"),
        picture(DEPTH, "PPM"),
    ]
    whole = np.rint(DEPTH * 1000)
    millimetres = [
        picture(whole.astype(np.uint16)),
        picture(np.where(missing, 65535, whole).astype(np.uint16)),
        picture(whole.astype(np.uint16), "TIFF"),
        picture(whole.astype(np.int32), "TIFF"),
        npy(whole.astype(np.int16)),
        npy(np.where(missing, -1, whole).astype(np.int16)),
        npy(np.where(missing, np.nan, whole)),
        npy(whole.astype(np.uint32)),
    ]
    for encoding, contents in (("metres", metres), ("millimetres", millimetres)):
        for content in contents:
            depth = labels.decode(encoding, content, "x")
            assert depth.dtype == np.float32
            np.testing.assert_allclose(depth, DEPTH, rtol=1e-6)


def test_an_image_without_any_measurement_is_legal():
    assert not labels.decode("millimetres", picture(np.zeros((3, 4), np.uint16)), "x").any()
    assert not labels.decode("millimetres", picture(np.full((3, 4), 65535, np.uint16)), "x").any()
    assert not labels.decode("metres", npy(np.full((3, 4), np.nan, np.float32)), "x").any()
