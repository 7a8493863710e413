import os
import pickle

import numpy as np
import pytest
import torch

from sak_jax.errors import UserError
from sak_jax.weights.files import read_metadata, read_weights, write_safetensors

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
    (tmp_path / "x.onnx").write_bytes(b"0")
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
