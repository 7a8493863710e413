"""Numbers by which a checkpoint's arrays are known to be those that were saved, whatever the disk made of them."""

import functools
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
    leaves = [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    if any(isinstance(leaf, jax.Array) for _, leaf in leaves):
        return int(_of_jax(tuple(leaf for _, leaf in leaves), tuple(name for name, _ in leaves)))
    return int(_sum(leaves, np))


def of_plain(values: Any) -> int:
    """A 32-bit number of plain data as JSON has it."""
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _name(path: tuple) -> str:
    return "/".join(str(getattr(part, "key", getattr(part, "idx", getattr(part, "name", part)))) for part in path)


@functools.partial(jax.jit, static_argnums=1)
def _of_jax(leaves: tuple[jax.Array, ...], names: tuple[str, ...]) -> jax.Array:
    return _sum(list(zip(names, leaves, strict=True)), jnp)


def _sum(leaves: list[tuple[str, Any]], xp) -> Any:
    total = xp.zeros((1,), np.uint32)
    for name, leaf in leaves:
        total = total + np.array([zlib.crc32(name.encode()) | 1], np.uint32) * _of_leaf(leaf, xp)
    return total[0]


def _of_leaf(leaf: Any, xp) -> Any:
    """[1], over all elements. No axis is flattened, so that one that is sharded stays so."""
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
    return xp.sum(bits.astype(np.uint32) * weights, dtype=np.uint32).reshape(1)
