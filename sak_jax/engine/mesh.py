"""The device mesh, and where arrays lie on it."""

import os
import re
from collections.abc import Callable, Mapping, MutableMapping

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sak_jax.errors import UserError
from sak_jax.nn import placement

SMALLEST_SHARDED = 2**16
"""Parameters with fewer elements are replicated: gathering them costs more than they save."""

BATCH_AXES = ("data", "fsdp")
"""The axes of the mesh that share a batch."""


_THREADS_PER_DEVICE = 4
"""As many as XLA lets one program use."""


def give_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sees to threads enough where XLA makes several devices of one processor; before JAX looks for devices.

    Their programs share a pool with one thread a core or a device, and a collective holds its thread until every device
    has come to it. Those in a loop may wait beside those after it, so that on two cores the first device can hold both
    threads: nothing moves on, and XLA aborts the process.

    Args:
      environment: where XLA's flags are, and where the pool's size goes unless somebody has set it.
    """
    forced = re.findall(r"xla_force_host_platform_device_count=(\d+)", environment.get("XLA_FLAGS", ""))
    devices = int(forced[-1]) if forced else 1
    if devices > 1 and not {"PJRT_NPROC", "NPROC"} & environment.keys():
        environment["PJRT_NPROC"] = str(max(_THREADS_PER_DEVICE * devices, os.cpu_count() or 1))


def is_main() -> bool:
    """Whether this process writes what all share."""
    return jax.process_index() == 0


def make_mesh(data: int, fsdp: int, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with axes `data` and `fsdp` over all devices; -1 is what is left.

    Args:
      data, fsdp: devices along each axis.
      devices: those to use, of a machine one does not have too; None is all there are.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    count = len(devices) if devices else jax.device_count()
    if data == -1:
        data = count // fsdp
    if data * fsdp != count:
        raise UserError(
            f"config.mesh: data {data} x fsdp {fsdp} is not the {count} devices there are: set --config.mesh.fsdp to "
            "a divisor of their number, and leave mesh.data at -1"
        )
    kinds = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, fsdp), BATCH_AXES, axis_types=kinds, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def computing_on(mesh: Mesh, function: Callable) -> Callable:
    """The function, to be jitted for a mesh: layers keep activations where the batch lies and suit its devices."""

    def computed(*arguments):
        rows = batch_sharding(mesh) if mesh.size > 1 else None
        with placement.activation_sharding(rows), placement.compiling_for(mesh.devices.flat[0].platform):
            return function(*arguments)

    return computed


def shardings(abstract, mesh: Mesh, table: Mapping[str, tuple] | None = None):
    """Where each array of a tree lies.

    The first pattern of `table` that a parameter's path matches decides. Else the longest axis that `fsdp` divides is
    sharded over it, and small arrays are replicated.

    Args:
      abstract: a tree of arrays or shapes.
      mesh: the devices.
      table: `{regular expression: axes}`, an entry of `axes` for each axis of the array: `fsdp`, `data` or None.

    Raises:
      UserError: a row of the table does not fit an array that it matches.
    """
    rows = [_row(pattern, axes) for pattern, axes in (table or {}).items()]

    def place(path, leaf):
        name = path_name(path)
        for pattern, axes in rows:
            if pattern.search(name):
                return NamedSharding(mesh, _spec(name, leaf, axes, mesh))
        return NamedSharding(mesh, _longest(leaf, mesh.shape["fsdp"]))

    return jax.tree_util.tree_map_with_path(place, abstract)


def unused(table: Mapping[str, tuple], *trees) -> list[str]:
    """The patterns of a table, see `shardings`, that match no path in any of the trees."""
    names = [path_name(path) for tree in trees for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return [pattern for pattern in table if not any(re.search(pattern, name) for name in names)]


def check_shared(placed, mesh: Mesh) -> None:
    """Makes sure that `fsdp` shares something.

    Args:
      placed: a tree of parameters, or of shapes that say where they lie.
      mesh: the devices.

    Raises:
      UserError: no large parameter has an axis that it divides.
    """
    large = [leaf for leaf in jax.tree.leaves(placed) if leaf.size >= SMALLEST_SHARDED]
    if mesh.shape["fsdp"] > 1 and large and not any("fsdp" in leaf.sharding.spec for leaf in large):
        raise UserError(
            f"config.mesh.fsdp is {mesh.shape['fsdp']}, which divides no axis of any large parameter, so that every "
            "device would hold all of them: set it to a power of two that divides the devices, or to 1"
        )


def path_name(path: tuple) -> str:
    """`stem/blocks/mlp/up/kernel` of a path in a tree."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def _longest(leaf, size: int) -> PartitionSpec:
    if size == 1 or leaf.size < SMALLEST_SHARDED:
        return PartitionSpec()
    for axis in np.argsort(leaf.shape)[::-1]:
        if leaf.shape[axis] % size == 0:
            spec = [None] * leaf.ndim
            spec[axis] = "fsdp"
            return PartitionSpec(*spec)
    return PartitionSpec()


