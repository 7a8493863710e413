"""The training step of every stage: gradient, accumulation, update. A pure function, jitted once by the loop."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from sak_jax.engine.stage import Batch, Logs, Part, Stage

NOISE = 1
"""What tells the noise's random stream from that of initialisation."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """All that a step changes, and the frozen parameters.

    Attributes:
      step: updates made.
      seed: of the noise; an array, so that runs that differ in it share a compiled program.
      params: what is trained.
      frozen: parameters that are not.
      stats: running statistics, of batch norms and whatever else a model keeps as `nnx.BatchStat`.
      opt_state: of the optimiser.
    """

    step: jax.Array
    seed: jax.Array
    params: nnx.State
    frozen: nnx.State
    stats: nnx.State
    opt_state: optax.OptState

    @property
    def model(self) -> nnx.State:
        """The model's whole state: parameters, frozen or not, and statistics."""
        return nnx.merge_state(self.params, self.frozen, self.stats)


def train_step(stage: Stage, model: nnx.GraphDef, state: TrainState, frozen, batch: Batch) -> tuple[TrainState, Logs]:
    """One update.

    Args:
      stage: what is minimised, and how; static under jit.
      model: graph definition of the model.
      state: parameters, statistics and optimiser; donated by the caller.
      frozen: the arrays of `stage.frozen`, or None.
      batch: images and labels.

    Returns:
      The new state, and scalars: those of the loss, and `total`, `grad_norm`, `lr`.
    """
    # A stream of its own: parameters are initialised from the seed's key itself.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), NOISE), state.step)
    whole = stage.totals(batch) if stage.totals else None
    parts = stage.accumulate

    def features_of(batch):
        return None if stage.frozen is None else jax.lax.stop_gradient(stage.frozen.features(frozen, batch))

    def part(stats, batch, given, key):
        features = given if stage.teach_whole else features_of(batch)

        def loss(params):
            module = nnx.merge(model, params, state.frozen, stats, copy=True)
            total, logs = stage.loss(module, features, Part(batch, key, whole, 1 / parts, state.step))
            return total, (nnx.state(module, nnx.BatchStat), logs | {"total": total})

        gradient, (stats, logs) = jax.grad(loss, has_aux=True)(state.params)
        return stats, (gradient, logs)

    given = features_of(batch) if stage.teach_whole else None
    if parts == 1:
        stats, (gradient, logs) = part(state.stats, batch, given, key)
    else:
        # Each part takes every n-th row, so that a batch sharded by rows stays where it is.
        split = lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)  # noqa: E731
        each = *jax.tree.map(split, (batch, given)), jax.random.split(key, parts)

        def add(carry, arguments):
            stats, sums = carry
            stats, values = part(stats, *arguments)
            return (stats, jax.tree.map(jnp.add, sums, values)), None

        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(part, state.stats, *jax.tree.map(lambda x: x[0], each))[1],
        )
        (stats, (gradient, logs)), _ = jax.lax.scan(add, (state.stats, zeros), each)

    updates, opt_state = stage.optimizer.update(gradient, state.opt_state, state.params)
    logs |= {"grad_norm": optax.tree.norm(gradient), "lr": stage.schedule(state.step)}
    state = TrainState(
        step=state.step + 1,
        seed=state.seed,
        params=optax.apply_updates(state.params, updates),
        frozen=state.frozen,
        stats=stats,
        opt_state=opt_state,
    )
    return state, logs
