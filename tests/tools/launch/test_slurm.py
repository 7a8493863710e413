import os
import shutil
import signal
import socket
import subprocess
import time

import pytest
import slurm

TRAIN = ["--", "--config=configs/imagenet.py:stem=base,teachers=large", "--workdir=/shared/runs/imagenet"]


def script(capsys, *flags, train=TRAIN):
    assert slurm.main([*flags, "--dry_run", *train]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_script_has_a_process_a_gpu_and_saves_before_the_limit(capsys):
    lines = script(capsys, "--nodes=4", "--gpus_per_node=8", "--cpus_per_task=12", "--time=24:00:00", "--runs=3")
    assert lines[0] == "#!/bin/bash"
    assert {"#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=8", "#SBATCH --gpus-per-node=8"} <= set(lines)
    assert {"#SBATCH --signal=TERM@120", "#SBATCH --requeue", "#SBATCH --array=1-3%1"} <= set(lines)
    assert lines[-1] == (
        "exec srun --kill-on-bad-exit=1 --cpus-per-task=12 python -m sak_jax.main "
        "--config=configs/imagenet.py:stem=base,teachers=large --workdir=/shared/runs/imagenet"
    )


def test_what_is_not_asked_for_is_left_to_the_cluster(capsys):
    lines = script(
        capsys, "--gpus_per_node=0", "--time=1:00:00", "--setup=module load python; source .venv/bin/activate"
    )
    assert not [line for line in lines if "gpu" in line or "array" in line or "partition" in line or "cpus" in line]
    assert "#SBATCH --ntasks-per-node=1" in lines and "module load python; source .venv/bin/activate" in lines


def test_the_training_command_is_quoted(capsys, tmp_path):
    lines = script(capsys, "--time=1", train=[*TRAIN, "--config.data.root=/a b/{split}/*.tar"])
    (tmp_path / "srun").write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    (tmp_path / "srun").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash"], input="\n".join(lines), text=True, capture_output=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1] == "--config.data.root=/a b/{split}/*.tar"


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--time=1"], "the training command is missing"),
        (["--time=1", "--", "--config=c"], "--workdir=: all hosts must see it; it is to begin with /"),
        (["--time=1", "--", "--config=c", "--workdir=runs/x"], "--workdir=runs/x: all hosts must see it"),
        ([*TRAIN], "--time"),
        (["--time=1", "--nodes=0", *TRAIN], "--nodes: '0' must be a whole number, 1 or more"),
        (["--time=1", "--name=A b", *TRAIN], "the name 'A b' must be"),
    ],
)
def test_mistakes_are_named(capsys, argv, message):
    assert slurm.main(argv) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1


def test_without_slurm_it_says_so(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert slurm.main(["--time=1", *TRAIN]) == 2
    assert "sbatch is not installed" in capsys.readouterr().err


CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=3600
NodeName=node[1-4] CPUs=64 RealMemory=200000 Gres=gpu:8 State=CLOUD
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Slurm's controller on this machine, with four nodes of eight GPUs that are never started."""
    if not all(map(shutil.which, ("sbatch", "slurmctld", "munged"))) or os.getuid() != 0:
        pytest.skip("needs Slurm and Munge (Debian: slurm-wlm), and root, as which they start")
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    folder.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "slurm.conf").write_text(CONFIG.format(host=socket.gethostname().split(".")[0], folder=folder, port=port))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    places = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    places.append(f"--socket={folder}/munge.socket")
    started = [
        subprocess.Popen(["munged", "--foreground", "--force", *places], stderr=subprocess.DEVNULL),
        subprocess.Popen(["slurmctld", "-D", "-c"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
    ]
    for _ in range(60):
        if subprocess.run(["sinfo", "-h"], capture_output=True).stdout:
            break
        time.sleep(0.5)
    else:
        pytest.fail("Slurm's controller does not start")
    yield
    for process in reversed(started):
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def test_slurm_takes_the_script(cluster, capfd):
    base = ["--time=1-00:00:00", "--test_only"]
    all_of_it = ["--nodes=4", "--gpus_per_node=8", "--cpus_per_task=8", "--mem=150G", "--partition=all", "--runs=5"]
    assert slurm.main([*base, *all_of_it, "--name=imagenet", *TRAIN]) == 0
    assert "using 256 processors on nodes node[1-4]" in capfd.readouterr().err
    assert slurm.main([*base, "--gpus_per_node=0", *TRAIN]) == 0
    assert slurm.main([*base, "--nodes=2", "--gpus_per_node=16", *TRAIN]) == 1
    assert "Requested node configuration is not available" in capfd.readouterr().err
