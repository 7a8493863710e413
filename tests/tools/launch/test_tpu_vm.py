import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import tpu_vm

TRAIN = ["--", "--config=configs/imagenet.py", "--workdir=gs://bucket/runs/imagenet"]
BASE = ["sak", "--zone=us-west4-a"]

# A cloud in a folder: `state` is that of the slice, of which each creation takes the next of `script`; a machine is a
# folder in which commands run. A slice that is taken away is unreachable.
GCLOUD = """
import json, os, pathlib, shutil, subprocess, sys
cloud = pathlib.Path(os.environ["CLOUD"])
calls, state, machine = cloud / "calls", cloud / "state", cloud / "machine"
words = sys.argv[1:]
with open(calls, "a") as file:
    file.write(json.dumps(words) + "\\n")
noun, verb = words[2:4]
flags = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
if verb == "describe":
    if not state.exists():
        sys.exit("ERROR: (gcloud) NOT_FOUND: Resource 'x' was not found")
    print(state.read_text())
elif verb == "create":
    script = cloud / "script"
    now, _, rest = script.read_text().partition(" ")
    script.write_text(rest)
    shutil.rmtree(machine, ignore_errors=True)
    (machine / ".local/bin").mkdir(parents=True)
    shutil.copy(cloud / "uv", machine / ".local/bin/uv")
    state.write_text(now)
elif verb == "delete":
    state.unlink()
elif verb == "scp":
    shutil.copy(words[4], machine)
elif verb == "ssh":
    if state.read_text() not in ("READY", "ACTIVE"):
        sys.exit(255)
    os.environ["HOME"] = str(machine)
    sys.exit(subprocess.run(["bash", "-c", flags["command"]], cwd=machine).returncode)
"""

