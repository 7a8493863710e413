"""From shapes to arrays on the mesh: one abstract state serves initialising, restoring, planning and benchmarks."""

import dataclasses
import logging
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from sak_jax.engine import flops
from sak_jax.engine import mesh as meshes
from sak_jax.engine.stage import Stage, Start, Weights
from sak_jax.engine.step import TrainState, train_step
from sak_jax.errors import UserError
from sak_jax.nn import placement, remat

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A stage on a mesh, before any array exists.

    Attributes:
      stage: the stage.
      mesh: the devices.
      model: graph definition of its model.
      state: the `TrainState` as shapes that say where they lie.
      frozen: the same of `stage.frozen`, or None.
      batch: the same of a global batch.
    """

    stage: Stage
    mesh: Mesh
    model: nnx.GraphDef
    state: TrainState
    frozen: object
    batch: dict[str, jax.ShapeDtypeStruct]

    def jitted(self):
        """The step `(state, frozen, batch) -> (state, logs)`; the state is donated and stays where it lies."""
        return jax.jit(
            meshes.computing_on(self.mesh, partial(train_step, self.stage, self.model)),
            donate_argnums=0,
            out_shardings=(places(self.state), meshes.replicated(self.mesh)),
        )

    def flops(self) -> int:
        """Operations of a step over all devices, recomputation included, as `flops.count` counts them."""
        step = partial(train_step, self.stage, self.model)
        with placement.compiling_for("any"):  # The plain form of attention: nobody sees into a kernel.
            return flops.count(step, self.state, self.frozen, self.batch)

    def needed(self) -> int:
        """The same without what is computed again to save memory."""
        with remat.keeping_all():
            return self.flops()


def plan(stage: Stage, mesh: Mesh, table: Mapping[str, tuple] | None = None) -> Plan:
    """Shapes and places of all that a stage's step takes.

    Args:
      stage: the stage.
      mesh: the devices; those of a machine one does not have will do.
      table: where parameters lie, see `mesh.shardings`.

    Raises:
      UserError: parameters cannot lie so, or `fsdp` shares none of them.
    """
    model = nnx.eval_shape(lambda: stage.create(nnx.Rngs(0)))
    abstract = jax.eval_shape(partial(_first, stage), model, jax.ShapeDtypeStruct((), jnp.uint32))
    frozen = None
    if stage.frozen is not None:
        frozen = placed(stage.frozen.abstract, meshes.shardings(stage.frozen.abstract, mesh, table))
    rows = meshes.batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows) for name, x in stage.inputs.items()}
    state = placed(abstract, meshes.shardings(abstract, mesh, table))
    meshes.check_shared((state.params, state.frozen), mesh)
    for pattern in meshes.unused(table or {}, state, frozen):
        logger.warning("config.mesh.placement: %r matches no array of %s", pattern, stage.name)
    return Plan(stage, mesh, nnx.graphdef(model), state, frozen, batch)


def placed(abstract, where):
    """Shapes that say where they lie."""
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), abstract, where)


def places(tree):
    """The shardings of a tree of arrays or of shapes that say where they lie."""
    return jax.tree.map(lambda x: x.sharding, tree)


def seed(plan: Plan, value: int) -> jax.Array:
    """The seed on the mesh, as a `TrainState` has it."""
    return meshes.put(np.asarray(value, np.uint32), plan.state.seed.sharding)


def fresh(plan: Plan, seed: int) -> TrainState:
    """A state with newly initialised parameters, made where it lies."""
    # Runs once: on a CPU, where optimising it would take longer than training some small students, it is not optimised.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    create = jax.jit(partial(_create, plan.stage), out_shardings=places(plan.state), compiler_options=options)
    return create(jnp.asarray(seed, jnp.uint32))


def _create(stage: Stage, seed: jax.Array) -> TrainState:
    return _first(stage, stage.create(nnx.Rngs(jax.random.key(seed))), seed)


def _first(stage: Stage, model: nnx.Module, seed: jax.Array) -> TrainState:
    _, params, stats, frozen = nnx.split(model, stage.trainable, nnx.BatchStat, ...)
    return TrainState(jnp.zeros((), jnp.int32), seed, params, frozen, stats, stage.optimizer.init(params))


def started(state: TrainState, start: Start) -> TrainState:
    """A fresh state with the weights that it starts from; the optimiser's is as for the fresh one.

    Raises:
      UserError: an array has another shape, or the model lacks it.
    """
    weights, used = start.weights, set()

    def fill(part: nnx.State) -> nnx.State:
        filled = {}
        for path, value in nnx.to_flat_state(part):
            if path in weights:
                if weights[path].shape != value.shape:
                    raise UserError(
                        f"{start.name} does not fit: {'.'.join(map(str, path))} has shape {weights[path].shape} there "
                        f"and {value.shape} here; use the recipe that made it, or another start"
                    )
                used.add(path)
                value = value.replace(meshes.put(np.asarray(weights[path], value.dtype), value.sharding))
            filled[path] = value
        return nnx.from_flat_state(filled)

    state = dataclasses.replace(state, params=fill(state.params), frozen=fill(state.frozen), stats=fill(state.stats))
    unused = sorted(set(weights) - used)
    if unused:
        raise UserError(f"{start.name} does not fit: it has {'.'.join(map(str, unused[0]))}, which this recipe lacks")
    return state


def on_host(state: nnx.State) -> Weights:
    """A model's arrays, wherever they lie, on the host by path; all processes must call it."""
    return {path: np.asarray(value[...]) for path, value in nnx.to_flat_state(meshes.gather(state))}


def by_path(tree: Mapping, prefix: tuple = ()) -> Weights:
    """The arrays of nested dicts, as `checkpoints.load` gives them, by path."""
    found = {}
    for key, value in tree.items():
        found |= by_path(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key): value}
    return found
