"""Files that are something else are called by name, whatever they are named."""

import gzip
import io
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from sak_jax.errors import UserError
from sak_jax.weights.files import read_weights

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 346284714\n"


def torchscript():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return buffer.getvalue()


def other_zip():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/config.json", "{}")
    return buffer.getvalue()


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


OTHERS = {
    "nothing": (lambda: b"", "an empty file"),
    "LFS pointer": (lambda: LFS, "a Git LFS pointer.*git lfs pull"),
    "HTML": (lambda: b"\n<!DOCTYPE html><html><title>Sign in</title>", "an HTML page"),
    "HTML without doctype": (lambda: b"<html><body>502</body></html>", "an HTML page"),
    "XML": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML page"),
    "message": (lambda: b"Entry not found", "a text file .'Entry not found'."),
    "JSON message": (lambda: b'{"error": "Invalid credentials"}', "a text file .*Invalid credentials"),
    "TorchScript": (torchscript, "a TorchScript archive.*state_dict"),
    "MATLAB 7.3": (
        lambda: b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n",
        "a MATLAB 7.3 file",
    ),
    "MATLAB 5": (lambda: b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(128), "a MATLAB file"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "gzip": (lambda: gzip.compress(b"weights"), "compressed by gzip.*gunzip"),
    "tar": (tar, "a tar archive"),
    "zip": (other_zip, "a zip archive, but not of PyTorch or NumPy"),
    "npy": (npy, "a single array"),
    "ONNX": (lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.3.0" + bytes(50), "an ONNX model"),
    "GGUF": (lambda: b"GGUF\x03\x00\x00\x00" + bytes(20), "a GGUF file"),
    "picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(20), "a picture"),
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz", "weights"])
@pytest.mark.parametrize("what", OTHERS)
def test_something_else_is_called_by_its_name(tmp_path, what, suffix):
    make, words = OTHERS[what]
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(make())
    with pytest.raises(UserError, match=f"x.{suffix}: {words}") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


def test_content_tells_the_kind_where_the_name_does_not(tmp_path):
    arrays = {"a": np.arange(3, dtype=np.float32)}
    np.savez(tmp_path / "x.npz", **arrays)
    torch.save({"a": torch.arange(3.0)}, tmp_path / "x.pth")
    for name, other in (("x.npz", "y.pth"), ("x.pth", "y.ckpt"), ("x.pth", "y.safetensors"), ("x.pth", "y")):
        (tmp_path / other).write_bytes((tmp_path / name).read_bytes())
        np.testing.assert_array_equal(read_weights(tmp_path / other)["a"], arrays["a"])


def test_a_folder_is_told_with_the_weights_in_it(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"a folder; give the weight file in it \(model.safetensors\)"):
        read_weights(tmp_path)


@pytest.mark.parametrize("name", ["a\0b.pth", "n" * 300 + ".pth", "x.pth/below.pth"])
def test_impossible_paths_are_one_line(tmp_path, name):
    (tmp_path / "x.pth").write_bytes(b"0")
    with pytest.raises(UserError, match="can't be read|no such file|null character"):
        read_weights(f"{tmp_path}/{name}")
