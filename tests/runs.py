"""Running the command line in a process of its own, and reading what it left."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from sak_jax.engine import checkpoints, mesh

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "tests/recipes/tiny.py")
SMALLEST = str(ROOT / "tests/recipes/smallest.py")
QUICKLY_COMPILED = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}
"""Options of XLA with which small programs compile in half the time, where it has them; large ones run slowly then."""


def quickly_compiled(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a process that compiles by `QUICKLY_COMPILED`."""
    flags = [f"--{name}={str(value).lower()}" for name, value in QUICKLY_COMPILED.items()]
    return environment | {"XLA_FLAGS": " ".join([environment.get("XLA_FLAGS", ""), *flags]).strip()}


def start(*arguments, config=TINY, env=None, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "sak_jax.main", f"--config={config}", *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=quickly_compiled({**os.environ, **(env or {})}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def run(*arguments, config=TINY, env=None) -> subprocess.CompletedProcess:
    process = start(*arguments, config=config, env=env)
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def devices(count: int) -> dict[str, str]:
    """Variables of a script that is to have so many devices; `sak_jax.main` sees to the threads by itself."""
    variables = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}"}
    mesh.give_threads(variables)
    return quickly_compiled(variables)


def environments() -> list[dict[str, str]]:
    """Of each of two processes that are to find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    common = quickly_compiled(os.environ) | {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    return [common | {"JAX_PROCESS_ID": str(index)} for index in range(2)]


def ended(processes, status, seconds=600) -> list[tuple[str, str]]:
    """What processes printed that ended with this status."""
    outputs = [process.communicate(timeout=seconds) for process in processes]
    for process, (_, stderr) in zip(processes, outputs, strict=True):
        assert process.returncode == status, stderr
    return outputs


def finished(workdir, *arguments, config=TINY) -> Path:
    """The workdir of a run that ended well."""
    done = run(f"--workdir={workdir}", *arguments, config=config)
    assert done.returncode == 0, done.stderr
    return workdir


def lines(workdir, split=None) -> list[dict]:
    """The lines of metrics.jsonl, of one split if given."""
    entries = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [entry for entry in entries if split in (None, entry["split"])]


def parameters(workdir) -> dict[str, np.ndarray]:
    """The newest checkpoint's arrays by path."""

    def flatten(tree, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{key}/")
            else:
                yield prefix + key, np.asarray(value)

    return dict(flatten(checkpoints.load(workdir)[2]))
