"""The training loop of every stage: steps, log, save THEN evaluate, stop."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from flax import nnx
from tqdm import tqdm

from sak_jax import paths
from sak_jax.engine import flops, hosts
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.engine.ahead import Ahead
from sak_jax.engine.checkpoints import quiet
from sak_jax.engine.evaluate import Evaluator
from sak_jax.engine.logs import Log
from sak_jax.engine.saving import Checkpoints
from sak_jax.engine.stage import Batches, Evaluation, Stage
from sak_jax.engine.stop import ADVICE, Stop
from sak_jax.engine.timing import Clock, Profile, line, speed
from sak_jax.errors import NonFiniteLossError, Stopped, UserError

logger = logging.getLogger(__name__)

TOLD_EVERY = 30.0
"""Seconds between lines that tell how a stage gets on where there is no terminal."""

ASK_EVERY = 5.0
"""Seconds after which processes ask each other whether one of them is to stop, or ten steps where these are fewer."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the stages of a run share.

    Attributes:
      workdir: gets `metrics.jsonl`, event files and `checkpoints/`.
      mesh: the devices.
      seed: of initialisation and noise.
      config: the recipe as plain data, kept in every checkpoint.
      compatible: raises UserError for the recipe of a checkpoint that this run may not go on from.
      stop: the signals the process has been sent.
      placement: where parameters lie, see `mesh.shardings`.
      log_every, checkpoint_every: steps between two.
      checkpoint_keep: how many of the newest are kept.
      profile: the first step that is profiled, and how many are; 0 is none.
      loggers: where scalars go besides `metrics.jsonl`, see `loggers.WRITERS`.
    """

    workdir: epath.Path
    mesh: jax.sharding.Mesh
    seed: int
    config: Mapping[str, Any]
    compatible: Callable[[Mapping[str, Any]], None]
    stop: Stop
    placement: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    log_every: int = 10
    checkpoint_every: int = 100
    checkpoint_keep: int = 2
    profile: tuple[int, int] = (0, 0)
    loggers: tuple[str, ...] = ("tensorboard",)


@dataclasses.dataclass
class Trained:
    """What training gives.

    Attributes:
      graph: the model's graph definition.
      model: its whole state, on the mesh.
      step: steps of the last stage.
      seconds: that all stages took, over all times they were started.
      evaluator: of the last stage; None where it has nothing to score.
      scores: of the last step; None where they were not computed in this process.
      time: seconds of this process by activity, see `timing.Clock`.
    """

    graph: nnx.GraphDef
    model: nnx.State
    step: int
    seconds: float
    evaluator: Evaluator | None = None
    scores: dict[str, float] | None = None
    time: dict[str, float] = dataclasses.field(default_factory=dict)


def train(stages: Sequence[Stage], settings: Settings) -> Trained:
    """Runs, or resumes, stages one after another.

    Raises:
      UserError: missing data or weights, or a checkpoint of another recipe.
      Stopped: on SIGTERM or Ctrl-C, when all is saved.
      NonFiniteLossError: the run has diverged.
    """
    stages = list(stages)
    while len(stages) > 1 and Checkpoints.exist(settings.workdir, stages[-1].name):
        del stages[0]  # The stage after it has begun, so this one is done.
    # First, and for all stages: without data nothing else is worth its time.
    data = hosts.together(lambda: [(stage.batches(), stage.evaluation and stage.evaluation()) for stage in stages])
    hosts.agree(
        {f"images of {stage.name}": batches.images for stage, (batches, _) in zip(stages, data, strict=True)}
        | {
            f"images that score {stage.name}": found.images
            for stage, (_, found) in zip(stages, data, strict=True)
            if found
        }
    )
    trained = None
    for stage, (batches, evaluation) in zip(stages, data, strict=True):
        before = trained.time if trained else {}
        trained = _train_stage(stage, batches, evaluation, settings, trained)
        trained.time = {name: seconds + before.get(name, 0.0) for name, seconds in trained.time.items()}
    return trained


def _train_stage(
    stage: Stage, batches: Batches, evaluation: Evaluation | None, settings: Settings, previous: Trained | None
) -> Trained:
    """Trains one stage to its end, from its newest checkpoint or from what came before it."""
    mesh, stop = settings.mesh, settings.stop
    with contextlib.ExitStack() as resources:  # However this ends, what was saved is written out.
        held = lambda resource: resources.enter_context(contextlib.closing(resource))  # noqa: E731
        resources.enter_context(quiet())
        held(batches)
        plan = states.plan(stage, mesh, settings.placement)
        frozen = None
        if stage.frozen is not None:
            frozen = hosts.together(lambda: stage.frozen.load(states.places(plan.frozen)))
        evaluator = None if evaluation is None else held(Evaluator(evaluation, plan.model, mesh))
        checkpoints = held(
            Checkpoints(
                settings.workdir, stage.name, settings.config, settings.compatible, keep=settings.checkpoint_keep
            )
        )
        restored = checkpoints.restore(plan.state, states.seed(plan, settings.seed))
        if restored is None:
            start = hosts.together(lambda: stage.start(previous and previous.model))
            seconds = previous.seconds if previous else 0.0
            if previous is not None:
                previous.model = None  # What this stage takes of it is in `start`.
            state = states.fresh(plan, settings.seed)
            if start.weights:
                state = states.started(state, start)
                logger.info("%s starts from %s: %d arrays", stage.name, start.name, len(start.weights))
        else:
            state, seconds = restored.state, restored.seconds
            batches.set_state(restored.iterator)
            logger.info("%s resumes at step %d", stage.name, int(state.step))
        restored = start = None

        ahead = held(Ahead(batches, mesh))
        first, pending, scores = int(state.step), None, None
        began = time.monotonic() - seconds
        scored, writers = evaluator is not None, settings.loggers
        options = {"scored": scored, "writers": writers, "config": settings.config}
        log = held(hosts.together(lambda: _opened(settings.workdir, stage.name, first, **options)))
        hidden = None if meshes.is_main() else True  # None: unless it is a terminal.
        progress = held(tqdm(total=stage.steps, initial=first, desc=stage.name, unit="step", disable=hidden))
        train_step, asking = plan.jitted(), Asking(stop, ahead, first)
        known = mesh.devices.flat[0].device_kind in flops.PEAKS
        clock = Clock(next(iter(plan.batch.values())).shape[0], plan.needed() if known else None)
        watch = Watch(stage, settings, log, progress, clock)
        profile = held(Profile(settings.workdir / "profile" / stage.name, settings.profile))

        def evaluates(step: int) -> bool:
            due = step == stage.steps or (stage.eval_every and step % stage.eval_every == 0)
            return bool(evaluator and step and due)

        def evaluate(step: int) -> dict[str, float]:
            with clock.during("evaluating"):
                scores = evaluator(state.model, stop)
            log.write(step, "val", scores)
            checkpoints.scored(step, evaluation.score(scores))
            return scores

        with stop.deferred():
            if evaluates(first) and not log.has_scores(first):
                scores = evaluate(first)  # It was stopped, or failed, after this step had been saved.
            for step in range(first + 1, stage.steps + 1):
                profile.before(step)
                with clock.during("data"):
                    batch = next(ahead)
                with clock.during("compiling") if step == first + 1 else contextlib.nullcontext():
                    state, values = train_step(state, frozen, batch)
                # The step before this one is looked at while this one runs.
                watch.report(pending)
                pending, scores = (step, values), None
                progress.update()

                due = step == stage.steps or evaluates(step) or step % settings.checkpoint_every == 0
                stopping = asking.stopping(step, due)
                if not (stopping or due):
                    continue
                watch.report(pending)
                pending = None
                with stop.saving(), clock.during("saving"):
                    checkpoints.save(state, ahead.get_state(), time.monotonic() - began)
                    if stopping or evaluates(step):
                        checkpoints.wait()  # Whatever becomes of the evaluation, the training is not lost.
                if stopping:
                    raise Stopped(f"stopped at step {step} of {stage.name}; {ADVICE}")
                if evaluates(step):
                    scores = evaluate(step)
        seconds = time.monotonic() - began
        return Trained(plan.model, state.model, int(state.step), seconds, evaluator, scores, clock.spent)


def _opened(workdir: epath.Path, *arguments: Any, **options: Any) -> Log:
    """The stage's log. Raises UserError where its files cannot be written."""
    try:
        return Log(workdir, *arguments, **options)
    except OSError as error:
        raise UserError(
            f"{error.filename2 or error.filename or workdir} cannot be written ({paths.reason(error, workdir)}): "
            "move away what is there, and run the same command"
        ) from error