def _row(pattern: str, axes) -> tuple[re.Pattern, tuple]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"config.mesh.placement: {pattern!r} is no regular expression ({error})") from error
    named = [axis for axis in axes if axis is not None] if isinstance(axes, (list, tuple)) else [axes]
    if not isinstance(axes, (list, tuple)) or len(set(map(str, named))) < len(named):
        raise UserError(
            f"config.mesh.placement: {pattern!r} has {axes!r}; give a list, an axis of the mesh (once each) or None "
            "for every axis of the array"
        )
    return compiled, tuple(axes)


def _spec(name: str, leaf, axes: tuple, mesh: Mesh) -> PartitionSpec:
    if len(axes) > leaf.ndim:
        raise UserError(f"config.mesh.placement: {name} has {leaf.ndim} axes, and {axes} places {len(axes)}")
    for length, axis in zip(leaf.shape, axes, strict=False):
        if axis is not None and (not isinstance(axis, str) or axis not in mesh.shape):
            raise UserError(f"config.mesh.placement: {axis!r} is no axis of the mesh, it has {', '.join(mesh.shape)}")
        if axis is not None and length % mesh.shape[axis]:
            raise UserError(f"config.mesh.placement: {axis} = {mesh.shape[axis]} does not divide {length} of {name}")
    return PartitionSpec(*axes)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as global arrays, the first axis over all devices."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def put(tree, where):
    """Whole arrays, the same on every process, as global arrays on the mesh, each piece straight to its device.

    Args:
      tree: of arrays.
      where: one sharding for all, or a tree of them.
    """
    if isinstance(where, NamedSharding):
        where = jax.tree.map(lambda _: where, tree)

    def place(array, sharding):  # Not `device_put`, which has the processes compare their values first.
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place, tree, where)


def gather(tree):
    """Global arrays, wherever they lie, as whole arrays on every process's host; all processes must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def largest(*values: float) -> list[float]:
    """The largest of all processes, one for each value; all must call it."""
    if jax.process_count() == 1:
        return list(values)
    rows = multihost_utils.process_allgather(np.array(values, np.float32))
    return np.max(np.reshape(rows, (-1, len(values))), axis=0).tolist()


def any_process(value: bool) -> bool:
    """Whether it is true of any process; all must call it."""
    return bool(largest(value)[0])


def sum_over_processes(value: np.ndarray) -> np.ndarray:
    """The exact sum of float64 arrays of one shape [n, ..] over all processes."""
    if jax.process_count() == 1:
        return value
    # JAX carries no float64 by default, so its halves travel.
    halves = multihost_utils.process_allgather(np.ascontiguousarray(value).view(np.uint32))
    return np.asarray(halves).view(np.float64).sum(axis=0)


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of an array that lies as `batch_sharding` says, in the order in which they were put there.

    They need not be neighbours: a host's chips are no block of the mesh where that is one long row of a slice.
    """
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
