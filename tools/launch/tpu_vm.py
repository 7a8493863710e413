"""Train on a Cloud TPU slice: its virtual machines are created, trained on, watched and deleted with gcloud.

python tools/launch/tpu_vm.py train NAME --zone=ZONE --topology=v5e:4x4 [--queued] [--spot] [--dry_run] \
    -- --config=configs/imagenet.py --workdir=gs://BUCKET/runs/imagenet --config.data.root=gs://BUCKET/imagenet

  create   the slice; with --queued by a queued resource, which waits until there is one
  start    copies the committed code to all its machines, installs it, and starts training in the background
  watch    shows the log until training ends
  train    all three; a slice that is preempted is created again, and training goes on from its last checkpoint
  stop     has training save and stop
  delete   the slice (and its queued resource): it costs money until then

Every action can be repeated: `train` takes a slice or a training that is there as it is. What follows `--` is the
training command of `sak_jax.main`; `train` and `start` need it. --dry_run prints the commands. Several machines at once
need `ssh-add ~/.ssh/google_compute_engine` first.
"""

import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import slices
import training

from sak_jax import cli
from sak_jax.errors import EndedEarly, UserError

ROOT = str(Path(__file__).parents[2])
ACTIONS = ("create", "start", "watch", "train", "stop", "delete")
PASSING = ("SUSPENDING", "STOPPING", "DELETING")
GONE = ("NOT_FOUND", "PREEMPTED", "TERMINATED", "STOPPED", "FAILED", "SUSPENDED", *PASSING)
"""States of a slice or a queued resource that it does not come back from."""
RUNNING = "kill -0 $(cat train.pid) 2> /dev/null"
INSTALL = (
    f"{RUNNING} && exit; set -e; mkdir -p sak_jax; tar -xzf sak_jax.tar.gz -C sak_jax; "
    "[ -x .local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh; "
    "[ -d venv ] || .local/bin/uv venv -q --python 3.12 venv; "
    ".local/bin/uv pip install -q --python venv/bin/python './sak_jax[tpu,gcs]'"
)
STATUS = f"{RUNNING} && echo running || {{ sleep 1; cat train.status 2> /dev/null || echo none; }}"
STOPPED = "1"
"""The status of training that was asked to stop, and saved."""
POLL = 30
"""Seconds between questions about the state."""
NOTICE = 120
"""Seconds after which a spot slice that was told that it will be taken away is gone."""


class Tpu:
    """A slice by its name; each method is one or a few gcloud commands."""

    def __init__(self, options, programs: training.Programs):
        self._options = options
        self._programs = programs
        place = [f"--zone={options.zone}"] + ([f"--project={options.project}"] if options.project else [])
        self._vm = lambda verb, *rest: ("gcloud", "compute", "tpus", "tpu-vm", verb, *rest, *place)
        self._queue = lambda verb, *rest: ("gcloud", "compute", "tpus", "queued-resources", verb, *rest, *place)

    def state(self) -> str:
        """That of the queued resource, or of the slice; READY when it can be used, NOT_FOUND if there is none.

        Raises:
          EndedEarly: gcloud cannot tell.
        """
        name = self._options.name
        if self._options.queued:
            command = self._queue("describe", name, "--format=value(state.state)")
        else:
            command = self._vm("describe", name, "--format=value(state)")
        if self._programs.dry_run:
            self._programs.run(*command)
            return "NOT_FOUND"
        status, output, errors = self._programs.ask(*command)
        if status:
            if "NOT_FOUND" in errors:
                return "NOT_FOUND"
            raise EndedEarly(f"gcloud cannot tell the state of {name}: {errors}")
        return "READY" if output == "ACTIVE" else output

    def create(self) -> None:
        """Creates the slice if it is not there, and waits until it is ready."""
        options = self._options
        while (state := self.state()) in PASSING:
            time.sleep(POLL)
        if state != "NOT_FOUND" and state in GONE:
            self.delete()
            state = "NOT_FOUND"
        if state == "NOT_FOUND":
            piece = slices.parse(options.topology)
            runtime = options.runtime or piece.runtime_version
            flags = [f"--accelerator-type={piece.accelerator_type}"]
            flags += ["--spot"] if options.spot else []
            for name in ("network", "subnetwork"):
                flags += [f"--{name}={getattr(options, name)}"] if getattr(options, name) else []
            flags += [f"--service-account={options.service_account}"] if options.service_account else []
            if options.queued:
                flags += [f"--runtime-version={runtime}", f"--node-id={options.name}"]
                self._programs.run(*self._queue("create", options.name, *flags))
            else:
                self._programs.run(*self._vm("create", options.name, f"--version={runtime}", *flags))
        while not self._programs.dry_run and (state := self.state()) != "READY":
            if state in GONE:
                raise EndedEarly(f"{options.name} is {state}: gcloud's own message above, or describe, says why")
            print(f"{options.name} is {state}", flush=True)
            time.sleep(POLL)

    def start(self, command: Sequence[str]) -> None:
        """Copies the code, installs it, and starts the command on all machines unless it is running."""
        with tempfile.TemporaryDirectory() as folder:
            archive = f"{folder}/sak_jax.tar.gz"
            self._programs.run("git", "-C", ROOT, "archive", "--format=tar.gz", f"--output={archive}", "HEAD")
            self._programs.run(*self._vm("scp", archive, f"{self._options.name}:", "--worker=all"))
        self._ssh(INSTALL)
        train = f"cd sak_jax; {shlex.join(['../venv/bin/python', *command[1:]])} & echo $! > ../train.pid"
        train = shlex.quote(f"{train}; wait $!; echo $? > ../train.status")
        background = f"setsid nohup bash -c {train} > train.log 2>&1 < /dev/null & sleep 2"
        self._ssh(f"{RUNNING} || {{ rm -f train.pid train.status; {background}; }}")

    def watch(self) -> int | None:
        """Shows the log until training ends; its exit status, or None if the slice is gone."""
        lines = "+1"
        while True:
            follow = f"tail -n {lines} --follow=name --pid=$(cat train.pid) train.log"
            self._ssh(follow, worker="0", check=False)
            if self._programs.dry_run:
                return 0
            unreachable, status, _ = self._programs.ask(*self._remote(STATUS, "0"))
            if not unreachable and status.isdecimal():
                return None if status == STOPPED and self.taken_away() else int(status)
            if not unreachable and status == "none":
                raise EndedEarly(f"no training was started on {self._options.name}, or its machine was restarted")
            if self.state() in GONE:
                return None
            lines = "20"  # The connection was lost: some lines come twice rather than not at all.
            time.sleep(POLL)

    def taken_away(self) -> bool:
        """Whether the slice goes soon after training has stopped: it was told so, and saved in time."""
        until = time.monotonic() + NOTICE if self._options.spot else 0.0
        while (gone := self.state() in GONE) is False and time.monotonic() < until:
            time.sleep(POLL)
        return gone

    def stop(self) -> None:
        """Asks training to save and stop, on all machines."""
        self._ssh("kill -TERM $(cat train.pid)")

    def delete(self) -> None:
        """Deletes the slice, and its queued resource."""
        if self._options.queued:
            self._programs.run(*self._queue("delete", self._options.name, "--force", "--quiet"))
        else:
            self._programs.run(*self._vm("delete", self._options.name, "--quiet"))

    def _remote(self, command: str, worker: str) -> tuple[str, ...]:
        return self._vm("ssh", self._options.name, f"--worker={worker}", f"--command={command}")

    def _ssh(self, command: str, worker: str = "all", check: bool = True) -> None:
        self._programs.run(*self._remote(command, worker), check=check)


