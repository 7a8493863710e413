import argparse
import io
import json
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from etils import epath

from sak_jax.errors import UserError
from sak_jax.weights.files import check_finite, read_metadata, read_weights, write_safetensors, write_torch

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones((4,), np.float16)}


def same(found, wanted=ARRAYS):
    assert found.keys() == wanted.keys()
    for key in wanted:
        assert found[key].dtype == wanted[key].dtype
        np.testing.assert_array_equal(found[key], wanted[key])


def test_safetensors_there_and_back(tmp_path):
    write_safetensors(tmp_path / "new" / "x.safetensors", ARRAYS, {"source": "here"})
    same(read_weights(tmp_path / "new" / "x.safetensors"))
    assert read_metadata(tmp_path / "new" / "x.safetensors") == {"source": "here"}
    assert os.listdir(tmp_path / "new") == ["x.safetensors"]


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_pytorch_files_nested_or_not(tmp_path, wrapper):
    state = {key: torch.from_numpy(value) for key, value in ARRAYS.items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "x.pth")
    same(read_weights(tmp_path / "x.pth"))


def test_bfloat16_becomes_float32(tmp_path):
    value = torch.tensor([1.5, -0.0078125], dtype=torch.bfloat16)
    torch.save({"a": value}, tmp_path / "x.bin")
    same(read_weights(tmp_path / "x.bin"), {"a": np.array([1.5, -0.0078125], np.float32)})


def test_npz(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    same(read_weights(tmp_path / "x.npz"))


def test_shards(tmp_path):
    write_safetensors(tmp_path / "m-1.safetensors", {"a.weight": ARRAYS["a.weight"]})
    write_safetensors(tmp_path / "m-2.safetensors", {"b": ARRAYS["b"]})
    index = tmp_path / "m.safetensors.index.json"
    index.write_text('{"weight_map": {"a.weight": "m-1.safetensors", "b": "m-2.safetensors"}}')
    same(read_weights(index))
    (tmp_path / "m-2.safetensors").unlink()
    with pytest.raises(UserError, match="m-2.safetensors: no such file"):
        read_weights(index)


class RunsCode:
    def __reduce__(self):
        return os.mkdir, (os.environ["SAK_JAX_TEST_TRAP"],)


@pytest.mark.parametrize("save", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch, save):
    monkeypatch.setenv("SAK_JAX_TEST_TRAP", str(tmp_path / "trap"))
    save({"a": RunsCode()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="x.pth.*run code"):
        read_weights(tmp_path / "x.pth")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "npz"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.98])
def test_a_truncated_file_is_refused(tmp_path, suffix, part):
    path = tmp_path / f"x.{suffix}"
    arrays = {"a": np.zeros((100, 100), np.float32)}
    if suffix == "pth":
        torch.save({"a": torch.zeros(100, 100)}, path)
    elif suffix == "npz":
        np.savez(path, **arrays)
    else:
        write_safetensors(path, arrays)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match=f"x.{suffix}") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "bin", "npz", "json"])
