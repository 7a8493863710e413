"""Measure a recipe's training steps: compile seconds, step time, images/s, FLOPs, MFU, peak memory.

    python tools/benchmark.py --config=configs/rooms.py [--steps=20] [--output=FILE.json] [--config.KEY=VALUE ..]

Runs each stage's jitted step on random images and labels of the recipe's shapes, so that no data is read. With
`--config.teachers.random=True` it needs no weights either. FLOPs are those of the matrix products and convolutions of
one step over all devices, teachers and recomputation (`model.remat`) included; MFU is their share of the devices'
bfloat16 peak, where that is known.
"""

import json
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np

from sak_jax import cli, methods, paths, recipe, tasks
from sak_jax.engine import flops
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.engine.stage import Stage


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line a stage."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed (default %(default)s)")
    parser.add_argument("--output", metavar="FILE.json", help="where to write the figures")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    options, config = parser.parse_recipe(argv)
    if options.steps < 1:
        parser.error(f"--steps={options.steps} must be 1 or more")
    output = paths.check_output(options.output, force=options.force) if options.output else None
    recipe.check(config, jax.device_count())
    stages = methods.get(config.method).stages(config)
    figures = {stage.name: measure(config, stage, options.steps) for stage in stages}
    device = jax.devices()[0]
    print(f"{jax.device_count()} x {device.device_kind}, jax {jax.__version__}, batch {config.batch_size}")
    for name, row in figures.items():
        print(name + ": " + ", ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if output:
        paths.write_text(output, json.dumps(figures, indent=2) + "\n")


def measure(config, stage: Stage, steps: int) -> dict[str, float]:
    """A stage's figures on random data, over so many steps."""
    plan = states.plan(stage, meshes.make_mesh(config.mesh.data, config.mesh.fsdp))
    committee = stage.frozen and stage.frozen.load(states.places(plan.frozen))
    state = states.fresh(plan, config.seed)
    batch = meshes.put_batch(random_batch(config, stage), plan.mesh)
    step = plan.jitted()
    work = plan.flops()  # XLA's own count takes a loop for one round.
    started = time.perf_counter()
    compiled = step.lower(state, committee, batch).compile()
    compile_seconds = time.perf_counter() - started
    for _ in range(2):
        state, _ = compiled(state, committee, batch)
    jax.block_until_ready(state)
    started = time.perf_counter()
    for _ in range(steps):
        state, _ = compiled(state, committee, batch)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - started) / steps
    memory = compiled.memory_analysis()
    program = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    figures = {
        "compile_seconds": compile_seconds,
        "step_milliseconds": 1e3 * seconds,
        "images_per_second": config.batch_size / seconds,
        "gigaflops": work / 1e9,
        "program_gigabytes": program / 2**30,
    }
    peak = flops.PEAKS.get(jax.devices()[0].device_kind)
    if peak:
        figures["mfu"] = work / (seconds * jax.device_count() * peak)
    statistics = jax.devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        figures["peak_gigabytes"] = statistics["peak_bytes_in_use"] / 2**30
    return figures


def random_batch(config, stage: Stage) -> dict[str, np.ndarray]:
    """Images and labels of the stage's shapes."""
    rng, size = np.random.default_rng(0), tuple(config.image_size)
    rows = config.batch_size // jax.process_count()
    batch = {"image": rng.standard_normal((rows, *size, 3), np.float32)}
    for task in tasks.select(recipe.ordered(config.tasks)):
        if task.name in stage.inputs:
            labels = [tasks.kind_of(task).random_label(task, size, rng) for _ in range(rows)]
            batch[task.name] = np.stack(labels)
    return batch


if __name__ == "__main__":
    sys.exit(main())
