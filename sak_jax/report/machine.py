"""What a run was computed on, in words."""

import platform
from collections.abc import Mapping

from sak_jax.processes import cpus


def processor() -> str:
    """The processor's name, as Linux knows it, and how many this process may use: `AMD EPYC, 2 processors`."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else platform.machine()}, {cpus()} processor{'s' * (cpus() > 1)}"


def hardware(versions: Mapping[str, str]) -> str:
    """The device of a run's `versions`, and of a CPU which one, where that was recorded; "" if nothing was."""
    device, name = versions.get("device", ""), versions.get("processor", "")
    return f"{device} ({name})" if name and device.endswith("cpu") else device
