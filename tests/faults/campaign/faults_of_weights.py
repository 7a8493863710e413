"""Weight files as training runs and hubs leave them, and files that are something else."""

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy
from faults_of_data import is_refused

WEIGHTS = {
    "blocks.0.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "blocks.0.bias": np.arange(4, dtype=np.float32) / 4,
}
BF16 = {key: value.astype(ml_dtypes.bfloat16) for key, value in WEIGHTS.items()}


def read(path: Path) -> dict[str, np.ndarray]:
    """What the product reads."""
    try:
        from sak_jax.weights import files
    except ImportError:
        from sak_jax.convert import files
    return files.read_weights(path)


def right(name: str, write: Callable[[Path], object], expected=None) -> Callable[[Path], None]:
    """A file that holds `expected`, by these names."""

    def attempt(work: Path) -> None:
        write(work / name)
        found = read(work / name)
        wanted = WEIGHTS if expected is None else expected
        assert set(found) == set(wanted), f"holds {sorted(found)}"
        for key, value in wanted.items():
            np.testing.assert_array_equal(found[key], np.asarray(value, np.float32))

    return attempt


def wrong(name: str, write: Callable[[Path], object], *words: str) -> Callable[[Path], None]:
    """A file that cannot be meant; the line must name it, and hold the words."""

    def attempt(work: Path) -> None:
        write(work / name)
        from sak_jax.errors import UserError

        try:
            found = read(work / name)
        except UserError as error:
            assert "\n" not in str(error)
            for word in words:
                assert word.lower() in str(error).lower(), f"{word!r} is not in {str(error)!r}"
        else:
            raise AssertionError(f"taken in silence: {list(found)[:5]}")

    return attempt


def torch_file(make: Callable[[object], object], **options) -> Callable[[Path], None]:
    """A file that PyTorch saves, of tensors."""

    def write(path: Path) -> None:
        import torch

        torch.save(make(torch), path, **options)

    return write


def tensors(torch, prefix: str = "", scale: float = 1) -> dict:
    return {f"{prefix}{key}": torch.from_numpy(value * scale) for key, value in WEIGHTS.items()}


def safe(arrays: dict, **metadata: str) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(safetensors.numpy.save(arrays, metadata or None))


def shards(index: object, *files: str) -> Callable[[Path], None]:
    """An index, and shards of one array each."""

    def write(path: Path) -> None:
        for file, (key, value) in zip(files, WEIGHTS.items(), strict=False):
            safe({key: value})(path.parent / file)
        path.write_text(index if isinstance(index, str) else json.dumps(index))

    return write


class _Runs:
    def __reduce__(self):
        return os.system, ("touch /tmp/sak_jax_campaign_ran",)


def _zip(member: str, content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, content)

    return write


