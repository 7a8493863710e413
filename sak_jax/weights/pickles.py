"""PyTorch's files: read without running code, tensors and NumPy arrays in whatever a training script saved."""

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping

import numpy as np
from etils import epath

from sak_jax.errors import UserError


class PickledDtype:
    """Stands for a NumPy dtype in a pickle; NumPy's own, given a hostile state, can crash the process."""

    def __init__(self, name: object, *_: object):
        self.name = name
        self.order = "="

    def __setstate__(self, state: tuple) -> None:
        """The byte order is all that matters."""
        self.order = state[1]

    def __call__(self) -> np.dtype:
        """The dtype; raises ValueError for what is no plain number."""
        found = re.fullmatch(r"[fiub]\d+", str(self.name))
        if not found or self.order not in ("<", ">", "=", "|"):
            raise ValueError(f"the dtype {self.name!r}")
        return np.dtype(self.name).newbyteorder(self.order)


class PickledArray:
    """Stands for a NumPy array in a pickle, as `PickledDtype` does."""

    state = 1, (0,), None, False, b""

    def __setstate__(self, state: tuple) -> None:
        """As NumPy saves it: version, shape, dtype, whether in Fortran's order, bytes."""
        _, shape, _, _, _ = state
        if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"an array of shape {shape}")
        self.state = state

    @property
    def shape(self) -> tuple:
        """As it was saved."""
        return self.state[1]

    @property
    def dtype(self) -> object:
        """As it was saved."""
        return self.state[2]

    def array(self) -> np.ndarray:
        """The array; raises ValueError or TypeError where the state is not one."""
        _, shape, dtype, fortran, content = self.state
        array = np.frombuffer(content, dtype()).reshape(shape, order="F" if fortran else "C")
        return array.astype(array.dtype.newbyteorder("="), copy=False)


def _reconstruct(*_: object) -> PickledArray:
    return PickledArray()


def _scalar(dtype: object, content: object = None) -> None:
    """A NumPy number beside the weights, which nobody asks for."""


_NUMPY = [
    (PickledArray, "numpy.ndarray"),
    (PickledDtype, "numpy.dtype"),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""Training scripts keep arguments and scores beside the weights; a Namespace and NumPy's numbers are plain data."""


def read(path: epath.Path) -> object:
    """What a PyTorch file holds: tensors, and `PickledArray` for arrays, in dicts and lists.

    Raises:
      UserError: PyTorch is missing; the file is not whole, or holds more than plain data.
    """
    torch = import_torch(path)
    try:
        with (
            path.open("rb") as file,
            torch.serialization.safe_globals([argparse.Namespace, *_NUMPY]),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # PyTorch's advice to whoever saved the file.
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):
            raise UserError(
                f"{path}: damaged, or saved in a pickle protocol of 3 or above, which PyTorch reads only where"
                " it may run code; save it again with torch.save's own protocol (2)"
            ) from error
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{path}: not a PyTorch file of weights alone; it is damaged, or would run code when read"
            + (f" (it holds {found[1]})" if found else "")
            + ". Give a file saved from a state dict"
        ) from error
    except Exception as error:  # Damage makes PyTorch's reader raise nearly anything.
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise UserError(f"{path}: not a whole PyTorch file ({reason}); fetch it again") from error


def arrays(tensors: Mapping[str, object], name: str) -> dict[str, np.ndarray]:
    """NumPy arrays of tensors and `PickledArray`s; bfloat16 becomes float32, which is exact.

    Raises:
      UserError: a tensor that is no plain array: sparse, quantised, without data, of 8 bits or less.
    """
    return {key: _array(key, value, name) for key, value in tensors.items()}


def _array(key: str, value: object, name: str) -> np.ndarray:
    remedy = "give weights in float32, float16 or bfloat16"
    if isinstance(value, PickledArray):
        try:
            return value.array()
        except Exception as error:  # of a hostile state
            raise UserError(f"{name}: {key} is no plain array ({' '.join(str(error).split())}); {remedy}") from error
    import torch

    kinds = {
        "has no data (it is on the device meta)": value.device.type == "meta",
        "is sparse": value.layout != torch.strided,
        "is quantised": value.is_quantized,
        "is nested": value.is_nested,
    }
    problem = next((words for words, wrong in kinds.items() if wrong), None)
    if problem:
        raise UserError(f"{name}: {key} {problem}; {remedy}")
    value = value.detach().resolve_conj().resolve_neg()
    if value.dtype == torch.bfloat16:
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(f"{name}: {key} of shape {tuple(value.shape)} has fewer values than that; fetch it again")
        value = value.float()
    try:
        array = value.numpy()
    except (TypeError, RuntimeError) as error:
        raise UserError(f"{name}: {key} is {str(value.dtype).removeprefix('torch.')}; {remedy}") from error
    return array


def import_torch(path: epath.PathLike):
    """PyTorch; raises UserError where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: PyTorch files need PyTorch: pip install 'sak_jax[torch]', or use .safetensors"
        ) from error
    return torch