@dataclasses.dataclass
class Asking:
    """When processes ask each other whether to stop: now and then, as each time costs a wait for the others.

    Attributes:
      stop, ahead: what one of them may have: a signal, or no more batches.
      step, time: of the last time.
      until: steps until the next, the same for all of them.
    """

    stop: Stop
    ahead: Ahead
    step: int
    time: float = dataclasses.field(default_factory=time.monotonic)
    until: int = 1

    def stopping(self, step: int, due: bool) -> bool:
        """Whether to stop after this step; several processes stop together, and fail together.

        Args:
          step: the one that was made, the same for all processes.
          due: something else makes processes wait for each other at this step.

        Raises:
          UserError: a process has no more batches.
        """
        if jax.process_count() == 1:
            return self.stop.requested
        if not due and step < self.step + self.until:
            return False
        now, problem = time.monotonic(), self.stop.requested or self.ahead.problem is not None
        problem, seconds = meshes.largest(problem, (now - self.time) / max(1, step - self.step))
        # Soon enough after a signal, whose sender does not wait for ever.
        self.step, self.time, self.until = step, now, max(1, min(10, int(ASK_EVERY / max(seconds, 1e-3))))
        if problem:
            self.ahead.check()
        return bool(problem)


@dataclasses.dataclass
class Watch:
    """What is told of a stage while it trains.

    Attributes:
      stage, settings, log, progress, clock: of the stage.
      told: when the last line was logged where there is no terminal to show progress on.
    """

    stage: Stage
    settings: Settings
    log: Log
    progress: tqdm
    clock: Clock
    told: float = dataclasses.field(default_factory=time.monotonic)

    def report(self, pending: tuple[int, dict] | None) -> None:
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
            raise NonFiniteLossError(
                f"step {step} gave a loss that is not finite: {listed}; the last checkpoint is kept"
            )
        self.progress.set_postfix(loss=f"{values['total']:.3f}", refresh=False)
        if step != 1 and step % self.settings.log_every:
            return
        self.log.write(step, None, values)
        timing = self.clock.lap(step, self.stage.steps)
        if not timing:
            return
        self.log.write_timing(step, timing)
        self.progress.set_postfix_str(f"loss={values['total']:.3f}, {speed(timing)}", refresh=False)
        if self.progress.disable and time.monotonic() - self.told > TOLD_EVERY:
            self.told = time.monotonic()
            where = f"{self.stage.name} {step}/{self.stage.steps}"
            logger.info("%s: loss %.4g, %s", where, values["total"], line(timing))