UV = """#!/bin/sh
[ "$1" = venv ] || exit 0
mkdir -p venv/bin && cp "$CLOUD/python" venv/bin/python
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """Puts a gcloud of its own into PATH; the function sets what training does and what the slices turn out to be."""
    folder = tmp_path / "cloud"
    (folder / "bin").mkdir(parents=True)
    (folder / "gcloud.py").write_text(GCLOUD)
    programs = {"bin/gcloud": f'#!/bin/sh\nexec {sys.executable} {folder}/gcloud.py "$@"\n', "uv": UV}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("CLOUD", str(folder))
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(tpu_vm, "POLL", 0.01)

    def arrange(training, script="READY READY READY"):
        (folder / "python").write_text(f'#!/bin/sh\necho "$(basename $PWD) $@"\n{training}\n')
        (folder / "python").chmod(0o755)
        (folder / "script").write_text(script)
        return folder

    return arrange


def calls(folder):
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def verbs(folder):
    return [call[3] for call in calls(folder)]


def test_a_slice_is_made_and_trained_on_until_the_end(cloud, capfd):
    folder = cloud("sleep 3; echo trained")
    assert tpu_vm.main(["train", *BASE, "--topology=v5e:4x4", "--project=p", *TRAIN]) == 0
    output = capfd.readouterr().out
    assert "trained" in output
    assert f"sak_jax -m sak_jax.main {' '.join(TRAIN[1:])}" in output  # In the folder of the code.
    assert (folder / "machine" / "sak_jax" / "configs" / "imagenet.py").is_file()
    assert verbs(folder) == ["describe", "create", "describe", "scp", "ssh", "ssh", "ssh", "ssh"]
    create = calls(folder)[1]
    assert create[:5] == ["compute", "tpus", "tpu-vm", "create", "sak"]
    assert create[5:] == [
        "--version=v2-alpha-tpuv5-lite", "--accelerator-type=v5litepod-16", "--zone=us-west4-a", "--project=p"
    ]  # fmt: skip


def test_training_that_fails_is_not_repeated(cloud, capfd):
    folder = cloud("echo 'error: config has no key'; exit 2")
    assert tpu_vm.main(["train", *BASE, "--topology=v5e:4x4", *TRAIN]) == 1
    output, errors = capfd.readouterr()
    assert "error: config has no key" in output and "training ended with status 2" in errors
    assert verbs(folder).count("create") == 1


def test_a_preempted_slice_is_made_again(cloud, capfd):
    # The first training takes the machine away; the second, on a new one, ends well.
    training = "[ -e $CLOUD/again ] && exit 0\ntouch $CLOUD/again\nprintf SUSPENDED > $CLOUD/state\nkill -9 $PPID"
    folder = cloud(training, "ACTIVE ACTIVE")
    argv = ["train", *BASE, "--topology=v6e:2x4", "--queued", "--spot", "--service_account=a@b", *TRAIN]
    assert tpu_vm.main(argv) == 0
    assert "the slice is gone; it is made again" in capfd.readouterr().out
    made = [call for call in calls(folder) if call[3] == "create"]
    assert len(made) == 2 and made[0] == made[1]
    assert made[0][2:5] == ["queued-resources", "create", "sak"]
    assert set(made[0][5:]) == {
        "--accelerator-type=v6e-8", "--spot", "--service-account=a@b", "--runtime-version=v2-alpha-tpuv6e",
        "--node-id=sak", "--zone=us-west4-a",
    }  # fmt: skip
    (deleted,) = [call for call in calls(folder) if call[3] == "delete"]
    assert deleted[2:] == ["queued-resources", "delete", "sak", "--force", "--quiet", "--zone=us-west4-a"]


def test_a_slice_whose_training_saved_before_it_was_taken_is_made_again(cloud, capfd, monkeypatch):
    monkeypatch.setattr(tpu_vm, "NOTICE", 30)
    taken = "(sleep 2; printf PREEMPTED > $CLOUD/state) > /dev/null 2>&1 &"
    folder = cloud(f"[ -e $CLOUD/again ] && exit 0\ntouch $CLOUD/again\n{taken}\nexit 1", "READY READY")
    assert tpu_vm.main(["train", *BASE, "--topology=v5e:4x4", "--spot", *TRAIN]) == 0
    assert "the slice is gone; it is made again" in capfd.readouterr().out
    assert verbs(folder).count("create") == 2


def test_training_that_ends_on_a_slice_that_stays_is_told(cloud, capfd, monkeypatch):
    monkeypatch.setattr(tpu_vm, "NOTICE", 1)
    folder = cloud("exit 1")
    assert tpu_vm.main(["train", *BASE, "--topology=v5e:4x4", "--spot", *TRAIN]) == 1
    assert "training ended with status 1" in capfd.readouterr().err and verbs(folder).count("create") == 1


def test_a_slice_that_does_not_come_is_told(cloud, capfd):
    cloud("", "FAILED")
    assert tpu_vm.main(["create", *BASE, "--topology=v6e:2x4", "--queued"]) == 1
    assert "sak is FAILED" in capfd.readouterr().err


def test_what_runs_is_left_running_and_stopped_when_asked(cloud, capfd):
    folder = cloud("trap 'echo saved; exit 1' TERM\nfor i in $(seq 200); do sleep 0.1; done")
    assert tpu_vm.main(["create", *BASE, "--topology=v5e:2x2"]) == 0
    assert tpu_vm.main(["start", *BASE, *TRAIN]) == 0
    first = (folder / "machine" / "train.pid").read_text()
    assert tpu_vm.main(["start", *BASE, *TRAIN]) == 0
    assert (folder / "machine" / "train.pid").read_text() == first
    assert tpu_vm.main(["stop", *BASE]) == 0
    assert tpu_vm.main(["watch", *BASE]) == 1
    output, errors = capfd.readouterr()
    assert output.count("saved") == 1 and "training ended with status 1" in errors
    assert tpu_vm.main(["delete", *BASE]) == 0
    assert tpu_vm.main(["watch", *BASE]) == 1
    assert "the slice is gone" in capfd.readouterr().err


def test_watching_what_was_never_started(cloud, capfd):
    cloud("")
    assert tpu_vm.main(["create", *BASE, "--topology=v5e:2x2"]) == 0
    assert tpu_vm.main(["watch", *BASE]) == 1
    assert "no training was started on sak" in capfd.readouterr().err


def test_a_dry_run_runs_nothing(cloud, capfd):
    folder = cloud("")
    for action in tpu_vm.ACTIONS:
        assert tpu_vm.main([action, *BASE, "--topology=v5e:4x4", "--dry_run", *TRAIN]) == 0
    assert not (folder / "calls").exists()
    assert "gcloud compute tpus tpu-vm create sak" in capfd.readouterr().out


@pytest.mark.parametrize(
    "argv, message",
    [
        (["train", *BASE, *TRAIN], "--topology is missing"),
        (["train", *BASE, "--topology=v5e:4x4"], "the training command is missing"),
        (["start", *BASE, "--", "--config=c", "--workdir=/disk"], "it is to begin with gs://"),
        (["train", "Sak", "--zone=z", "--topology=v5e:4x4", *TRAIN], "the name 'Sak' must be"),
        (["launch", *BASE], "invalid choice: 'launch'"),
    ],
)
def test_mistakes_are_named(capsys, argv, message):
    assert tpu_vm.main(argv) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="needs the Google Cloud SDK")
def test_gcloud_has_every_command_and_flag(capsys, tmp_path):
    everything = [
        "--topology=v5e:4x4",
        "--spot",
        "--project=p",
        "--network=n",
        "--subnetwork=s",
        "--service_account=a@b",
    ]
    for queued in ([], ["--queued"]):
        for action in tpu_vm.ACTIONS:
            assert tpu_vm.main([action, *BASE, *everything, *queued, "--dry_run", *TRAIN]) == 0
    used: dict[tuple, set] = {}
    for words in map(shlex.split, capsys.readouterr().out.splitlines()):
        if words[0] == "gcloud":
            flags = {word.partition("=")[0] for word in words if word.startswith("--")}
            used.setdefault(tuple(words[1:5]), set()).update(flags)
    assert len(used) == 8
    environment = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    for command, flags in used.items():
        shown = subprocess.run(["gcloud", *command, "--help"], capture_output=True, text=True, env=environment).stdout
        known = set(re.findall(r"--[a-z][-a-z]*", re.sub(r"\x1b\[[0-9;]*m", "", shown)))
        assert flags <= known, (command, flags - known)
