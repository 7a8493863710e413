import io
import os
import stat

import jobset
import pytest
import yaml

TRAIN = ["--", "--config=configs/imagenet.py", "--workdir=gs://bucket/runs/imagenet", "--config.batch_size=256"]


def manifest(capsys, *flags):
    assert jobset.main(["sak", "--image=registry/sak:1", *flags, "--dry_run", *TRAIN]) == 0
    return yaml.safe_load(io.StringIO(capsys.readouterr().out))


def job(made):
    (replicated,) = made["spec"]["replicatedJobs"]
    assert set(replicated) == {"name", "replicas", "template"} and replicated["replicas"] == 1
    return replicated["template"]["spec"]


def test_a_tpu_slice_has_a_pod_a_host(capsys):
    made = manifest(capsys, "--topology=v5e:4x8", "--queue=tpus", "--namespace=research")
    assert (made["apiVersion"], made["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert made["metadata"] == {
        "name": "sak", "namespace": "research", "labels": {"kueue.x-k8s.io/queue-name": "tpus"}
    }  # fmt: skip
    spec = job(made)
    assert spec["parallelism"] == spec["completions"] == 8 and spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x8",
    }
    (container,) = pod["containers"]
    assert container["resources"] == {"requests": {"google.com/tpu": 4}, "limits": {"google.com/tpu": 4}}
    assert container["command"] == ["python", "-m", "sak_jax.main"] and container["args"] == TRAIN[1:]
    assert container["env"] == [{"name": "SAK_JAX_PATIENCE", "value": "900"}] and "tolerations" not in pod


def test_a_workdir_outside_a_bucket_wants_a_volume(capsys):
    train = ["--", "--config=configs/imagenet.py", "--workdir=/shared/runs/imagenet"]
    base = ["sak", "--image=registry/sak:1", "--topology=v5e:4x4", "--dry_run"]
    assert jobset.main([*base, *train]) == 2
    assert "all hosts must see it" in capsys.readouterr().err
    assert jobset.main([*base, "--volume=claim:/other", *train]) == 2
    assert jobset.main([*base, "--volume=claim", *train]) == 2
    capsys.readouterr()
    assert jobset.main([*base, "--volume=claim:/shared", *train]) == 0
    pod = job(yaml.safe_load(capsys.readouterr().out))["template"]["spec"]
    assert {"name": "shared", "persistentVolumeClaim": {"claimName": "claim"}} in pod["volumes"]
    assert {"name": "shared", "mountPath": "/shared"} in pod["containers"][0]["volumeMounts"]


def test_nodes_with_gpus_are_told_who_they_are(capsys):
    made = manifest(capsys, "--nodes=4", "--gpu=nvidia-h100-80gb", "--env=XLA_FLAGS=--a=b --c", "--service_account=sa")
    spec = job(made)
    pod = spec["template"]["spec"]
    assert spec["parallelism"] == 4 and pod["serviceAccountName"] == "sa"
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    given = {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}
    # JobSet's host names: <jobset>-<replicated job>-<job>-<pod>.<jobset>
    assert given["JAX_COORDINATOR_ADDRESS"] == "sak-train-0-0.sak:8476"
    assert given["JAX_NUM_PROCESSES"] == "4" and given["XLA_FLAGS"] == "--a=b --c"
    path = given["JAX_PROCESS_ID"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_a_failed_pod_restarts_all_but_a_mistake_ends_the_job(capsys):
    made = manifest(capsys, "--topology=v6e:2x4", "--chips_per_host=8", "--spot", "--restarts=7", "--grace=25")
    spec = job(made)
    pod = spec["template"]["spec"]
    assert spec["parallelism"] == 1 and spec["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2]
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    policy = made["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert policy["rules"] == [
        {"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]  # fmt: skip
    assert pod["terminationGracePeriodSeconds"] == 25
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"


def test_it_is_applied_with_kubectl(tmp_path, monkeypatch, capfd):
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/manifest\nexit ${{STATUS:-0}}\n')
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    argv = ["sak", "--image=i", "--topology=v5e:2x2", *TRAIN]
    assert jobset.main(argv) == 0
    assert (tmp_path / "arguments").read_text().split() == ["apply", "-f", "-"]
    applied = yaml.safe_load((tmp_path / "manifest").read_text())
    assert applied["metadata"]["name"] == "sak"
    monkeypatch.setenv("STATUS", "3")
    assert jobset.main(argv) == 1
    assert "kubectl apply -f - .. ended with status 3" in capfd.readouterr().err


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--topology=v5e:2x2", "--nodes=2"], "give either --topology"),
        ([], "give either --topology"),
        (["--topology=v5e:4x4", "--chips_per_host=8"], "--chips_per_host=8 does not fit v5e:4x4"),
        (["--topology=v5e:4x4", "--env=A"], "--env=A: write NAME=VALUE"),
        (["--nodes=2", "--gpus_per_node=0"], "--gpus_per_node: '0' must be a whole number, 1 or more"),
    ],
)
def test_mistakes_are_named(capsys, flags, message):
    assert jobset.main(["sak", "--image=i", *flags, "--dry_run", *TRAIN]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
