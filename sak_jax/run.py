"""ONE run, read top to bottom: recipe -> stages -> results -> report."""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import keys, methods, paths, recipe, tasks
from sak_jax.engine import checkpoints, hosts, loggers, loop, preflight
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.engine.evaluate import Evaluator
from sak_jax.engine.lock import locked
from sak_jax.engine.stop import Stop
from sak_jax.errors import UserError
from sak_jax.report import record
from sak_jax.report.table import table

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Options:
    """What of a run is asked for.

    Attributes:
      mode: `train`, or `evaluate` to do that only.
      best: evaluate the checkpoint with the highest score instead of the newest.
    """

    mode: str = "train"
    best: bool = False


def start_jax(config: ConfigDict) -> None:
    """Joins the other processes of a multi-host run, and sets what the recipe says of JAX as a whole.

    Raises:
      UserError: a key of the recipe holds what it may not.
    """
    recipe.check_keys(config)
    meshes.give_threads()
    hosts.join()
    if config.compilation_cache and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if config.matmul_precision:
        jax.config.update("jax_default_matmul_precision", config.matmul_precision)


def run(config: ConfigDict, workdir: epath.Path, options: Options, stop: Stop, started: float) -> None:
    """Trains (or resumes) unless the mode is `evaluate`, then evaluates and writes the results and the report.

    Raises:
      UserError: the recipe, its data or its weights are not as they should be.
    """
    preflight.agree(keys.flatten(recipe.plain(config)), workdir)
    paths.check_remote(workdir, config.init_from, recipe.teachers(config).get("dir", ""))
    recipe.check(config, jax.device_count())
    method = methods.get(config.method)
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp)
    stages = method.stages(config)
    with contextlib.ExitStack() as resources:
        if options.mode == "train":
            hosts.together(lambda: loggers.check(config.loggers))
            hosts.together(lambda: resources.enter_context(locked(workdir)))
            preflight.shared(workdir)
            hosts.together(lambda: claim(config, workdir))
            again = finished(workdir, stages)
            if again:
                logger.info("%s is finished; evaluating it again", workdir)
            trained = loop.train(stages, settings(config, workdir, mesh, stop))
            if again and meshes.is_main():  # Its last evaluation came after its last checkpoint.
                trained.seconds = max(trained.seconds, record.collect(workdir).seconds or 0.0)
        else:
            trained = restore(config, stages, workdir, mesh, options.best)
        if trained.evaluator is None:
            logger.info("stage 1 is done: %s holds the distilled student", checkpoints.find(workdir))
            return
        resources.callback(trained.evaluator.close)
        scores = trained.scores or trained.evaluator(trained.model, stop)
        steps = sum(stage.steps for stage in stages[:-1]) + trained.step
        found = report(config, workdir, options, trained, scores, steps, started, committee(config, stages, mesh))
        if found is not None:
            show(config, workdir, stages[-1].name, trained.step, found)


def settings(config: ConfigDict, workdir: epath.Path, mesh: jax.sharding.Mesh, stop: Stop) -> loop.Settings:
    """What a recipe says of the training loop."""
    return loop.Settings(
        workdir=workdir,
        mesh=mesh,
        seed=config.seed,
        config=recipe.plain(config),
        compatible=lambda theirs: recipe.incompatible(theirs, config, str(workdir)),
        stop=stop,
        placement=recipe.ordered(config.mesh.placement),
        log_every=config.log_every,
        checkpoint_every=config.checkpoint.every,
        checkpoint_keep=config.checkpoint.keep,
        loggers=tuple(config.loggers),
        profile=(config.profile.first_step, config.profile.steps),
    )


def claim(config: ConfigDict, workdir: epath.Path) -> None:
    """Writes the recipe into the workdir, which is thereby seen to be one that can be written to.

    Raises:
      UserError: it cannot be written, or is another recipe's.
    """
    recipe.check_workdir(config, workdir)
    if not meshes.is_main():
        return
    try:
        paths.write_text(workdir / "config.json", config.to_json(indent=2) + "\n")
    except OSError as error:
        raise paths.unwritable(workdir, error) from error


def finished(workdir: epath.Path, stages: tuple) -> bool:
    """Whether the run's last stage has its last checkpoint."""
    return stages[-1].steps in checkpoints.steps(workdir / checkpoints.FOLDER / stages[-1].name)


