"""One run from config to results: train, evaluate, write down, show."""

import dataclasses
import json
import logging
import math
import os
import shlex
import sys
import time

import jax
from etils import epath
from flax import nnx
from ml_collections import ConfigDict

from sak_jax import builders, paths
from sak_jax import recipe as config_lib
from sak_jax.data import transforms
from sak_jax.engine import checkpoints
from sak_jax.engine import mesh as sharding
from sak_jax.engine.evaluate import Evaluator
from sak_jax.engine.loop import Trained, train, validation_source
from sak_jax.errors import UserError
from sak_jax.report.table import table

logger = logging.getLogger(__name__)


def start_jax(config: ConfigDict) -> None:
    """Joins the other processes of a multi-host run, and turns the compilation cache on."""
    join_processes()
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(config.compilation_cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def join_processes() -> None:
    """Joins the other processes of this run, if there are any.

    JAX finds them by itself on TPU VMs, under Slurm, Open MPI and Kubernetes; elsewhere JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID tell it.
    """
    if os.environ.get("SLURM_NTASKS") == "1":
        return  # JAX would leave a Slurm task one GPU; a single one is to have all.
    given = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
    try:
        jax.distributed.initialize(**{name: int(os.environ[key]) for name, key in given.items() if key in os.environ})
    except ValueError as error:
        if "coordinator_address" not in str(error):
            raise
        return  # Nothing says that there are others.
    if not sharding.is_main():
        logging.getLogger("sak_jax").setLevel(logging.WARNING)  # One process tells what all do.


def run(config: ConfigDict, workdir: epath.Path, mode: str, started: float) -> None:
    """Trains (or resumes) unless `mode` is `evaluate`, then evaluates and writes `results.json` and the report.

    Raises:
      UserError: the recipe, its data or its weights are not as they should be.
    """
    config_lib.check(config, jax.device_count())
    if mode == "train":
        config_lib.check_workdir(config, workdir)
        if sharding.is_main():
            paths.write_text(workdir / "config.json", config.to_json(indent=2) + "\n")
        if finished(config, workdir):
            logger.info("%s is finished; evaluating it again", workdir)
            mode = "evaluate"
    trained = train(config, workdir) if mode == "train" else restore(config, workdir)
    evaluator = trained.evaluator
    if evaluator is None:
        logger.info("stage 1 is done: %s holds the distilled student", checkpoints.find(workdir))
        return
    scores = trained.scores or evaluator(trained.model)
    delta = evaluator.delta_m(scores)
    results = {
        "metrics": {name: value if math.isfinite(value) else None for name, value in scores.items()},
        "delta_m": delta,
        "steps": config.distill.steps + trained.step,
        "seconds": round(time.monotonic() - started, 1),
    }
    if config.data.on_error == "skip":
        results["skipped"] = evaluator.skipped
    if config.teachers.random:
        results["teachers_random"] = True
        logger.warning("THE TEACHERS WERE RANDOM: these scores say nothing about the method")
    model = sharding.gather(trained.model)
    if sharding.is_main():
        paths.write_text(workdir / "results.json", json.dumps(results, indent=2) + "\n")
        write_report(config, workdir, evaluator, nnx.merge(trained.graph, model))
        print(table(scores, config.baselines, delta, config.published, evaluator.directions))
        print(f"report: {workdir / 'report' / 'index.html'}")


def write_report(config: ConfigDict, workdir: epath.Path, evaluator: Evaluator, student: nnx.Module) -> None:
    """Writes `report/index.html`, `report/predictions.png` and what `tools/report.py` needs to write them again."""
    from sak_jax.report import figures, gather, page, record

    count = min(32, len(evaluator.source))
    transform = transforms.evaluation_transform(tuple(config.image_size), evaluator.tasks)
    # Evenly spaced over the set, the same scenes every time.
    samples = [transform(evaluator.source[index * len(evaluator.source) // count], None) for index in range(count)]
    forward = jax.jit(lambda student, images: student(images))
    found = record.Run(name=workdir.name, command=shlex.join(sys.orig_argv), versions=record.versions())
    found.versions["device"] = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    found.higher_is_better = evaluator.directions
    found.experts = ["stem", *config_lib.selected_teachers(config)]
    gather.gather(found, lambda images: forward(student, images), samples, evaluator.tasks)
    record.save(workdir, found)
    paths.write_bytes(workdir / "report" / "predictions.png", record.png(figures.montage(found.pictures[:4])))
    page.write(workdir / "report" / "index.html", [record.collect(workdir)])


def finished(config: ConfigDict, workdir: epath.Path) -> bool:
    """Whether the run's last stage has its last checkpoint."""
    stage = "multitask" if config.multitask.steps else "distill"
    return config[stage].steps in checkpoints.steps(workdir / checkpoints.FOLDER / stage)


def restore(config: ConfigDict, workdir: epath.Path) -> Trained:
    """The newest checkpoint's student on the mesh.

    Raises:
      UserError: there is none, or it is another student than the recipe's.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    folder = checkpoints.find(workdir)
    theirs, stage, model = checkpoints.load(folder)
    ours, saved = architecture(config, stage), architecture(theirs, stage)
    changed = config_lib.differing(ours, saved)
    if changed:
        key = changed[0]
        raise UserError(
            f"{folder} holds another student: {key} is {saved.get(key)!r} there and {ours.get(key)!r} here; "
            "evaluate it with the recipe that made it"
        )
    graph, state = nnx.split(builders.abstract_student(config, stage))
    nnx.replace_by_pure_dict(state, model)
    state = sharding.put(state, sharding.state_sharding(state, mesh))
    validation = validation_source(config, stage)
    evaluator = Evaluator(config, graph, mesh, validation) if validation is not None else None
    return Trained(graph, state, int(folder.name), evaluator)


def architecture(config: ConfigDict, stage: str) -> dict[str, object]:
    """What a student's arrays and their meaning depend on, by name."""
    tasks = [(task.name, task.channels) for task in config_lib.selected_tasks(config)]
    if config.model.encoder.model:
        return {"encoder": config.model.encoder.model, "image_size": tuple(config.image_size), "tasks": tasks}
    parts = dataclasses.asdict(builders.student_config(config, stage))
    return config_lib.flatten({key: value for key, value in parts.items() if key not in ("dtype", "remat")})
