import io
import os
import subprocess

import pytest
import skypilot
import yaml

TRAIN = ["--", "--config=configs/imagenet.py", "--workdir=gs://bucket/runs/imagenet"]


def task(capsys, *flags):
    assert skypilot.main(["sak", *flags, "--dry_run", *TRAIN]) == 0
    return yaml.safe_load(io.StringIO(capsys.readouterr().out))


def test_a_tpu_slice(capsys):
    made = task(capsys, "--topology=v6e:4x4", "--spot", "--infra=gcp/us-east5")
    assert made["resources"] == {
        "infra": "gcp/us-east5",
        "accelerators": "tpu-v6e-16",
        "accelerator_args": {"runtime_version": "v2-alpha-tpuv6e"},
        "use_spot": True,
    }
    assert "num_nodes" not in made and "'.[tpu,gcs]'" in made["setup"] and "JAX_" not in made["run"]


def test_nodes_with_gpus_are_told_who_they_are(capsys, tmp_path):
    made = task(capsys, "--accelerators=H100:8", "--nodes=2", "--disk_size=500", "--env=A=b")
    assert made["resources"] == {"accelerators": "H100:8", "use_spot": False, "disk_size": 500}
    assert made["num_nodes"] == 2 and made["envs"] == {"A": "b"} and "'.[cuda,gcs]'" in made["setup"]
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nenv | grep ^JAX_ | sort\necho "$@"\n')
    python.chmod(0o755)
    given = {"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.7", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | given
    done = subprocess.run(["bash", "-c", made["run"]], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "JAX_COORDINATOR_ADDRESS=10.0.0.4:8476",
        "JAX_NUM_PROCESSES=2",
        "JAX_PROCESS_ID=1",
        f"-m sak_jax.main {' '.join(TRAIN[1:])}",
    ]


def test_it_is_launched_as_a_managed_job(tmp_path, monkeypatch):
    sky = tmp_path / "sky"
    sky.write_text(f'#!/bin/sh\necho "$1 $2 $3 $4 $5" > {tmp_path}/arguments\ncp "$6" {tmp_path}/task\n')
    sky.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert skypilot.main(["sak", "--accelerators=A100:1", *TRAIN]) == 0
    assert (tmp_path / "arguments").read_text().strip() == "jobs launch --name sak --yes"
    assert yaml.safe_load((tmp_path / "task").read_text())["name"] == "sak"


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "give either --topology"),
        (["--topology=v6e:4x4", "--accelerators=H100:8"], "give either --topology"),
        (["--topology=v6e:4x4", "--nodes=2"], "--nodes is for GPUs alone"),
    ],
)
def test_mistakes_are_named(capsys, flags, message):
    assert skypilot.main(["sak", *flags, "--dry_run", *TRAIN]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
