"""Numbers by which a checkpoint's arrays are known to be those that were saved, whatever the disk made of them."""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ODD = 0x9E3779B1


def of_arrays(tree: Any) -> int:
    """A 32-bit number of arrays by path, NumPy's or JAX's; the same wherever their parts lie.

    Any change of one element changes it: bits are summed, each element's times an odd number of its own.
    """
    leaves = [(_name(path), local(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    if any(isinstance(leaf, jax.Array) for _, leaf in leaves):
        found = jax.device_get(_of_jax([leaf for _, leaf in leaves]))
    else:
        found = [_of_leaf(leaf, np) for _, leaf in leaves]
    odd = [zlib.crc32(name.encode()) | 1 for name, _ in leaves]
    return sum(a * int(b) for a, b in zip(odd, found, strict=True)) & 0xFFFFFFFF


def local(leaf: Any) -> Any:
    """The array as NumPy's where a processor of this process holds it: nothing is copied, and nothing compiled."""
    if not isinstance(leaf, jax.Array) or not leaf.is_fully_addressable:
        return leaf
    return np.asarray(leaf) if {device.platform for device in leaf.devices()} == {"cpu"} else leaf


def of_plain(values: Any) -> int:
    """A 32-bit number of plain data as JSON has it."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _name(path: tuple) -> str:
    return "/".join(str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", part)))) for part in path)


def _of_leaf(leaf: Any, xp) -> Any:
    """Over all elements. No axis is flattened, so that one that is sharded stays so."""
    leaf = xp.asarray(leaf)
    if leaf.dtype == bool:
        bits = leaf
    else:
        kind = np.dtype(f"uint{8 * leaf.dtype.itemsize}")
        bits = leaf.view(kind) if xp is np else jax.lax.bitcast_convert_type(leaf, kind)
    weights = xp.full((1,) * bits.ndim, 1, np.uint32)
    stride = 2 * _ODD
    for axis, length in reversed(list(enumerate(bits.shape))):
        shape = [length if other == axis else 1 for other in range(bits.ndim)]
        weights = weights + xp.arange(length, dtype=np.uint32).reshape(shape) * np.uint32(stride & 0xFFFFFFFF)
        stride *= max(length, 1)
    return xp.sum(bits.astype(np.uint32) * weights, dtype=np.uint32)


@jax.jit  # One program: many small ones at once, each with an all-reduce, lock each other out on a CPU.
def _of_jax(leaves: list) -> list[jax.Array]:
    return [_of_leaf(leaf, jnp) for leaf in leaves]
