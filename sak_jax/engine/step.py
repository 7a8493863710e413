"""The steps of training and evaluation: pure functions, jitted once by those who loop."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from sak_jax import tasks
from sak_jax.methods.sak.losses import distillation_loss
from sak_jax.tasks import Metric, Task


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """All that a step changes, and the frozen parameters.

    Attributes:
      step: updates made.
      seed: of the routers' noise; an array, so that runs that differ in it share a compiled program.
      params: what is trained.
      frozen: parameters that are not.
      stats: running statistics of the batch norms.
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
        """The student's whole state: parameters, frozen or not, and statistics."""
        return nnx.merge_state(self.params, self.frozen, self.stats)


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a training step minimises, and how; static under jit.

    Attributes:
      student: graph definition of the student.
      committee: graph definition of the committee, or None where nothing is distilled.
      tasks: the tasks; empty in stage 1.
      alpha: weight of the distillation loss.
      distillation: its kind.
      optimizer, schedule: of this stage.
      accumulate: parts a batch is split into.
    """

    student: nnx.GraphDef
    committee: nnx.GraphDef | None
    tasks: tuple[Task, ...]
    alpha: float
    distillation: str
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    accumulate: int = 1


Batch = dict[str, Array]
Logs = dict[str, Array]


def distill_step(
    objective: Objective, state: TrainState, committee: nnx.State, batch: Batch
) -> tuple[TrainState, Logs]:
    """One update of stage 1: the student's aligned features towards the committee's (SAK, section 3.3).

    Args:
      objective: what to minimise; without tasks.
      state: parameters, statistics and optimiser; donated by the caller.
      committee: the frozen teachers' parameters.
      batch: `image` float32 [b, H, W, 3], ImageNet-normalised.

    Returns:
      The new state, and scalars: `total`, `distill`, `distill/{teacher}`, `grad_norm`, `lr`.
    """

    def loss(student, images, features, key):
        outputs = student(images["image"], train=True, rngs=nnx.Rngs(noise=key))
        distill, logs = _distillation(objective, outputs, features)
        return distill, {"distill": distill} | logs

    return _update(objective, loss, state, committee, batch)


def multitask_step(
    objective: Objective, state: TrainState, committee: nnx.State | None, batch: Batch
) -> tuple[TrainState, Logs]:
    """One update of stage 2: weighted task losses plus `alpha` times the distillation loss.

    Args and returns are those of `distill_step`; the batch holds each task's labels, and the logs each task's weighted
    loss as `{task}`. Without a committee nothing is distilled.
    """

    def loss(student, batch, features, key):
        outputs = student(batch["image"], train=True, rngs=nnx.Rngs(noise=key))
        logs = {
            task.name: task.weight * tasks.loss(task, outputs.predictions[task.name], batch[task.name])
            for task in objective.tasks
        }
        total = sum(logs.values())
        if features is not None:
            distill, teachers = _distillation(objective, outputs, features)
            total = total + objective.alpha * distill
            logs |= {"distill": distill} | teachers
        return total, logs

    return _update(objective, loss, state, committee, batch)


def eval_step(
    student: nnx.GraphDef, scores: dict[str, Metric], model: nnx.State, batch: Batch
) -> tuple[dict[str, dict[str, Array]], dict[str, Array]]:
    """Each task's metric sums over a batch, and the predictions that metrics on the host ask for.

    Args:
      student: graph definition of the student.
      scores: each task's metric.
      model: all of the student's parameters and statistics.
      batch: images, labels and `mask` [b].
    """
    outputs = nnx.merge(student, model, copy=True)(batch["image"])
    sums, predictions = {}, {}
    for task, metric in scores.items():
        if metric.on_host:
            predictions[task] = outputs.predictions[task]
        else:
            sums[task] = metric.batch(outputs.predictions[task], batch[task], batch["mask"])
    return sums, predictions


def _distillation(objective: Objective, outputs, features) -> tuple[Array, Logs]:
    total, teachers = distillation_loss(outputs.aligned, features, kind=objective.distillation)
    return total, {f"distill/{name}": value for name, value in teachers.items()}


def _update(objective: Objective, loss, state: TrainState, committee, batch: Batch) -> tuple[TrainState, Logs]:
    """Gradient of `loss` over the batch's parts, and the optimiser's step."""
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)

    def part(stats, batch, key):
        features = None
        if objective.committee is not None:
            features = jax.lax.stop_gradient(nnx.merge(objective.committee, committee, copy=True)(batch["image"]))

        def loss_of(params):
            student = nnx.merge(objective.student, params, state.frozen, stats, copy=True)
            total, logs = loss(student, batch, features, key)
            return total, (nnx.state(student, nnx.BatchStat), logs | {"total": total})

        gradient, (stats, logs) = jax.grad(loss_of, has_aux=True)(state.params)
        return stats, (gradient, logs)

    parts = objective.accumulate
    if parts == 1:
        stats, (gradient, logs) = part(state.stats, batch, key)
    else:
        # Each part takes every n-th row, so that a batch sharded by rows stays where it is.
        split = lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0)  # noqa: E731
        batches, keys = jax.tree.map(split, batch), jax.random.split(key, parts)

        def add(carry, part_and_key):
            stats, means = carry
            stats, values = part(stats, *part_and_key)
            return (stats, jax.tree.map(lambda mean, value: mean + value / parts, means, values)), None

        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype),
            jax.eval_shape(part, state.stats, jax.tree.map(lambda x: x[0], batches), keys[0])[1],
        )
        (stats, (gradient, logs)), _ = jax.lax.scan(add, (state.stats, zeros), (batches, keys))

    updates, opt_state = objective.optimizer.update(gradient, state.opt_state, state.params)
    logs |= {"grad_norm": optax.tree.norm(gradient), "lr": objective.schedule(state.step)}
    state = TrainState(
        step=state.step + 1,
        seed=state.seed,
        params=optax.apply_updates(state.params, updates),
        frozen=state.frozen,
        stats=stats,
        opt_state=opt_state,
    )
    return state, logs
