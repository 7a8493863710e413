"""What kind of file a weight file is, by its content; files that are something else are called by name."""

import os
import re
import zipfile

from etils import epath

from sak_jax import paths
from sak_jax.errors import UserError

SUFFIXES = {
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".json": "index",
    **dict.fromkeys((".bin", ".pth", ".pt", ".tar", ".ckpt"), "torch"),
}
"""The kinds by the endings they usually have."""

HEAD = 1024
"""Bytes at a file's start that tell its kind."""

_AGAIN = "fetch the file itself again"
_OTHERS: list[tuple[re.Pattern[bytes], str]] = [
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), words)
    for pattern, words in (
        (rb"version https://git-lfs", "a Git LFS pointer, not the file it stands for: run `git lfs pull` in its clone"),
        (rb"\s*<(!doctype html|html|head|body)", f"an HTML page (of an error or a login?), not weights: {_AGAIN}"),
        (rb"\s*<(\?xml|!doctype)", f"an XML page (of an error?), not weights: {_AGAIN}"),
        (rb"MATLAB 7\.3 MAT-file", "a MATLAB 7.3 file, not weights of a Python framework: save its arrays as .npz"),
        (rb"MATLAB \d", "a MATLAB file, not weights of a Python framework: save its arrays as .npz"),
        (rb"(.{512})?\x89HDF\r\n\x1a\n", "an HDF5 file (Keras, h5py): save its arrays as .npz"),
        (rb"\x1f\x8b", "compressed by gzip: unpack it with gunzip"),
        (rb"BZh\d1AY", "compressed by bzip2: unpack it with bunzip2"),
        (rb"\xfd7zXZ\x00", "compressed by xz: unpack it with unxz"),
        (rb"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it with unzstd"),
        (rb"7z\xbc\xaf\x27\x1c|Rar!", "a packed archive: unpack it"),
        (rb".{257}ustar", "a tar archive: unpack it"),
        (rb"GGUF", "a GGUF file of quantised weights: give the original weights"),
        (rb".{4}TFL3", "a TensorFlow Lite model: give the original weights"),
        (rb"\x93NUMPY", "a single array (.npy): give a .npz file of arrays by name"),
        (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|%PDF", "a picture or a document, not weights"),
        (rb"\x08[\x01-\x20][\x12\x1a\x22\x2a\x3a\x42]", "an ONNX model (a graph): give the weights it was made from"),
        (rb"\x7fELF|#!", "a program, not weights"),
    )
]


def kind(path: epath.Path) -> str:
    """`safetensors`, `npz`, `index` or `torch`: by content, and by the name's ending where the content does not tell.

    Raises:
      UserError: a folder, empty, or something else; says what it is, and what to do.
    """
    if not paths.is_remote(path) and not os.path.isfile(path):  # Reading a pipe would wait for ever.
        raise UserError(f"{path}: a pipe or a device, not a file; save what it gives, and give that")
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise UserError(f"{path}: an empty file; fetch it again")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return "safetensors"
    if head[:1] == b"\x80":
        return "torch"
    for pattern, words in _OTHERS:
        if pattern.match(head):
            raise UserError(f"{path}: {words}")
    if path.suffix == ".json":
        return "index"
    if re.fullmatch(rb"[\t\n\r\x20-\x7e]+", head):
        start = " ".join(head[:60].decode().split())
        raise UserError(f"{path}: a text file ({start!r}), not weights: {_AGAIN}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: unknown kind of file; give one of {', '.join(sorted(SUFFIXES))}")
    return SUFFIXES[path.suffix]


def _zip_kind(path: epath.Path) -> str:
    """The kind of a zip archive by the names in it."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # Damaged: the reader says how.
        return SUFFIXES.get(path.suffix, "torch")
    if any(name.endswith("/constants.pkl") for name in names) or any("/code/__torch__" in name for name in names):
        raise UserError(
            f"{path}: a TorchScript archive (a program with its weights); save the model's state dict instead:"
            " torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    if any(name.endswith("data.pkl") for name in names):
        return "torch"
    if (path.suffix == ".npz" and not names) or any(name.endswith(".npy") for name in names):
        return "npz"
    raise UserError(f"{path}: a zip archive, but not of PyTorch or NumPy; unpack it and give the weight file in it")
