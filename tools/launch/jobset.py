"""Train on Kubernetes: a JobSet on a TPU slice of GKE, or on nodes with GPUs anywhere; applied with kubectl.

python tools/launch/jobset.py NAME --image=IMAGE --topology=v5e:4x4 [--queue=LOCALQUEUE] [--spot] [--dry_run] \
    -- --config=configs/imagenet.py --workdir=gs://BUCKET/runs/imagenet --config.data.root=gs://BUCKET/imagenet
python tools/launch/jobset.py NAME --image=IMAGE --nodes=4 --gpus_per_node=8 [--gpu=nvidia-h100-80gb] -- ..

The cluster needs JobSet (jobset.sigs.k8s.io), and Kueue for --queue. IMAGE is made with tools/launch/Containerfile.
There is one pod a host. A pod that fails or is evicted restarts all, and training goes on from its last checkpoint; a
mistake in the command (exit status 2) ends the job at once. What follows `--` is the training command of
`sak_jax.main`. --dry_run prints the manifest. Watch with `kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=NAME`,
delete with `kubectl delete jobset NAME`.
"""

import sys
from collections.abc import Sequence

import slices
import training

from sak_jax import cli

COORDINATOR_PORT = 8476


def manifest(options, command: Sequence[str]) -> dict:
    """The JobSet (jobset.x-k8s.io/v1alpha2) of a training command."""
    # Pods start at different times, images are to be fetched.
    given = {"SAK_JAX_PATIENCE": "900"} | training.environment(options.env)
    env = [{"name": name, "value": value} for name, value in given.items()]
    selector = {}
    if options.topology:  # GKE tells the pods which of a slice they are, and JAX asks for it.
        piece = slices.parse(options.topology)
        chips = options.chips_per_host or min(4, piece.chips)
        hosts, devices = piece.hosts(chips), {"google.com/tpu": chips}
        selector["cloud.google.com/gke-tpu-accelerator"] = piece.gke_accelerator
        selector["cloud.google.com/gke-tpu-topology"] = piece.topology
    else:
        hosts, devices = options.nodes, {"nvidia.com/gpu": options.gpus_per_node}
        if options.gpu:
            selector["cloud.google.com/gke-accelerator"] = options.gpu
        index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
        env += [
            {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{options.name}-train-0-0.{options.name}:{COORDINATOR_PORT}"},
            {"name": "JAX_NUM_PROCESSES", "value": str(hosts)},
            {"name": "JAX_PROCESS_ID", "valueFrom": index},
        ]
    container: dict = {
        "name": "train",
        "image": options.image,
        "command": command[:3],
        "args": command[3:],
        "resources": {"requests": devices, "limits": devices},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # Data workers hand batches over in it.
        "env": env,
    }
    volumes: list[dict] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    if options.volume:
        claim, _, path = options.volume.partition(":")
        container["volumeMounts"].append({"name": "shared", "mountPath": path})
        volumes.append({"name": "shared", "persistentVolumeClaim": {"claimName": claim}})
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace,
        "containers": [container],
        "volumes": volumes,
    }
    if options.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        pod["tolerations"] = [spot]
    if selector:
        pod["nodeSelector"] = selector
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    if options.priority_class:
        pod["priorityClassName"] = options.priority_class
    mistake = {"containerName": "train", "operator": "In", "values": [2]}
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": mistake}]},
        "template": {"spec": pod},
    }
    metadata = {"name": options.name}
    if options.namespace:
        metadata["namespace"] = options.namespace
    if options.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": options.queue}
    rule = {"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {"maxRestarts": options.restarts, "rules": [rule]},
            "replicatedJobs": [{"name": "train", "replicas": 1, "template": {"spec": job}}],
        },
    }


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    own, flags = training.split(argv)
    parser = cli.Parser(__doc__)
    parser.add_argument("name", metavar="NAME", help="of the JobSet")
    parser.add_argument("--image", required=True, help="made with tools/launch/Containerfile")
    parser.add_argument("--topology", help="a TPU slice, as tools/plan.py takes it, e.g. v5e:4x4")
    parser.add_argument("--chips_per_host", type=cli.count, help="of the node pool (default: 4)")
    parser.add_argument("--nodes", type=cli.count, help="nodes with GPUs, instead of --topology")
    parser.add_argument("--gpus_per_node", type=cli.count, default=8)
    parser.add_argument("--gpu", help="GKE's name of the GPU, e.g. nvidia-h100-80gb")
    parser.add_argument("--queue", help="Kueue's LocalQueue")
    parser.add_argument("--namespace")
    parser.add_argument("--service_account", help="Kubernetes service account that may read and write the bucket")
    parser.add_argument("--priority_class")
    parser.add_argument("--volume", metavar="CLAIM:PATH", help="a volume that all pods share, and its place")
    parser.add_argument("--spot", action="store_true", help="on GKE's spot nodes")
    parser.add_argument("--restarts", type=cli.natural, default=100)
    parser.add_argument("--grace", type=cli.count, default=60, help="seconds to save in when a pod is evicted")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--dry_run", action="store_true", help="print the manifest")
    options = parser.parse_args(own)
    training.check_name(options.name)
    claim, _, path = (options.volume or "").partition(":")
    if options.volume and not (claim and path.startswith("/")):
        parser.error(f"--volume={options.volume} must be CLAIM:/PATH")
    # A folder of the container's own would be lost with it.
    training.check(flags, ("gs://", f"{path.rstrip('/')}/") if options.volume else ("gs://",))
    if bool(options.topology) == bool(options.nodes):
        parser.error("give either --topology, for a TPU slice, or --nodes, for nodes with GPUs")
    text = training.to_yaml(manifest(options, [*training.MODULE, *flags]))
    if options.dry_run:
        print(text, end="")
    else:
        training.Programs(False).run("kubectl", "apply", "-f", "-", stdin=text)


if __name__ == "__main__":
    sys.exit(main())
