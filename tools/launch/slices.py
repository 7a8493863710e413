"""TPU slices, and what the engines call them, as cloud.google.com/tpu/docs and kubernetes-engine/docs say."""

import dataclasses
import math

from sak_jax.errors import UserError

# v5e and v6e count chips in the accelerator's name, v4 and v5p cores, of which a chip has two.
_GENERATIONS = {
    "v4": ("v4", 2, 3, "tpu-ubuntu2204-base", "tpu-v4-podslice"),
    "v5e": ("v5litepod", 1, 2, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": ("v5p", 2, 3, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": ("v6e", 1, 2, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
}
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice: `generation` such as "v5e" and `topology` such as "4x4", chips along each side."""

    generation: str
    topology: str

    @property
    def chips(self) -> int:
        """How many it has."""
        return math.prod(map(int, self.topology.split("x")))

    @property
    def accelerator_type(self) -> str:
        """Cloud TPU's name for it, "v5litepod-16"."""
        name, per_chip, *_ = _GENERATIONS[self.generation]
        return f"{name}-{self.chips * per_chip}"

    @property
    def runtime_version(self) -> str:
        """The software of its virtual machines that JAX is to run on."""
        return _GENERATIONS[self.generation][3]

    @property
    def gke_accelerator(self) -> str:
        """The value of the node label cloud.google.com/gke-tpu-accelerator."""
        return _GENERATIONS[self.generation][4]

    def hosts(self, chips_per_host: int) -> int:
        """Its virtual machines. Raises UserError if they cannot have that many chips."""
        most = 8 if _GENERATIONS[self.generation][2] == 2 and self.chips == 8 else 4  # Eight are one whole machine.
        if chips_per_host not in (1, 4, most) or self.chips % chips_per_host or (chips_per_host == 1 != self.chips):
            raise UserError(f"--chips_per_host={chips_per_host} does not fit {self.generation}:{self.topology}: take 4")
        return self.chips // chips_per_host


def parse(text: str) -> Slice:
    """A slice from `GENERATION:TOPOLOGY`, as tools/plan.py takes it: v5e:4x4, v5p:2x2x4.

    Raises:
      UserError: an unknown generation, a topology that it does not have.
    """
    generation, _, topology = text.partition(":")
    if generation not in _GENERATIONS:
        raise UserError(f"--topology={text}: write GENERATION:TOPOLOGY with one of {', '.join(_GENERATIONS)}: v5e:4x4")
    sides = topology.split("x")
    if _GENERATIONS[generation][2] == 2:
        if topology not in _FLAT:
            raise UserError(f"--topology={text}: {generation} has {', '.join(_FLAT)}")
    elif len(sides) != 3 or not all(side.isdecimal() and int(side) in (1, 2, 4, *range(8, 65, 4)) for side in sides):
        raise UserError(
            f"--topology={text}: {generation} has three sides, 2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4 and larger"
        )
    elif math.prod(map(int, sides)) % 4:
        raise UserError(f"--topology={text}: a machine of {generation} has 4 chips")
    return Slice(generation, topology)
