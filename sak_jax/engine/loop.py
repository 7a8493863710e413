"""The training loop of both stages."""

import contextlib
import dataclasses
import logging
import math
import signal
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from sak_jax import builders, data
from sak_jax.data import pipeline, transforms
from sak_jax.engine import mesh as sharding
from sak_jax.engine import optim
from sak_jax.engine import step as steps
from sak_jax.engine.checkpoints import Checkpoints
from sak_jax.engine.evaluate import Evaluator
from sak_jax.engine.logs import MetricsLog
from sak_jax.errors import NonFiniteLossError, Stopped
from sak_jax.methods.sak.start import initial_weights
from sak_jax.recipe import selected_tasks

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of the two stages.

    Attributes:
      name: `distill` or `multitask`; the key of its settings in the config.
      step: its training step.
    """

    name: str
    step: Callable


STAGES = (Stage("distill", steps.distill_step), Stage("multitask", steps.multitask_step))


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training gives.

    Attributes:
      graph: the student's graph definition.
      model: its whole state, on the mesh.
      step: steps of the last stage.
      evaluator: of the last stage; None where it has no tasks.
      scores: of the last step; None where they were not computed in this process.
    """

    graph: nnx.GraphDef
    model: nnx.State
    step: int
    evaluator: Evaluator | None = None
    scores: dict[str, float] | None = None


def train(config: ConfigDict, workdir: epath.Path) -> Trained:
    """Runs, or resumes, the stages of a recipe.

    Args:
      config: a checked recipe.
      workdir: gets `metrics.jsonl`, event files and `checkpoints/`.

    Raises:
      UserError: missing data or weights.
      Stopped: on SIGTERM or Ctrl-C, when all is saved.
      NonFiniteLossError: the run has diverged.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    stages = [stage for stage in STAGES if config[stage.name].steps > 0]
    while len(stages) > 1 and Checkpoints.exist(workdir, stages[1].name):
        del stages[0]  # The stage after it has begun, so this one is done.
    # First, and for all stages: without data nothing else is worth its time.
    data_of = {stage.name: (training_batches(config, stage), validation_source(config, stage.name)) for stage in stages}
    trained = None
    for stage in stages:
        trained = train_stage(config, stage, workdir, mesh, trained, *data_of[stage.name])
    return trained


def train_stage(
    config: ConfigDict,
    stage: Stage,
    workdir: epath.Path,
    mesh: jax.sharding.Mesh,
    previous: Trained | None,
    batches: pipeline.Batches,
    validation: data.Source | None,
) -> Trained:
    """Trains one stage to its end, from its newest checkpoint or from what came before it."""
    settings = config[stage.name]
    with contextlib.ExitStack() as resources:  # However this ends, what was saved is written out.
        held = lambda resource: resources.enter_context(contextlib.closing(resource))  # noqa: E731
        held(batches)
        objective, committee, state = prepare(config, stage, mesh)
        train_step = jitted(stage, objective, state, mesh)
        evaluator = Evaluator(config, objective.student, mesh, validation) if validation is not None else None

        checkpoints = held(Checkpoints(workdir, stage.name, config))
        if checkpoints.newest is None:
            state = initial_weights(config, stage.name, state, previous and previous.model)
        else:
            state, iterator = checkpoints.restore(state)
            batches.set_state(iterator)
            logger.info("%s resumes at step %d", stage.name, int(state.step))

        first, pending, scores = int(state.step), None, None
        log = held(MetricsLog(workdir, stage.name, resume_at=first))
        quiet = None if sharding.is_main() else True  # None: unless it is a terminal.
        progress = held(tqdm(total=settings.steps, initial=first, desc=stage.name, unit="step", disable=quiet))
        stop_requested = resources.enter_context(stop_signals(config.log_every))
        for step in range(first + 1, settings.steps + 1):
            batch = sharding.put_batch(next(batches), mesh)
            state, values = train_step(state, committee, batch)
            # The step before this one is looked at while this one runs.
            report(log, progress, config, pending)
            pending = (step, values)
            progress.update()

            stopping = stop_requested(step)
            last = step == settings.steps
            evaluates = evaluator and (last or (settings.eval_every and step % settings.eval_every == 0))
            if not (stopping or last or evaluates or step % config.checkpoint.every == 0):
                continue
            report(log, progress, config, pending)
            pending, scores = None, None
            try:
                if evaluates:
                    scores = evaluator(state.model)
                    log.write(step, "val", scores)
            finally:  # A damaged validation image must not cost the training.
                checkpoints.save(state, batches.get_state(), evaluator.score(scores) if scores else None)
            if stopping and not last:
                raise Stopped(f"stopped at step {step} of {stage.name}; run the same command to go on")
    return Trained(objective.student, state.model, int(state.step), evaluator, scores)


def prepare(
    config: ConfigDict, stage: Stage, mesh: jax.sharding.Mesh
) -> tuple[steps.Objective, nnx.State | None, steps.TrainState]:
    """What a stage minimises, the committee's parameters (None where nothing is distilled), and a fresh state."""
    settings = config[stage.name]
    distils = stage.name == "distill" or settings.alpha > 0
    committee = builders.committee(config) if distils else None
    committee_graph, committee_state = (None, None) if committee is None else nnx.split(committee)
    optimizer = optim.optimizer(stage.name, settings)
    student, state = create_state(config, stage, optimizer, mesh)
    objective = steps.Objective(
        student=student,
        committee=committee_graph,
        tasks=selected_tasks(config) if stage.name == "multitask" else (),
        alpha=settings.get("alpha", 1.0),
        distillation=config.distill.loss,
        optimizer=optimizer,
        schedule=optim.schedule(stage.name, settings),
        accumulate=settings.accumulate,
    )
    return objective, sharding.put(committee_state, sharding.replicated(mesh)), state


