"""What is timed: a student's forward pass, inference, its training step alone, and the whole step of each stage."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sak_jax import methods, predict, recipe, tasks
from sak_jax.engine import flops
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.engine.stage import Frozen, Stage
from sak_jax.nn import placement

MODEL = {
    "forward": "all that the student gives, in evaluation mode",
    "inference": "predictions and routing alone, as `student.predict` computes them",
    "student": "the last stage's training step with the teachers' features given",
}
"""What can be timed of any recipe, besides the whole step of each of its stages by the stage's name."""


FEATURE = "feature"
"""What the names of features begin with in a batch that brings them."""


@dataclasses.dataclass(frozen=True)
class Work:
    """Something that is timed.

    Attributes:
      run: does it so many times, and waits.
      compile_seconds: what compiling it took.
      flops: operations that it cannot do without, over all devices: what is recomputed does not count.
      program_bytes: arguments, results and intermediates of the compiled program, on one device.
      devices: how many share the operations.
    """

    run: Callable[[int], None]
    compile_seconds: float
    flops: int
    program_bytes: int
    devices: int = 1

    def seconds(self, times: int) -> float:
        """Mean seconds of one of so many."""
        started = time.perf_counter()
        self.run(times)
        return (time.perf_counter() - started) / times


def names(config) -> tuple[str, ...]:
    """What can be timed of a recipe."""
    return (*MODEL, *(stage.name for stage in methods.get(config.method).stages(config)))


def prepare(config, name: str) -> Work:
    """Compiles one of `names` for random images and labels of the recipe's shapes; no data is read."""
    if name in ("forward", "inference"):
        return _of_student(config, name)
    stages = methods.get(config.method).stages(config)
    if name == "student":
        return _of_stage(config, _with_features_given(stages[-1]))
    return _of_stage(config, next(stage for stage in stages if stage.name == name))


def _of_student(config, name: str) -> Work:
    predictor = predict.Predictor(predict.build(config), config, "")
    forward = predictor.computes(aligned=name == "forward")
    images = jax.ShapeDtypeStruct((config.batch_size, *config.image_size, 3), jnp.float32)
    compiled, seconds = _compile(forward, predictor.student, images)
    # The plain form of attention, as nobody sees into a kernel; and not the jitted function, which would give the form
    # that it was traced with.
    with placement.compiling_for("any"):
        needed = flops.count(lambda student, images: forward.__wrapped__(student, images), predictor.student, images)
    images = jnp.asarray(np.random.default_rng(0).standard_normal(images.shape, np.float32))

    def run(times: int) -> None:
        for _ in range(times):
            outputs = compiled(predictor.student, images)
        jax.block_until_ready(outputs)

    return Work(run, seconds, needed, _bytes(compiled))


def _of_stage(config, stage: Stage) -> Work:
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp)
    plan = states.plan(stage, mesh, recipe.ordered(config.mesh.placement))
    frozen = stage.frozen and stage.frozen.load(states.places(plan.frozen))
    held = [states.fresh(plan, config.seed)]
    batch = meshes.put_batch(random_batch(config, stage), plan.mesh)
    compiled, seconds = _compile(plan.jitted(), held[0], frozen, batch)

    def run(times: int) -> None:
        for _ in range(times):
            held[0], _ = compiled(held[0], frozen, batch)
        jax.block_until_ready(held[0])

    return Work(run, seconds, needed(config, stage.name), _bytes(compiled), mesh.size)


def needed(config, name: str) -> int:
    """Operations that a step cannot do without: those of one that keeps all it computes."""
    stages = methods.get(config.method).stages(config)
    stage = next((stage for stage in stages if stage.name == name), None) or _with_features_given(stages[-1])
    return states.plan(stage, meshes.make_mesh(config.mesh.data, config.mesh.fsdp)).needed()


def _with_features_given(stage: Stage) -> Stage:
    """A stage whose teachers' features come with the batch."""
    if stage.frozen is None:
        return dataclasses.replace(stage, name="student")
    features = jax.eval_shape(stage.frozen.features, stage.frozen.abstract, dict(stage.inputs))
    given, tree = jax.tree.flatten(features)
    names = [f"{FEATURE}{index}" for index in range(len(given))]
    return dataclasses.replace(
        stage,
        name="student",
        inputs=dict(stage.inputs) | dict(zip(names, given, strict=True)),
        frozen=Frozen({}, lambda places: {}, lambda _, batch: tree.unflatten(batch[name] for name in names)),
    )


def _compile(function, *arguments):
    """The compiled function, and the seconds from its trace on."""
    started = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - started


def _bytes(compiled) -> int:
    memory = compiled.memory_analysis()
    sizes = memory.temp_size_in_bytes, memory.argument_size_in_bytes, memory.output_size_in_bytes
    return sum(sizes) - memory.alias_size_in_bytes


def random_batch(config, stage: Stage) -> dict[str, np.ndarray]:
    """Images and labels of the stage's shapes: this process's part."""
    rng, size = np.random.default_rng(0), tuple(config.image_size)
    rows = config.batch_size // jax.process_count()
    batch = {"size": np.tile(np.array(size, np.int32), (rows, 1))} if "size" in stage.inputs else {}
    for task in tasks.select(recipe.ordered(config.tasks)):
        if task.name in stage.inputs:
            batch[task.name] = np.stack([tasks.kind_of(task).random_label(task, size, rng) for _ in range(rows)])
    for name, given in stage.inputs.items():
        if name not in batch:
            shape = rows, *given.shape[1:]
            if given.dtype == np.uint8:
                batch[name] = rng.integers(0, 256, shape, np.uint8)
            elif np.issubdtype(given.dtype, np.integer):
                batch[name] = np.zeros(shape, given.dtype)
            else:
                batch[name] = rng.standard_normal(shape, np.float32).astype(given.dtype)
    return batch


def matrix_rate(dtype: str, size: int) -> float:
    """Operations a second of the product of two random square matrices, the best of three: what a device can do."""
    a, b = (jax.random.normal(jax.random.key(i), (size, size), jnp.dtype(dtype)) for i in range(2))
    times = max(16, int(4e10 // size**3))

    @jax.jit
    def products(a, b):
        return jax.lax.fori_loop(0, times, lambda _, x: (x @ b) * jnp.asarray(size**-0.5, x.dtype), a)

    jax.block_until_ready(products(a, b))
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        jax.block_until_ready(products(a, b))
        seconds.append(time.perf_counter() - started)
    return times * 2 * size**3 / min(seconds)