def restore(
    config: ConfigDict, stages: tuple, workdir: epath.Path, mesh: jax.sharding.Mesh, best: bool
) -> loop.Trained:
    """The student of the newest checkpoint, or of the best one, on the mesh.

    Raises:
      UserError: there is none, or it is another student than the recipe's.
    """
    folder = hosts.together(lambda: checkpoints.find(workdir, best=best))
    preflight.shared(workdir)
    saved, stage, arrays = hosts.together(lambda: checkpoints.load(folder))
    theirs = recipe.from_dict(saved)
    if theirs.method != config.method:
        raise UserError(f"{folder} was made by the method {theirs.method}, and config.method is {config.method}")
    method = methods.get(config.method)
    ours, made = method.architecture(config, stage), method.architecture(theirs, stage)
    changed = keys.differing(ours, made)
    if changed:
        key = changed[0]
        raise UserError(
            f"{folder} holds another student: {key} is {made.get(key)!r} there and {ours.get(key)!r} here; "
            "evaluate it with the recipe that made it"
        )
    graph, state = nnx.split(nnx.eval_shape(lambda: method.student(config, stage, nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, arrays)
    state = meshes.put(state, meshes.shardings(state, mesh, recipe.ordered(config.mesh.placement)))
    opened = next((each.evaluation for each in stages if each.name == stage), None)
    evaluation = opened and hosts.together(opened)
    hosts.agree({f"images that score {stage}": evaluation and evaluation.images})
    evaluator = None if evaluation is None else Evaluator(evaluation, graph, mesh)
    return loop.Trained(graph, state, int(folder.name), 0.0, evaluator)


def committee(config: ConfigDict, stages: tuple, mesh: jax.sharding.Mesh):
    """Images -> the teachers' maps that the student was to follow, for the report; loaded when it is first called.

    None where there are no teachers, or where the student followed standardised features or single tokens instead of
    maps; and with several processes, of which one alone writes the report.
    """
    stage = next((stage for stage in reversed(stages) if stage.frozen is not None), None)
    if stage is None or jax.process_count() > 1 or _standardised(config):
        return None
    shapes = stage.frozen.abstract
    given = states.placed(shapes, meshes.shardings(shapes, mesh, recipe.ordered(config.mesh.placement)))
    image = {"image": stage.inputs["image"]}
    if not all(isinstance(maps, tuple) for maps in jax.eval_shape(stage.frozen.features, given, image).values()):
        return None
    load = functools.cache(lambda: stage.frozen.load(states.places(given)))
    features = jax.jit(meshes.computing_on(mesh, stage.frozen.features))

    def of(images):
        filled = np.concatenate([images, np.repeat(images[-1:], -len(images) % mesh.size, axis=0)])
        maps = features(load(), meshes.put_batch({"image": filled}, mesh))
        return jax.tree.map(lambda x: np.asarray(x)[: len(images)], maps)

    return of


def _standardised(config: ConfigDict) -> bool:
    return recipe.ordered(config).get("distill", {}).get("standardise", "none") != "none"


def report(
    config: ConfigDict,
    workdir: epath.Path,
    options: Options,
    trained: loop.Trained,
    scores: Mapping[str, float],
    steps: int,
    started: float,
    teachers: Callable | None,
) -> record.Run | None:
    """Prints the table of scores, then writes the results and the report; its record where it was written here."""
    selected = tasks.select(recipe.ordered(config.tasks))
    baselines, published = recipe.ordered(config.baselines), recipe.ordered(config.published)
    delta = tasks.relative(selected, scores, baselines)
    results = {
        "metrics": {name: value if math.isfinite(value) else None for name, value in scores.items()},
        "delta_m": delta,
        "steps": steps,
        "seconds": round(trained.seconds or time.monotonic() - started, 1),
    }
    if trained.time:
        results["time"] = {name: round(seconds, 1) for name, seconds in trained.time.items()}
    if config.data.on_error == "skip":
        results["skipped"] = trained.evaluator.skipped
    if recipe.teachers(config).get("random"):
        results["teachers_random"] = True
        logger.warning("THE TEACHERS WERE RANDOM: these scores say nothing about the method")
    model = meshes.gather(trained.model)
    if not meshes.is_main():
        return None
    better = {key: tasks.higher_is_better(key.rpartition("/")[-1]) for key in scores}
    print(table(scores, baselines, delta, published, better))
    training = options.mode == "train"
    try:  # An evaluation is written beside what training wrote, not over it.
        paths.write_text(
            workdir / ("results.json" if training else "evaluation.json"), json.dumps(results, indent=2) + "\n"
        )
        if training:
            student = nnx.merge(trained.graph, model)
            found = write_report(config, workdir, trained, student, selected, better, teachers)
            print(f"report: {workdir / 'report' / 'index.html'}")
            return found
    except OSError as error:
        raise UserError(
            f"the results cannot be written into {workdir} ({paths.reason(error, workdir)}); they are above, and the "
            "same command writes them once it can"
        ) from error
    return None


def write_report(
    config: ConfigDict,
    workdir: epath.Path,
    trained: loop.Trained,
    student: nnx.Module,
    selected: tuple[tasks.Task, ...],
    better: Mapping[str, bool],
    teachers: Callable | None,
) -> record.Run:
    """Writes `report/index.html`, `report/predictions.png` and what `tools/report.py` needs to write them again."""
    from sak_jax.report import figures, gather, page

    evaluation = trained.evaluator.evaluation
    count = min(32, evaluation.images)
    # Evenly spaced over the set, the same scenes every time.
    samples = [evaluation.sample(index * evaluation.images // count) for index in range(count)]
    forward = jax.jit(lambda student, images: student(images))
    found = record.Run(name=workdir.name, command=record.command(), versions=record.versions())
    found.versions["device"] = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    found.higher_is_better = dict(better)
    found.experts = ["stem", *(name for name, row in recipe.teachers(config).items() if isinstance(row, dict))]
    stem = None
    if hasattr(student, "stem"):
        last = jax.jit(lambda student, images: student.stem(images)[-1])
        stem = lambda images: last(student, images)  # noqa: E731
    gather.gather(found, lambda images: forward(student, images), samples, selected, stem=stem, teachers=teachers)
    record.save(workdir, found)
    paths.write_bytes(workdir / "report" / "predictions.png", record.png(figures.montage(found.pictures[:4])))
    page.write(workdir / "report" / "index.html", [record.collect(workdir)])
    return found


def show(config: ConfigDict, workdir: epath.Path, stage: str, step: int, found: record.Run) -> None:
    """Sends pictures of predictions and the mean routing weights to the run's loggers.

    They are of the step after the last one, from which on a run that is resumed, or evaluated again, takes back what it
    wrote before; a service would refuse a step that it has.
    """
    from sak_jax.report import gather

    weights, pictures = gather.logged(found)
    for name in config.loggers:
        with contextlib.closing(loggers.WRITERS[name](workdir, stage, step, recipe.plain(config))) as writer:
            writer.write(step + 1, "routing", weights)
            for split, some in pictures.items():
                writer.show(step + 1, split, some)