def jitted(stage: Stage, objective: steps.Objective, state: steps.TrainState, mesh: jax.sharding.Mesh) -> Callable:
    """The stage's step `(state, committee, batch) -> (state, logs)`; the state is donated and stays where it lies."""
    placed = sharding.state_sharding(state, mesh), sharding.replicated(mesh)
    return jax.jit(partial(stage.step, objective), donate_argnums=0, out_shardings=placed)


def create_state(config: ConfigDict, stage: Stage, optimizer, mesh) -> tuple[nnx.GraphDef, steps.TrainState]:
    """A fresh state, made where it lies: its shardings follow from abstract shapes before any array exists."""
    is_trained = optim.trainable(config.model.freeze, lora_only=stage.name == "distill" and config.model.lora.rank > 0)

    def create(seed):
        student = builders.new_student(config, stage.name, nnx.Rngs(jax.random.key(seed)))
        _, params, stats, frozen = nnx.split(student, is_trained, nnx.BatchStat, ...)
        return steps.TrainState(jnp.zeros((), jnp.int32), seed, params, frozen, stats, optimizer.init(params))

    seed = jnp.asarray(config.seed, jnp.uint32)
    abstract = jax.eval_shape(create, seed)
    # Runs once: on a CPU, where optimising it would take longer than training some small students, it is not optimised.
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    placed = sharding.state_sharding(abstract, mesh)
    state = jax.jit(create, out_shardings=placed, compiler_options=options)(seed)
    return nnx.graphdef(builders.abstract_student(config, stage.name)), state


def training_batches(config: ConfigDict, stage: Stage) -> pipeline.Batches:
    """The stage's endless batches of this process."""
    size, settings = tuple(config.image_size), dict(config.data)
    if stage.name == "distill":
        settings |= config.distill.data
        source, transform = data.create_source(settings, "train", (), size), transforms.distill_transform(size)
    else:
        wanted = selected_tasks(config)
        source = data.create_source(settings, "train", [task.name for task in wanted], size)
        transform = transforms.multitask_transform(
            size, wanted, scale_range=tuple(config.multitask.scale_range), shrink=settings.get("resize", False)
        )
    return pipeline.train_batches(
        source,
        transform,
        config.batch_size,
        config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=settings["workers"],
    )


def validation_source(config: ConfigDict, stage: str) -> data.Source | None:
    """What a stage is evaluated on; None for stage 1."""
    if stage == "distill":
        return None
    return data.create_source(config.data, "val", [task.name for task in selected_tasks(config)], config.image_size)


def report(log: MetricsLog, progress: tqdm, config: ConfigDict, pending: tuple[int, dict] | None) -> None:
    """Waits for a step's values, makes sure they are finite, and writes them down now and then.

    Raises:
      NonFiniteLossError: names the step and the values.
    """
    if pending is None:
        return
    step, values = pending
    values = {name: float(value) for name, value in jax.device_get(values).items()}
    if not math.isfinite(values["total"]) or not math.isfinite(values["grad_norm"]):
        listed = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise NonFiniteLossError(f"step {step} gave a loss that is not finite: {listed}; the last checkpoint is kept")
    progress.set_postfix(loss=f"{values['total']:.3f}", refresh=False)
    if step == 1 or step % config.log_every == 0:
        log.write(step, None, values)


@contextlib.contextmanager
def stop_signals(every: int) -> Iterator[Callable[[int], bool]]:
    """Within it, SIGTERM and Ctrl-C only set a flag; the function given says at a step whether to stop.

    Several processes stop together: they ask each other every so many steps, as each time costs a wait for the others.
    """
    received = []
    handler = lambda number, frame: received.append(number)  # noqa: E731
    previous = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}

    def requested(step: int) -> bool:
        if jax.process_count() == 1:
            return bool(received)
        if step % every:
            return False
        from jax.experimental import multihost_utils

        return bool(np.any(multihost_utils.process_allgather(np.array(bool(received)))))

    try:
        yield requested
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