def test_something_else_is_refused(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_text("<html>404 not found</html>")
    with pytest.raises(UserError, match=f"x.{suffix}"):
        read_weights(path)


def test_wrong_paths_and_contents_are_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\x00\x01\x02")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    np.savez(tmp_path / "object.npz", a=np.array([{}], dtype=object))
    for name, words in {
        "missing.npz": "no such file",
        ".": "a folder",
        "x.onnx": "unknown kind",
        "list.pt": "holds a list",
        "empty.pt": "holds no weights",
        "object.npz": "plain arrays",
    }.items():
        with pytest.raises(UserError, match=words):
            read_weights(tmp_path / name)


def header(entries, data=b"", **metadata):
    """A safetensors file with any header."""
    text = json.dumps(entries | ({"__metadata__": metadata} if metadata else {})).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_bfloat16_safetensors_become_float32_exactly(tmp_path):
    values = torch.tensor([[1.5, -0.0078125], [3.3895e38, -1e-40]], dtype=torch.bfloat16)
    safetensors.torch.save_file({"a": values, "b": values.half()}, tmp_path / "x.safetensors")
    found = read_weights(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(found["a"], values.float().numpy())
    assert found["a"].dtype == np.float32 and found["b"].dtype == np.float16


def test_bfloat16_npz_of_jax_becomes_float32_exactly(tmp_path):
    values = np.array([1.5, -0.0078125], ml_dtypes.bfloat16)
    np.savez(tmp_path / "x.npz", a=values)  # NumPy writes it as bytes without a type.
    same(read_weights(tmp_path / "x.npz"), {"a": np.array([1.5, -0.0078125], np.float32)})


def test_every_type_of_safetensors_is_read_as_the_library_reads_it(tmp_path):
    arrays = {
        name: np.arange(6).astype(name).reshape(2, 3) for name in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1")
    }
    arrays |= {"bool": np.array([True, False]), "scalar": np.float32(3).reshape(()), "empty": np.zeros((0, 4), "f4")}
    write_safetensors(tmp_path / "x.safetensors", arrays)
    same(read_weights(tmp_path / "x.safetensors"), safetensors.numpy.load_file(tmp_path / "x.safetensors"))


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (header({"a": ENTRY | {"dtype": "F8_E4M3", "data_offsets": [0, 2]}}, bytes(2)), "a is of the type F8_E4M3"),
        (header({"a": ENTRY}, bytes(4)), "beyond its end"),
        (header({"a": ENTRY}, bytes(12)), "more in it than its header says"),
        (header({"a": ENTRY | {"shape": [-2]}}, bytes(8)), "not of whole numbers"),
        (header({"a": ENTRY | {"shape": [1 << 62, 1 << 62]}}, bytes(8)), "does not lie where"),
        (header({"a": ENTRY | {"data_offsets": [8, 16]}}, bytes(16)), "does not lie where"),
        (header({"a": ENTRY, "b": ENTRY}, bytes(8)), "does not lie where"),
        (header({"a": 3}, bytes(8)), "not a whole safetensors file"),
        (b"\xff" * 7 + b"\x00{", "not a whole safetensors file|unknown kind"),
        (header({}), "holds no weights"),
    ],
)
def test_damaged_safetensors_are_one_line(tmp_path, content, words):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=f"x.safetensors.*({words})") as error:
        read_weights(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


def test_metadata_is_read_without_the_arrays(tmp_path, monkeypatch):
    (tmp_path / "x.safetensors").write_bytes(header({"a": ENTRY}, bytes(8), teacher="dinov2"))
    monkeypatch.setattr(type(epath.Path(tmp_path)), "read_bytes", None)
    assert read_metadata(tmp_path / "x.safetensors") == {"teacher": "dinov2"}
    (tmp_path / "y.safetensors").write_bytes(b"<html>")
    with pytest.raises(UserError, match="y.safetensors: not a whole safetensors file"):
        read_metadata(tmp_path / "y.safetensors")


def lying_npz(path, claimed):
    """An archive whose array says it is larger than it is."""
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "<f4", "fortran_order": False, "shape": claimed})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", data.getvalue() + bytes(8))


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w", force_zip64=True) as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": (300 << 18,)})
        for _ in range(300):
            f.write(bytes(1 << 20))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: lying_npz(path, (1 << 50,)), "not as large as it says"),
        (lambda path: lying_npz(path, (3,)), "not as large as it says"),
        (bomb, "arrays of 0.3 GB in 0.3 MB are no trained weights"),
        (lambda path: np.savez(path, a=np.array(["text"])), "an array of <U4"),
        (lambda path: np.savez(path, a=np.zeros(2, [("x", "f4"), ("y", "i4")])), "an array of"),
    ],
)
def test_npz_files_that_lie_are_one_line(tmp_path, make, words):
    make(tmp_path / "x.npz")
    with pytest.raises(UserError, match=f"x.npz.*{words}") as error:
        read_weights(tmp_path / "x.npz")
    assert "\n" not in str(error.value)


