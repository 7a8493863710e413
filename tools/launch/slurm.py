"""Train on a Slurm cluster: writes a batch script and submits it.

python tools/launch/slurm.py --nodes=4 --gpus_per_node=8 --time=24:00:00 [--partition=P] [--account=A] [--dry_run] \
    -- --config=configs/imagenet.py --workdir=/shared/runs/imagenet --config.data.root=/shared/imagenet

What follows `--` is the training command of `sak_jax.main`. Submit it from a folder that all nodes see, with the Python
that has sak_jax active, or say how with `--setup="module load ..; source .venv/bin/activate"`. There is one process a
GPU (one a node with --gpus_per_node=0). Two minutes before the time limit, and at preemption, Slurm sends SIGTERM: the
run saves and stops. `--runs=4` queues the command four times, one after another: each goes on where the last one
stopped, and a finished run only evaluates. --dry_run prints the script.
"""

import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import training

from sak_jax import cli


def script(options, command: Sequence[str]) -> str:
    """The batch script of a training command."""
    tasks = max(1, options.gpus_per_node)
    directives = {
        "job-name": options.name,
        "nodes": options.nodes,
        "ntasks-per-node": tasks,
        "gpus-per-node": options.gpus_per_node or None,
        "cpus-per-task": options.cpus_per_task,
        "mem": options.mem,
        "time": options.time,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "array": f"1-{options.runs}%1" if options.runs > 1 else None,
        "output": f"{options.name}-%j.log",
        "open-mode": "append",
        "signal": f"TERM@{options.grace}",
    }
    lines = ["#!/bin/bash", *(f"#SBATCH --{name}={value}" for name, value in directives.items() if value is not None)]
    # To all but the last: Slurm would otherwise leave the others running. CPUs: srun does not take over the batch's.
    cpus = [f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else []
    lines += ["#SBATCH --requeue", "", "set -eo pipefail", *filter(None, [options.setup])]
    lines += [f"exec srun --kill-on-bad-exit=1 {' '.join([*cpus, shlex.join(command)])}", ""]
    return "\n".join(lines)


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    own, flags = training.split(argv)
    parser = cli.Parser(__doc__)
    parser.add_argument("--name", default="sak-jax", help="of the job")
    parser.add_argument("--nodes", type=cli.count, default=1)
    parser.add_argument("--gpus_per_node", type=cli.natural, default=8, help="0 trains on CPUs")
    parser.add_argument("--cpus_per_task", type=cli.count, help="processors of each process; it decodes images on them")
    parser.add_argument("--mem", help="memory of a node, e.g. 200G")
    parser.add_argument("--time", required=True, help="limit of a run, [DAYS-]HH:MM:SS")
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--qos")
    parser.add_argument("--constraint")
    parser.add_argument("--setup", help="shell commands before training")
    parser.add_argument("--grace", type=cli.count, default=120, help="seconds before the limit at which the run saves")
    parser.add_argument("--runs", type=cli.count, default=1, help="how often the command is queued, one after another")
    parser.add_argument("--test_only", action="store_true", help="have Slurm check the script, and submit nothing")
    parser.add_argument("--dry_run", action="store_true", help="print the script")
    options = parser.parse_args(own)
    training.check_name(options.name)
    training.check(flags, ("/", "gs://"))
    text = script(options, [*training.MODULE, *flags])
    if options.dry_run:
        print(text, end="")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.sh"
        path.write_text(text)
        test = ["--test-only"] if options.test_only else []
        training.Programs(False).run("sbatch", *test, str(path))


if __name__ == "__main__":
    sys.exit(main())
