"""MATLAB files read as SciPy reads them."""

import io

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from sak_jax.data import mat
from sak_jax.errors import UserError


def saved(content, **options):
    stream = io.BytesIO()
    scipy.io.savemat(stream, content, **options)
    return stream.getvalue()


def assert_same(found, expected):
    if not isinstance(expected, np.ndarray):
        assert found == expected
        return
    assert found.shape == expected.shape and found.dtype == expected.dtype
    if expected.dtype.names:
        for name in expected.dtype.names:
            for a, b in zip(found[name].ravel(), expected[name].ravel(), strict=True):
                assert_same(a, b)
    elif expected.dtype == object:
        for a, b in zip(found.ravel(), expected.ravel(), strict=True):
            assert_same(a, b)
    else:
        np.testing.assert_array_equal(found, expected)


CONTENT = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "small": np.array([[1, 2]], np.uint8),
    "signed": np.array([[-5], [70000]], np.int64),
    "floats": np.array([[1.5]], np.float32),
    "flags": np.array([[True, False]]),
    "cube": np.arange(24, dtype=np.uint16).reshape(2, 3, 4),
    "text": "head",
    "far": "héllo €",
    "lines": np.array(["abc", "def"]),
    "nothing": "",
    "cells": np.array([["ab", np.ones((2, 2))]], object),
    "nested": {"name": "x", "inner": {"mask": np.ones((2, 3), np.uint8), "of": np.zeros((0, 0))}},
}


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("variable", CONTENT)
def test_variables_are_as_scipy_reads_them(variable, compressed):
    content = saved(CONTENT, do_compression=compressed)
    assert_same(mat.decode(content, "x", variable), scipy.io.loadmat(io.BytesIO(content))[variable])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved({"other": 1}), "x.mat: has no variable 'LabelMap'"),
        (b"MATLAB 7.3 MAT-file" + bytes(600), r"MATLAB's version 7\.3 \(HDF5\), and 5 is read: save it with '-v7'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), r"version 7\.3"),
        (saved({"LabelMap": 1}, format="4"), "has no header of version 5"),
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (saved({"LabelMap": np.ones((50, 50))})[:-900], "is not a whole .mat file"),
        (saved({"LabelMap": np.arange(2500.0)}, do_compression=True)[:-900], "is not a whole .mat file"),
        (saved({"LabelMap": np.array([[1j]])}), "neither real numbers, text, cells nor structs"),
        (saved({"LabelMap": scipy.sparse.eye(3).tocsc()}), "neither real numbers, text, cells nor structs"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_one_line(content, message):
    with pytest.raises(UserError, match=message) as error:
        mat.decode(content, "x.mat", "LabelMap")
    assert "\n" not in str(error.value) and str(error.value).startswith("x.mat: ")
