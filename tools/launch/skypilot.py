"""Train on any cloud by SkyPilot: writes a task and launches it as a managed job, which survives preemption.

python tools/launch/skypilot.py NAME --topology=v6e:4x4 [--spot] [--infra=gcp/us-east5] [--dry_run] \
    -- --config=configs/imagenet.py --workdir=gs://BUCKET/runs/imagenet --config.data.root=gs://BUCKET/imagenet
python tools/launch/skypilot.py NAME --nodes=2 --accelerators=H100:8 [--spot] -- ..

Run it in a clone of the repository, whose files SkyPilot copies. A job that loses its machines is started on others,
and training goes on from its last checkpoint. What follows `--` is the training command of `sak_jax.main`. --dry_run
prints the task. Watch with `sky jobs logs -n NAME`, end with `sky jobs cancel -n NAME`.
"""

import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import slices
import training

from sak_jax import cli

COORDINATOR_PORT = 8476
# On GPUs SkyPilot numbers the nodes; on TPU slices JAX finds them by itself.
_JOIN = f"""\
export JAX_COORDINATOR_ADDRESS="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):{COORDINATOR_PORT}"
export JAX_NUM_PROCESSES="$SKYPILOT_NUM_NODES" JAX_PROCESS_ID="$SKYPILOT_NODE_RANK" SAK_JAX_PATIENCE=900
"""


def task(options, command: Sequence[str]) -> dict:
    """The task of a training command, as SkyPilot's YAML has it."""
    resources: dict[str, object] = {}
    if options.infra:
        resources["infra"] = options.infra
    if options.topology:
        piece = slices.parse(options.topology)
        resources["accelerators"] = f"tpu-{piece.accelerator_type}"
        resources["accelerator_args"] = {"runtime_version": piece.runtime_version}
        extra, join = "tpu", ""
    else:
        resources["accelerators"] = options.accelerators
        extra, join = "cuda", _JOIN if options.nodes > 1 else ""
    resources["use_spot"] = options.spot
    if options.disk_size:
        resources["disk_size"] = options.disk_size
    setup = (
        "command -v uv || curl -LsSf https://astral.sh/uv/install.sh | sh\n"
        'export PATH="$HOME/.local/bin:$PATH"\n'
        "[ -d ~/venv ] || uv venv --python 3.12 ~/venv\n"
        f"uv pip install --python ~/venv/bin/python '.[{extra},gcs]'\n"
    )
    run = f"{join}exec ~/venv/bin/{shlex.join(command)}\n"
    made = {"name": options.name, "workdir": ".", "resources": resources}
    if options.nodes > 1:
        made["num_nodes"] = options.nodes
    if options.env:
        made["envs"] = training.environment(options.env)
    return made | {"setup": setup, "run": run}


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    own, flags = training.split(argv)
    parser = cli.Parser(__doc__)
    parser.add_argument("name", metavar="NAME", help="of the job")
    parser.add_argument("--topology", help="a TPU slice, as tools/plan.py takes it, e.g. v6e:4x4")
    parser.add_argument("--accelerators", help="GPUs of a node, e.g. H100:8, instead of --topology")
    parser.add_argument("--nodes", type=cli.count, default=1, help="nodes with GPUs")
    parser.add_argument("--infra", help="where, e.g. gcp/us-east5 (default: the cheapest)")
    parser.add_argument("--spot", action="store_true", help="cheaper, and may be taken away")
    parser.add_argument("--disk_size", type=cli.count, help="GB of a node")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--dry_run", action="store_true", help="print the task")
    options = parser.parse_args(own)
    training.check_name(options.name)
    training.check(flags, ("gs://",))
    if bool(options.topology) == bool(options.accelerators):
        parser.error("give either --topology, for a TPU slice, or --accelerators, for GPUs")
    if options.topology and options.nodes > 1:
        parser.error("--nodes is for GPUs alone")
    text = training.to_yaml(task(options, [*training.MODULE, *flags]))
    if options.dry_run:
        print(text, end="")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.yaml"
        path.write_text(text)
        training.Programs(False).run("sky", "jobs", "launch", "--name", options.name, "--yes", str(path))


if __name__ == "__main__":
    sys.exit(main())