def test_npz_in_another_byte_order_and_in_fortrans_order(tmp_path):
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    np.savez_compressed(tmp_path / "x.npz", a=array, b=np.asfortranarray(array))
    found = read_weights(tmp_path / "x.npz")
    for key in "ab":
        assert found[key].dtype == np.float32 and found[key].dtype.isnative
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"a": "m.safetensors.index.json"}, "an index like itself"),
        ({"a": "../m-1.safetensors"}, "not a file beside it"),
        ({"a": "/etc/passwd"}, "not a file beside it"),
        ({"a": ""}, "not a file beside it"),
        ({"a": 3}, "must give a file for each key"),
        ({"b": "m-1.safetensors"}, "m-1.safetensors: lacks b"),
        (["a"], "must give a file for each key"),
    ],
)
def test_an_index_that_is_wrong_is_one_line(tmp_path, index, words):
    write_safetensors(tmp_path / "m-1.safetensors", {"a": np.zeros(2, np.float32)})
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(UserError, match=words):
        read_weights(tmp_path / "m.safetensors.index.json")


def test_shards_of_pytorch(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "m-1.bin")
    torch.save({"b": torch.zeros(3, dtype=torch.bfloat16)}, tmp_path / "m-2.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text('{"weight_map": {"a": "m-1.bin", "b": "m-2.bin"}}')
    same(read_weights(index), {"a": np.ones(2, np.float32), "b": np.zeros(3, np.float32)})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.eye(3).to_sparse(), "b.weight is sparse"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "b.weight is quantised"),
        (lambda: torch.empty(3, device="meta"), "b.weight has no data"),
        (lambda: torch.ones(3).to(torch.float8_e4m3fn), "b.weight is float8_e4m3fn"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "b.weight is nested"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_arrays_are_named(tmp_path, make, words):
    torch.save({"a": torch.ones(2), "b.weight": make()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"x.pth.*{words}") as error:
        read_weights(tmp_path / "x.pth")
    assert "\n" not in str(error.value)


def test_numpy_and_arguments_beside_the_weights(tmp_path):
    beside = {
        "args": argparse.Namespace(lr=np.float32(0.1), milestones=np.arange(3)),
        "score": np.float64(0.5),
        "dtype": np.dtype("f4"),
        "epoch": np.int64(3),
    }
    content = {"model": {"a": torch.ones(2), "b": np.arange(6, dtype=">f4").reshape(2, 3)}, **beside}
    torch.save(content, tmp_path / "x.pth")
    same(read_weights(tmp_path / "x.pth"), {"a": np.ones(2, np.float32), "b": np.arange(6, dtype="f4").reshape(2, 3)})


def test_another_pickle_protocol_is_one_line(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pth", pickle_protocol=4)
    with pytest.raises(UserError, match="x.pth.*pickle protocol of 3 or above"):
        read_weights(tmp_path / "x.pth")


def test_what_a_pickle_holds_besides_weights_is_named(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}, "output": tmp_path}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="it holds pathlib.PosixPath"):
        read_weights(tmp_path / "x.pth")


class HostileArray:
    """A NumPy array in a pickle, given the state of something else."""

    def __init__(self, *state):
        self.state = state

    def __reduce__(self):
        return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state


@pytest.mark.parametrize(
    "state",
    [
        (1, (1 << 60,), np.dtype("f4"), False, b"1234"),
        (1, (-1,), np.dtype("f4"), False, b"1234"),
        (1, ("x",), np.dtype("f4"), False, b"1234"),
        (1, (1,), np.dtype("O"), False, [os.getcwd]),
        (1, (1,), "f4", False, b"1234"),
        (3,),
    ],
)
def test_arrays_that_lie_in_a_pickle_are_one_line(tmp_path, state):
    torch.save({"model": {"a": HostileArray(*state), "b": torch.ones(3)}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="x.pth") as error:
        read_weights(tmp_path / "x.pth")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([1, np.nan], np.float32), "b holds NaN"),
        (np.array([1, np.inf], np.float16), "b holds NaN or infinity"),
    ],
)
def test_weights_that_are_no_numbers_are_named(value, words):
    with pytest.raises(UserError, match=f"x.pth: {words}"):
        check_finite({"a": np.zeros(2, np.float32), "b": value}, "x.pth")


def test_files_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    for write in (write_safetensors, write_torch):
        with pytest.raises(UserError, match="can't be written"):
            write(tmp_path / "file" / "x", ARRAYS)
        with pytest.raises(UserError, match="can't be written"):
            write(tmp_path / ("n" * 300), ARRAYS)
    assert os.listdir(tmp_path) == ["file"]
