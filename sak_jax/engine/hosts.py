"""The processes of a run: finding and joining each other, and agreeing on what happened to any of them."""

import dataclasses
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from sak_jax.errors import EndedEarly, UserError

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

GIVEN = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Variables that say all there is to know of a run's processes; the launchers set them."""

PATIENCE = "SAK_JAX_PATIENCE"
"""Variable with the seconds that processes wait for each other at the start.

By default 60, and 300 where JAX finds the others by itself: the hosts of a TPU slice do not start at one time.
"""

_several = False
"""Whether this process has joined others."""

_PARTING = 10.0
"""Seconds that a process which has failed waits for the others at its end."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """How a process is to join the others.

    Attributes:
      address: host and port of the first process; None where JAX finds out by itself.
      count, index: processes, and which this one is; None where JAX finds out.
      method: JAX's name of the way to find out what is not said here; `deactivate` is none.
      alone: what says that the others are none, for the message.
    """

    address: str | None = None
    count: int | None = None
    index: int | None = None
    method: str | None = None
    alone: str = ""


def found(environment: Mapping[str, str]) -> Processes | None:
    """What the environment says of the other processes; None where this one is alone.

    The variables of `GIVEN` come first, then Slurm's. In a Kubernetes pod JAX would ask the cluster, for which pods
    seldom have the right: there the variables must say it, but on TPUs, whose own say it.

    Raises:
      UserError: some of the variables are missing, or are no numbers.
    """
    given = {name: environment[name] for name in GIVEN if environment.get(name)}
    in_pod = "KUBERNETES_SERVICE_HOST" in environment
    if given:
        missing = [name for name in GIVEN if name not in given]
        if missing:
            raise UserError(
                f"{' and '.join(given)} is set and {missing[0]} is not: set all of {', '.join(GIVEN)}, or none"
            )
        count, index = (_number(environment, name) for name in GIVEN[1:])
        if not 0 <= index < count:
            raise UserError(f"JAX_PROCESS_ID={index} must be at least 0 and less than JAX_NUM_PROCESSES={count}")
        if count == 1:
            return None
        host, _, port = given[GIVEN[0]].rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"JAX_COORDINATOR_ADDRESS={given[GIVEN[0]]} must be HOST:PORT")
        return Processes(given[GIVEN[0]], count, index, "deactivate" if in_pod else None, f"unset {', '.join(GIVEN)}")
    if "SLURM_NTASKS" in environment:
        step = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
        if environment["SLURM_NTASKS"] == "1" or any(name not in environment for name in step):
            return None  # A single task, which is to have all GPUs, or the shell of an allocation.
        count, index = (_number(environment, name) for name in ("SLURM_NTASKS", "SLURM_PROCID"))
        return Processes(None, count, index, "slurm", "set SLURM_NTASKS=1")
    if in_pod:
        hosts = environment.get("TPU_WORKER_HOSTNAMES", "")
        return Processes(None, None, None, "gketpu") if "," in hosts else None
    return Processes()


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of this run, if there are any.

    Raises:
      UserError: they cannot be found, or do not come in time.
    """
    processes = found(environment)
    if processes is None:
        return
    seconds = 60.0 if processes.count else 300.0
    if PATIENCE in environment:
        seconds = float(_number(environment, PATIENCE))
    began = time.monotonic()
    if processes.count and not processes.index:
        logger.info("waiting for %d processes; to run this one alone, %s", processes.count, processes.alone)
    if processes.address and processes.index:
        _reach(processes.address, seconds)
    # JAX's own limit comes later: it would end the process with a trace.
    late = threading.Timer(max(1.0, began + seconds - time.monotonic()), _give_up, (processes, seconds))
    late.daemon = True
    late.start()
    jax.config.update("jax_enable_preemption_service", False)  # It would take SIGTERM away from `stop.Stop`.
    try:
        jax.distributed.initialize(
            coordinator_address=processes.address,
            num_processes=processes.count,
            process_id=processes.index,
            cluster_detection_method=processes.method,
            initialization_timeout=int(seconds) + 60,
        )
    except ValueError as error:
        if "coordinator_address" not in str(error):
            raise
        return  # Nothing says that there are others.
    except RuntimeError as error:
        if processes.count is None and "before any JAX" in str(error):
            return  # A notebook, say, in which JAX has computed already: this process is alone.
        raise UserError(f"{_absent(processes, seconds)} ({' '.join(str(error).split())[:200]})") from error
    finally:
        late.cancel()
    global _several
    _several = jax.process_count() > 1
    if jax.process_index():
        logging.getLogger("sak_jax").setLevel(logging.WARNING)  # One process tells what all do.


