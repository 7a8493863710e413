"""A training step compiled for devices that one does not have: what it needs of memory, arithmetic and links."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np

from sak_jax.engine import hlo
from sak_jax.engine import state as states
from sak_jax.engine.stage import Stage
from sak_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of accelerator, from its maker's data sheet.

    Attributes:
      flops: dense bfloat16 operations a second.
      memory: bytes that a program may use, as the compiler says; the data sheet's 16, 95 and 32 GB are a little more.
      bandwidth: bytes a second to and from that memory.
      links: bytes a second that it sends to its neighbours, over all links.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float


CHIPS = {
    "v5e": Chip(flops=197e12, memory=15.75 * GIB, bandwidth=819e9, links=1600e9 / 8),
    "v5p": Chip(flops=459e12, memory=95.74 * GIB, bandwidth=2765e9, links=4800e9 / 8),
    "v6e": Chip(flops=918e12, memory=31.25 * GIB, bandwidth=1640e9, links=3584e9 / 8),
}
"""TPUs by the name of their topologies; rates are those of https://cloud.google.com/tpu/docs/v5e, /v5p and /v6e."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """A stage's step on a mesh. Bytes are of one device, and seconds are the least that the stated rates allow.

    Attributes:
      devices, data, fsdp: the mesh.
      batch: images a step, over all devices.
      parameters, optimizer, teachers: bytes of the student's state and of the frozen arrays.
      temporaries: bytes of activations and other intermediates; None where the step does not fit.
      peak: bytes in all, where arrays never share; the compiler, which knows better, decides whether the step fits.
      memory: bytes there are; None on simulated devices.
      over: bytes that are lacking; 0 where it fits.
      flops: of a step over all devices, recomputation included.
      collectives: what a device exchanges in a step, by kind; None where the step does not fit, as the next five.
      exchanges: the same one by one, the largest first, with the operations that they serve.
      memory_traffic: bytes that a device reads and writes.
      seconds: least time of a step by `arithmetic`, `memory` and `interconnect`; None on simulated devices.
      hours, chip_hours: of all `steps`, at the slowest of the three.
      steps: of the stage.
      compile_seconds: on this machine.
    """

    devices: int
    data: int
    fsdp: int
    batch: int
    parameters: int
    optimizer: int
    teachers: int
    temporaries: int | None
    peak: float
    memory: float | None
    over: float
    flops: int
    collectives: Mapping[str, hlo.Traffic] | None
    exchanges: Sequence[hlo.Exchange] | None
    memory_traffic: float | None
    seconds: Mapping[str, float] | None
    hours: float | None
    chip_hours: float | None
    steps: int
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """Whether the step can be run."""
        return self.over == 0

    @property
    def step_seconds(self) -> float | None:
        """Least time of a step."""
        return max(self.seconds.values()) if self.seconds else None

    @property
    def images_per_second(self) -> float | None:
        """At that time, over all devices."""
        return self.batch / self.step_seconds if self.seconds else None

    def plain(self) -> dict:
        """All of it as JSON has it."""
        values = dataclasses.asdict(self)
        more = {"fits": self.fits, "step_seconds": self.step_seconds, "images_per_second": self.images_per_second}
        return values | more


def devices_of(topology: str) -> list[jax.Device]:
    """The devices of a TPU slice that need not exist, by libtpu's compiler.

    Args:
      topology: `v5e:4x4`, a kind of chip and how many there are along each axis.

    Raises:
      UserError: there is no such slice, or libtpu is not installed.
    """
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise UserError(f"--topology={topology}: it must be like v5e:4x4, with a chip of {', '.join(CHIPS)}")
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except (ImportError, FileNotFoundError, AttributeError, RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        if "INVALID_ARGUMENT" in reason:
            raise UserError(f"--topology={topology} is no slice there is: {reason}") from error
        raise UserError(
            f"--topology needs libtpu, a compiler that runs without a TPU: pip install 'jax[tpu]' ({reason})"
        ) from error


def measure(
    stage: Stage,
    mesh: jax.sharding.Mesh,
    table: Mapping[str, tuple] | None = None,
    chip: Chip | None = None,
    steps: int | None = None,
    plain: Stage | None = None,
) -> Figures:
    """Compiles a stage's step for a mesh, whose devices need not exist, and reads its figures; nothing is allocated.

    Args:
      stage: what is trained.
      mesh: the devices.
      table: where parameters lie, see `mesh.shardings`.
      chip: what they can do; None gives no times, and no limit to memory.
      steps: of the whole stage, where they are not `stage.steps`.
      plain: the same stage without kernels, whose arithmetic cannot be counted, where `stage` asks for one by name.

    Raises:
      UserError: the step cannot be placed so.
    """
    plan = states.plan(stage, mesh, table)
    step, work = plan.jitted(), (plain and states.plan(plain, mesh, table) or plan).flops()
    began = time.monotonic()
    parameters = sum(map(held, (plan.state.params, plan.state.frozen, plan.state.stats)))
    common = {
        "devices": mesh.size,
        "data": mesh.shape["data"],
        "fsdp": mesh.shape["fsdp"],
        "batch": plan.batch["image"].shape[0],
        "parameters": parameters,
        "optimizer": held(plan.state.opt_state),
        "teachers": held(plan.frozen),
        "memory": chip and chip.memory,
        "flops": work,
        "steps": steps or stage.steps,
    }
    try:
        compiled = step.lower(plan.state, plan.frozen, plan.batch).compile()
    except jax.errors.JaxRuntimeError as error:
        wanted, over = lacking(str(error))
        if wanted is None:
            raise
        unknown = dict.fromkeys(
            ("temporaries", "collectives", "exchanges", "memory_traffic", "seconds", "hours", "chip_hours"), None
        )
        return Figures(**common, **unknown, peak=wanted, over=over, compile_seconds=time.monotonic() - began)
    compile_seconds = time.monotonic() - began
    sizes = compiled.memory_analysis()
    peak = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    peak += sizes.temp_size_in_bytes
    program = hlo.Program(compiled.as_text())
    exchanges, traffic = program.exchanges(mesh.size), program.memory_traffic()
    collectives = hlo.by_kind(exchanges)
    seconds = chip and {
        "arithmetic": work / mesh.size / chip.flops,
        "memory": traffic / chip.bandwidth,
        "interconnect": sum(kind.sent for kind in collectives.values()) / chip.links,
    }
    hours = seconds and common["steps"] * max(seconds.values()) / 3600
    return Figures(
        **common,
        temporaries=sizes.temp_size_in_bytes,
        peak=peak,
        over=0.0,  # Else the compiler would have refused it.
        collectives=collectives,
        exchanges=sorted(exchanges, key=lambda each: -each.rounds * each.bytes),
        memory_traffic=traffic,
        seconds=seconds,
        hours=hours,
        chip_hours=hours and hours * mesh.size,
        compile_seconds=compile_seconds,
    )


def held(tree) -> int:
    """Bytes that one device holds of arrays, or of shapes that say where they lie."""
    shapes = [(leaf.sharding.shard_shape(leaf.shape), _itemsize(leaf.dtype)) for leaf in jax.tree.leaves(tree)]
    return sum(math.prod(shape) * size for shape, size in shapes)


def _itemsize(dtype) -> int:
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize


def lacking(message: str) -> tuple[float, float] | tuple[None, None]:
    """Bytes that a program wanted and bytes that it lacked, of the compiler's message; None if it says neither."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number = r"([\d.]+)([KMGT]?)B?"
    for pattern in (rf"Used {number} of {number} hbm", rf"\({number}\) exceeds available HBM \({number}\)"):
        if found := re.search(pattern, message):
            wanted, there = float(found[1]) * units[found[2]], float(found[3]) * units[found[4]]
            return wanted, wanted - there
    return None, None


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A way to run a stage that was tried.

    Attributes:
      per_device: images a device.
      fsdp: devices that share the parameters.
      remat: what is recomputed, as the recipe has it.
      figures: what came of it.
    """

    per_device: int
    fsdp: int
    remat: object
    figures: Figures


def recommend(
    measure: Callable[[int, int, object], Figures],
    fsdp: Iterable[int],
    remat: Sequence[object],
    largest: int,
    tell: Callable[[Attempt], None] = lambda attempt: None,
) -> tuple[Attempt | None, list[Attempt]]:
    """The fastest way to run a stage that fits, by its least time an image, and all that were tried.

    Images a device are halved from the largest number until they fit: a compiler soon refuses what does not. More is
    recomputed only where more images fit by it.

    Args:
      measure: (images a device, fsdp, remat) -> figures.
      fsdp, remat: what to try; of the latter first what recomputes least.
      largest: images a device at most.
      tell: called after each attempt.
    """
    tried = []
    for shared in fsdp:
        fitting = 0
        for recomputed in remat:
            per_device = largest
            while per_device > fitting:
                tried.append(Attempt(per_device, shared, recomputed, measure(per_device, shared, recomputed)))
                tell(tried[-1])
                if tried[-1].figures.fits:
                    fitting = per_device
                per_device //= 2
    fitting = [attempt for attempt in tried if attempt.figures.fits]
    speed = lambda attempt: (attempt.figures.images_per_second or attempt.per_device, -attempt.figures.peak)  # noqa: E731
    return max(fitting, key=speed, default=None), tried