def _npy(header: str, content: bytes = b"") -> bytes:
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def weight_files() -> Iterator:
    for wrapper in (
        "",
        "state_dict",
        "model",
        "model_state_dict",
        "teacher",
        "student",
        "net",
        "ema",
        "module",
        "model_ema",
    ):
        yield (
            f"wrapped as {wrapper!r}",
            right(
                "x.pth",
                torch_file(lambda torch, wrapper=wrapper: {wrapper: tensors(torch)} if wrapper else tensors(torch)),
            ),
        )
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        yield f"prefix {prefix}", right("x.pth", torch_file(lambda torch, prefix=prefix: tensors(torch, prefix)))
        prefixed = {f"{prefix}{key}": value for key, value in WEIGHTS.items()}
        yield f"prefix {prefix} in safetensors", right("x.safetensors", safe(prefixed))
    yield "wrapped twice", right("x.pth", torch_file(lambda torch: {"checkpoint": {"state_dict": tensors(torch)}}))
    yield (
        "beside an optimiser",
        right(
            "x.pth",
            torch_file(
                lambda torch: {"model": tensors(torch), "optimizer": {"state": {0: tensors(torch)}}, "epoch": 3}
            ),
        ),
    )
    yield "bfloat16 safetensors", right("x.safetensors", safe(BF16), BF16)
    yield "bfloat16 pth", right("x.pth", torch_file(lambda t: {k: v.bfloat16() for k, v in tensors(t).items()}), BF16)
    yield "half safetensors", right("x.safetensors", safe({k: v.astype(np.float16) for k, v in WEIGHTS.items()}))
    yield "metadata", right("x.safetensors", safe(WEIGHTS, format="pt"))
    yield "npz", right("x.npz", lambda path: np.savez(path, **WEIGHTS))
    yield "compressed npz", right("x.npz", lambda path: np.savez_compressed(path, **WEIGHTS))
    yield "old pth", right("x.pth", torch_file(tensors, _use_new_zipfile_serialization=False))
    yield "pth called bin", right("x.bin", torch_file(tensors))
    yield "safetensors called pth", right("x.pth", safe(WEIGHTS))
    yield "parameters", right("x.pth", torch_file(lambda t: {k: t.nn.Parameter(v) for k, v in tensors(t).items()}))
    yield "capital ending", right("x.PTH", torch_file(tensors))
    index = {"weight_map": dict(zip(WEIGHTS, ("a.safetensors", "b.safetensors"), strict=True))}
    yield "shards", right("model.safetensors.index.json", shards(index, "a.safetensors", "b.safetensors"))
    whole = safetensors.numpy.save(WEIGHTS)
    for name, text in {
        "names itself": {"weight_map": dict.fromkeys(WEIGHTS, "model.safetensors.index.json")},
        "lacks a shard": {"weight_map": dict(zip(WEIGHTS, ("a.safetensors", "none.safetensors"), strict=True))},
        "leads out": {"weight_map": dict.fromkeys(WEIGHTS, "../a.safetensors")},
        "absolute": {"weight_map": dict.fromkeys(WEIGHTS, "/etc/passwd")},
        "numbers": {"weight_map": dict.fromkeys(WEIGHTS, 3)},
        "a list": [],
        "without a map": {},
        "no JSON": "weight_map",
        "a key that the shard lacks": {"weight_map": {"other": "a.safetensors"}},
        "null": {"weight_map": None},
        "nested without end": "[" * 100_000,
    }.items():
        yield f"an index: {name}", wrong("model.safetensors.index.json", shards(text, "a.safetensors", "b.safetensors"))
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 346268816\n"
    for ending in ("safetensors", "pth", "npz"):
        yield f"an LFS pointer, {ending}", wrong(f"x.{ending}", lambda path: path.write_bytes(lfs), "lfs")
        page = b"<!DOCTYPE html><html><body>404</body></html>"
        yield f"a web page, {ending}", wrong(f"x.{ending}", lambda path, page=page: path.write_bytes(page), "html")
        yield f"empty, {ending}", wrong(f"x.{ending}", lambda path: path.write_bytes(b""))
        yield f"zeros, {ending}", wrong(f"x.{ending}", lambda path: path.write_bytes(bytes(1000)))
        yield f"text, {ending}", wrong(f"x.{ending}", lambda path: path.write_text("not weights\n"))
    yield "cut safetensors", wrong("x.safetensors", lambda path: path.write_bytes(whole[:-5]))
    yield "safetensors with a rest", wrong("x.safetensors", lambda path: path.write_bytes(whole + b"12345"))
    yield (
        "a header of 2 ** 60",
        wrong("x.safetensors", lambda path: path.write_bytes((1 << 60).to_bytes(8, "little") + whole[8:])),
    )
    yield "cut pth", wrong("x.pth", lambda path: (torch_file(tensors)(path), os.truncate(path, 500)))
    yield "a pickle that runs code", wrong("x.pth", lambda path: path.write_bytes(pickle.dumps(_Runs())))
    yield "a pickle that runs code, in PyTorch's", wrong("x.pth", torch_file(lambda torch: {"a": _Runs()}))
    yield "a whole module", wrong("x.pth", torch_file(lambda torch: torch.nn.Linear(2, 2)))
    yield "a list of tensors", wrong("x.pth", torch_file(lambda torch: list(tensors(torch).values())))
    yield "an optimiser alone", wrong("x.pth", torch_file(lambda torch: {"optimizer": {"state": {0: tensors(torch)}}}))
    yield "no weights", wrong("x.pth", torch_file(lambda torch: {"epoch": 3}))
    yield "an empty dict", wrong("x.pth", torch_file(lambda torch: {}))
    sparse = lambda torch: {"a.weight": torch.eye(3).to_sparse()}  # noqa: E731
    yield "sparse", wrong("x.pth", torch_file(sparse), "sparse")
    yield (
        "on no device",
        wrong("x.pth", torch_file(lambda torch: {"a.weight": torch.empty(3, 3, device="meta")}), "meta"),
    )
    yield (
        "float8",
        wrong("x.pth", torch_file(lambda torch: {"a.weight": torch.ones(3, 3).to(torch.float8_e4m3fn)}), "float8"),
    )
    yield (
        "quantised",
        wrong(
            "x.pth",
            torch_file(lambda torch: {"a.weight": torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8)}),
        ),
    )
    yield (
        "float8 safetensors",
        wrong("x.safetensors", safe({"a.weight": np.ones((3, 3), ml_dtypes.float8_e4m3fn)}), "F8"),
    )
    yield "TorchScript", wrong("x.pt", lambda path: _script(path), "torchscript")
    hdf5 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n"
    yield "MATLAB 7.3", wrong("x.pth", lambda path: path.write_bytes(hdf5), "7.3")
    yield "HDF5", wrong("x.pth", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500)), "hdf5")
    yield "gzip", wrong("x.pth", lambda path: path.write_bytes(gzip.compress(whole)), "gzip")
    yield "tar", wrong("x.tar", lambda path: _tar(path))
    yield "another zip", wrong("x.pth", _zip("readme.txt", b"text"))
    yield "ONNX", wrong("x.onnx", lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch" + bytes(100)))
    yield "npz with objects", wrong("x.npz", lambda path: np.savez(path, a=np.array([{}], object)))
    yield "npz of strings", wrong("x.npz", lambda path: np.savez(path, a=np.array(["a"])))
    yield (
        "npz that lies of its size",
        wrong(
            "x.npz",
            _zip("a.npy", _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }", bytes(8))),
        ),
    )
    yield (
        "npz of negative size",
        wrong("x.npz", _zip("a.npy", _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }", bytes(8)))),
    )
    yield (
        "npz of 300 MB in 300 kB",
        wrong(
            "x.npz",
            _zip("a.npy", _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (80000000,), }", bytes(320_000_000))),
        ),
    )
    yield "a folder", wrong("x", lambda path: path.mkdir())
    yield "nothing", wrong("none.pth", lambda path: None)
    yield "a link to itself", wrong("x.pth", lambda path: path.symlink_to(path))
    yield "a pipe", wrong("x.pth", lambda path: os.mkfifo(path))
    yield "a name with a null character", lambda work: _assert_refused(lambda: read(f"{work}/a\0b.pth"))


def _assert_refused(attempt: Callable[[], object]) -> None:
    assert is_refused(attempt)


def _script(path: Path) -> None:
    import torch

    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())


CLASSES = {"weight files": weight_files}