def _number(environment: Mapping[str, str], name: str) -> int:
    if not environment[name].isdigit():
        raise UserError(f"{name}={environment[name]} must be a whole number")
    return int(environment[name])


def _reach(address: str, seconds: float) -> None:
    """Waits until the first process answers, which JAX would do without saying so, and end without a word."""
    host, _, port = address.rpartition(":")
    deadline, reason = time.monotonic() + seconds, "no answer"
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=min(5.0, seconds)).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(0.5)
    raise UserError(
        f"the first process at JAX_COORDINATOR_ADDRESS={address} cannot be reached within {seconds:g} s ({reason}): "
        f"start it, correct the address, or set {PATIENCE} to more seconds"
    )


def _absent(processes: Processes, seconds: float) -> str:
    many = f"{processes.count} processes" if processes.count else "the other processes"
    return (
        f"waited {seconds:g} s for {many}, and not all came: start them all"
        f"{f', {processes.alone} to run this one alone' if processes.alone else ''}, or set {PATIENCE} to more seconds"
    )


def _give_up(processes: Processes, seconds: float) -> None:  # Where JAX itself does not come back.
    print(f"error: {_absent(processes, seconds)}", file=sys.stderr, flush=True)
    os._exit(2)


def leave(status: int) -> None:
    """Sees to it that a process that has failed, perhaps alone, ends in time: at its end JAX waits for the others."""
    if _several:  # To ask JAX would start its devices, which wait for others that may not be there.
        late = threading.Timer(_PARTING, os._exit, (status,))
        late.daemon = True
        late.start()


def gather_texts(text: str) -> list[str]:
    """Each process's text, in their order; all must call it."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([data.size], np.int32)).reshape(-1)
    padded = np.zeros(max(1, int(lengths.max())), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def together(function: Callable[[], Value]) -> Value:
    """Calls a function on every process; where it fails for one with a UserError or EndedEarly, it does for all.

    Raises:
      UserError, EndedEarly: of the first process for which it failed.
    """
    if jax.process_count() == 1:
        return function()
    value, problem = None, ""
    try:
        value = function()
    except (UserError, EndedEarly) as error:
        problem = f"{'U' if isinstance(error, UserError) else 'E'}{error}"
    problems = gather_texts(problem)
    failed = [index for index, text in enumerate(problems) if text]
    if failed:
        where = "" if len(failed) == len(problems) else f"process {failed[0]}: "
        kind, text = problems[failed[0]][0], problems[failed[0]][1:]
        raise (UserError if kind == "U" else EndedEarly)(f"{where}{text}")
    return value


def agree(facts: Mapping[str, object]) -> None:
    """Makes sure that all processes say the same.

    Args:
      facts: what must be the same, by a name for the message.

    Raises:
      UserError: names the first fact that differs, and who differs from the first process.
    """
    said = [json.loads(text) for text in gather_texts(json.dumps(facts, sort_keys=True, default=str))]
    for name in facts:
        differing = [index for index, theirs in enumerate(said) if theirs.get(name) != said[0].get(name)]
        if differing:
            first, other = said[0].get(name), said[differing[0]].get(name)
            more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
            raise UserError(
                f"{name} is {first!r} for process 0 and {other!r} for process {differing[0]}{more}: all processes of a "
                "run must have the same"
            )
