"""Where activations lie on a mesh: a setting of the context that layers ask while they are traced."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec

Tree = TypeVar("Tree")

_activations: ContextVar[NamedSharding | None] = ContextVar("activations", default=None)
_platform: ContextVar[str | None] = ContextVar("platform", default=None)


@contextmanager
def activation_sharding(sharding: NamedSharding | None) -> Iterator[None]:
    """Within it, layers pin their activations to `sharding` (of the first axis: the batch); None pins nothing.

    Without it GSPMD may carry the sharding of parameters into the activations, and move them about in every block. The
    setting counts while a function is traced, so it must be the same at every trace of one jitted function.
    """
    token = _activations.set(sharding)
    try:
        yield
    finally:
        _activations.reset(token)


@contextmanager
def compiling_for(platform: str | None) -> Iterator[None]:
    """Within it, what is chosen by backend is chosen for `platform` (cpu, gpu or tpu): to compile for a device that
    this machine has not. None is the backend of the process, or that of the mesh in `activation_sharding`."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def platform() -> str:
    """The platform that is compiled for: cpu, gpu or tpu."""
    sharding = _activations.get()
    name = _platform.get() or (sharding.mesh.devices.flat[0].platform if sharding else jax.default_backend())
    return "gpu" if name in ("cuda", "rocm") else name


def pin(tree: Tree) -> Tree:
    """Activations whose first axis is the batch, placed as `activation_sharding` says; untouched without it."""
    sharding = _activations.get()
    if sharding is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharding), tree)


def whole(parameters: Tree) -> Tree:
    """Parameters gathered whole on every device where activations are pinned; their gradients stay free to be cut."""
    sharding = _activations.get()
    if sharding is None:
        return parameters
    replicated = NamedSharding(sharding.mesh, PartitionSpec())

    @jax.custom_vjp
    def gather(x):
        return jax.lax.with_sharding_constraint(x, replicated)

    gather.defvjp(lambda x: (gather(x), None), lambda _, gradient: (gradient,))
    return jax.tree.map(gather, parameters)


def on_each_device(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """`function` of arrays whose first axis is the batch, run on each device's own rows where activations are pinned.

    For kernels, which XLA cannot divide over devices.
    """
    sharding = _activations.get()
    if sharding is None:
        return function(*arrays)
    spec = sharding.spec
    return jax.shard_map(function, mesh=sharding.mesh, in_specs=spec, out_specs=spec, check_vma=False)(*arrays)
