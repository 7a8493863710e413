"""The device mesh, and where arrays lie on it."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sak_jax.errors import UserError

SMALLEST_SHARDED = 2**16
"""Parameters with fewer elements are replicated: gathering them costs more than they save."""


def is_main() -> bool:
    """Whether this process writes what all share."""
    return jax.process_index() == 0


def make_mesh(data: int, fsdp: int) -> Mesh:
    """A mesh with axes `data` and `fsdp` over all devices; -1 is what is left.

    Raises:
      UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    if data == -1:
        data = devices // fsdp
    if data * fsdp != devices:
        raise UserError(f"config.mesh: data {data} x fsdp {fsdp} is not the {devices} devices there are")
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(abstract, mesh: Mesh):
    """Each array's longest axis that `fsdp` divides is sharded over it; small arrays are replicated."""

    def place(leaf):
        size = mesh.shape["fsdp"]
        if size == 1 or leaf.size < SMALLEST_SHARDED:
            return replicated(mesh)
        for axis in np.argsort(leaf.shape)[::-1]:
            if leaf.shape[axis] % size == 0:
                spec = [None] * leaf.ndim
                spec[axis] = "fsdp"
                return NamedSharding(mesh, PartitionSpec(*spec))
        return replicated(mesh)

    return jax.tree.map(place, abstract)


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as global arrays, the first axis over all devices."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def put(tree, where):
    """Whole arrays, the same on every process, as global arrays on the mesh.

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


def local_rows(array: jax.Array, mesh: Mesh) -> np.ndarray:
    """This process's rows of an array that lies as `batch_sharding` says, in the order in which they were put there."""
    return np.asarray(multihost_utils.global_array_to_host_local_array(array, mesh, batch_sharding(mesh).spec))
