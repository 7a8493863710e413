"""Split files and lists as editors on other systems save them."""

import json

import numpy as np
import pytest
import scipy.io

from sak_jax.data.rooms import layouts
from sak_jax.data.sets.nyud import NYUD
from sak_jax.data.sets.pascal_context import PASCALContext
from sak_jax.errors import UserError


@pytest.fixture
def nyud(tmp_path):
    layouts.write_nyud(tmp_path / "nyud", 3, 1, size=(32, 48))
    return tmp_path / "nyud"


@pytest.fixture
def pascal(tmp_path):
    layouts.write_pascal_context(tmp_path / "pascal", 3, 1, size=(32, 48))
    return tmp_path / "pascal"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with a mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  "])
def test_split_files_of_windows_are_read(nyud, encoding, end):
    text = end.join(["0001", "0002", "0003"])
    content = b"\xff\xfe" + text.encode("utf-16-le") if "mark" in encoding else text.encode(encoding)
    (nyud / "gt_sets" / "train.txt").write_bytes(content)
    assert NYUD(nyud, "train").ids == ["0001", "0002", "0003"]


@pytest.mark.parametrize("content", ["0001\n".encode("utf-16-le"), b"\xff0001\n", b"0001\0\n"])
def test_split_files_that_are_no_text_are_one_line(nyud, content):
    (nyud / "gt_sets" / "train.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"train\.txt: (is not text in UTF-8|holds null characters)"):
        NYUD(nyud, "train")


def test_lists_with_a_byte_order_mark_are_read(pascal):
    for path in (pascal / "json").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(PASCALContext(pascal, "train", ("normals",))) == 3


@pytest.mark.parametrize("content", ["[]", "3", '{"wall": "x"}', '{"wall": -1}', '{"wall": [1]}', "{", "[" * 100_000])
@pytest.mark.parametrize("file", ["json/nyu_classes.json", "json/context_classes.json"])
def test_lists_of_another_form_are_one_line(pascal, file, content):
    (pascal / file).write_text(content)
    with pytest.raises(UserError, match=file):
        PASCALContext(pascal, "train", ("normals",))


@pytest.mark.parametrize("content", ["[]", '{"2008_000001": 3}', "{}"])
def test_a_list_of_objects_of_another_form_is_made_anew_or_one_line(pascal, content):
    path = pascal / "ImageSets" / "Parts" / "train.txt"
    expected = PASCALContext(pascal, "train", ("human_parts", "sal"))
    path.write_text(content)
    try:
        found = PASCALContext(pascal, "train", ("human_parts", "sal"))
    except UserError as error:
        assert str(path) in str(error)
        return
    for index in range(3):
        np.testing.assert_array_equal(found[index]["human_parts"], expected[index]["human_parts"])


def test_void_of_255_in_nyud_is_void(nyud):
    import cv2

    path = nyud / "segmentation" / "0001.png"
    stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    expected = NYUD(nyud, "train", ("semseg",))[0]["semseg"]
    cv2.imwrite(str(path), np.where(stored == 0, 255, stored))
    assert (stored == 0).any()
    np.testing.assert_array_equal(NYUD(nyud, "train", ("semseg",))[0]["semseg"], expected)


def test_matlabs_version_7_3_is_called_by_its_name(pascal):
    path = pascal / "pascal-context" / "trainval" / "2008_000001.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n" + bytes(99))
    with pytest.raises(UserError, match=r"2008_000001\.mat: is MATLAB's version 7\.3"):
        PASCALContext(pascal, "train", ("edge",))[0]
    assert json.loads((pascal / "json" / "context_classes.json").read_text())


def test_a_damaged_mat_file_is_one_line_and_can_be_skipped(pascal):
    """Bytes on which SciPy's reader crashes the process, or near them: types and sizes of elements overwritten."""
    path = pascal / "human_parts" / "2008_000001.mat"
    annotation = scipy.io.loadmat(path)["anno"]
    scipy.io.savemat(path, {"anno": annotation}, do_compression=False)
    whole = path.read_bytes()
    (pascal / "ImageSets" / "Parts" / "train.txt").unlink()
    for position in range(128, min(len(whole), 1200), 24):
        path.write_bytes(whole[:position] + b"\xff\x7f\x00\x00\xff\xff\xff\x0f" + whole[position + 8 :])
        try:
            PASCALContext(pascal, "train", ("human_parts", "sal"))[0]
        except UserError as error:
            assert str(path) in str(error)
    path.write_bytes(whole[:700])
    with pytest.raises(UserError, match="2008_000001.mat"):
        PASCALContext(pascal, "train", ("human_parts", "sal"))[0]
    source = PASCALContext(pascal, "train", ("human_parts", "sal"), on_error="skip")
    assert source[0]["id"] == "2008_000002" and list(source.skipped) == ["2008_000001"]
