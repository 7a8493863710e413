"""Measure a recipe's training steps: compile seconds, step time, images/s, peak memory.

    python tools/benchmark.py --config=configs/rooms.py [--steps=20] [--output=FILE.json] [--config.KEY=VALUE ..]

Runs each stage's jitted step on random images and labels of the recipe's shapes, so that no data is read. With
`--config.teachers.random=True` it needs no weights either.
"""

import json
import sys
import time
from functools import partial

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from sak_jax import files, sharding, train
from sak_jax.config import check
from sak_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", "configs/rooms.py", "The recipe.")
_STEPS = flags.DEFINE_integer("steps", 20, "Steps that are timed.")
_OUTPUT = flags.DEFINE_string("output", None, "Where to write the figures as JSON.")


def main(_) -> None:
    """Prints a line a stage."""
    config = _CONFIG.value
    try:
        check(config, jax.device_count())
        figures = {stage.name: measure(config, stage) for stage in train.STAGES if config[stage.name].steps}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    device = jax.devices()[0]
    print(f"{jax.device_count()} x {device.device_kind}, jax {jax.__version__}, batch {config.batch_size}")
    for name, row in figures.items():
        print(name + ": " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if _OUTPUT.value:
        files.write_text(_OUTPUT.value, json.dumps(figures, indent=2) + "\n")


def measure(config, stage: train.Stage) -> dict[str, float]:
    """A stage's figures on random data."""
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    objective, committee, state = train.prepare(config, stage, mesh)
    batch = sharding.put_batch(random_batch(config, objective.tasks), mesh)
    step = jax.jit(partial(stage.step, objective), donate_argnums=0)
    started = time.perf_counter()
    compiled = step.lower(state, committee, batch).compile()
    compile_seconds = time.perf_counter() - started
    for _ in range(2):
        state, _ = compiled(state, committee, batch)
    jax.block_until_ready(state)
    started = time.perf_counter()
    for _ in range(_STEPS.value):
        state, _ = compiled(state, committee, batch)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - started) / _STEPS.value
    memory = compiled.memory_analysis()
    program = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    figures = {
        "compile_seconds": compile_seconds,
        "step_milliseconds": 1e3 * seconds,
        "images_per_second": config.batch_size / seconds,
        "program_gigabytes": program / 2**30,
    }
    statistics = jax.devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        figures["peak_gigabytes"] = statistics["peak_bytes_in_use"] / 2**30
    return figures


def random_batch(config, tasks) -> dict[str, np.ndarray]:
    """Images and labels of the recipe's shapes."""
    rng = np.random.default_rng(0)
    shape = (config.batch_size // jax.process_count(), *config.image_size)
    batch = {"image": rng.standard_normal((*shape, 3), np.float32)}
    for task in tasks:
        if task.loss in ("cross_entropy", "balanced_cross_entropy"):
            batch[task.name] = rng.integers(0, task.channels, shape).astype(np.uint8)
        elif task.loss == "normals_l1":
            normals = rng.standard_normal((*shape, 3), np.float32)
            batch[task.name] = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
        else:
            batch[task.name] = rng.random(shape, np.float32).round() + (task.loss == "l1")
    return batch


if __name__ == "__main__":
    app.run(main)