def train(tpu: Tpu, command: Sequence[str], restarts: int) -> None:
    """Creates, starts and watches, again after each preemption. Raises EndedEarly if training fails."""
    for _ in range(restarts + 1):
        tpu.create()
        tpu.start(command)
        status = tpu.watch()
        if status == 0:
            return
        if status is not None:
            raise EndedEarly(f"training ended with status {status}; the log above says why")
        print("the slice is gone; it is made again", flush=True)
    raise EndedEarly(f"the slice was taken away {restarts + 1} times; the same command goes on")


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    own, flags = training.split(argv)
    parser = cli.Parser(__doc__)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("name", metavar="NAME", help="of the slice")
    parser.add_argument("--zone", required=True, help="one that has this TPU, e.g. us-west4-a")
    parser.add_argument("--topology", help="GENERATION:CHIPS, as tools/plan.py takes it, e.g. v5e:4x4; to create")
    parser.add_argument("--queued", action="store_true", help="ask for the slice by a queued resource")
    parser.add_argument("--spot", action="store_true", help="cheaper, and may be taken away")
    parser.add_argument("--restarts", type=cli.natural, default=100, help="how often `train` brings back a slice")
    parser.add_argument("--project", help="default: gcloud's")
    parser.add_argument("--runtime", help="TPU software version (default: the one for JAX on this TPU)")
    parser.add_argument("--network")
    parser.add_argument("--subnetwork")
    parser.add_argument("--service_account", help="e-mail of the account that may read and write the bucket")
    parser.add_argument("--dry_run", action="store_true", help="print the commands")
    options = parser.parse_args(own)
    training.check_name(options.name)
    if options.action in ("create", "train"):
        if not options.topology:
            parser.error(f"--topology is missing: {options.action} needs it, e.g. --topology=v5e:4x4")
        slices.parse(options.topology)
    if options.action in ("start", "train"):
        training.check(flags, ("gs://",))
    programs = training.Programs(options.dry_run)
    if options.action in ("start", "train"):
        unknown, changed, _ = programs.ask("git", "-C", ROOT, "status", "--porcelain")
        if unknown:
            raise UserError(f"{ROOT} is not a clone of the repository: its committed code is what is copied")
        if changed:
            print(f"{ROOT} has changes that are not committed: they are not copied", file=sys.stderr)
    tpu = Tpu(options, programs)
    command = [*training.MODULE, *flags]
    if options.action == "train":
        train(tpu, command, options.restarts)
    elif options.action == "start":
        tpu.start(command)
    elif options.action == "watch":
        if (status := tpu.watch()) != 0:
            raise EndedEarly("the slice is gone" if status is None else f"training ended with status {status}")
    else:
        getattr(tpu, options.action)()


if __name__ == "__main__":
    sys.exit(main())
