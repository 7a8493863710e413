"""Made-up runs to report."""

import numpy as np

from sak_jax.report.record import Run


def picture(height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def flat(colour, height=24, width=32):
    return np.full((height, width, 3), colour, np.uint8)


def examples(count=3, tasks=("semseg", "depth"), size=(24, 32)):
    return [
        {
            "image": picture(*size, seed=index),
            "tasks": {
                task: (flat((0, 200, 0), *size), flat((200, 0, 0), *size), flat((0, 0, 200), *size)) for task in tasks
            },
            "features": {"scene: path": picture(3, 4, seed=index)},
            "routing": {"semseg": [[0.1 * index, 1 - 0.1 * index], [0.0, 1.0]]},
        }
        for index in range(count)
    ]


def curves(steps=20, broken=()):
    lines = [
        {"step": step, "split": "multitask", "values": {"total": None if step in broken else 10.0 / step, "lr": 0.1}}
        for step in range(1, steps + 1)
    ]
    scores = [{"step": step, "split": "val", "values": {"semseg/mIoU": 20.0 + step}} for step in (10, 20)]
    return lines + scores


def full(name="rooms", **changed):
    """A finished run with everything."""
    run = Run(
        name=name,
        command="python -m sak_jax.main --config=configs/rooms.py",
        config={"seed": 0, "model": {"router": "mor"}, "tasks": {"semseg": {"channels": 3}}},
        versions={"jax": "0.10.2"},
        scores={"semseg/mIoU": 24.0, "depth/RMSE": 0.8, "edge/odsF": None},
        baselines={"semseg/mIoU": 20.0, "depth/RMSE": 1.0},
        published={"semseg/mIoU": 59.9, "delta_m": 11.11},
        higher_is_better={"semseg/mIoU": True, "depth/RMSE": False, "edge/odsF": True},
        delta_m=20.0,
        steps=40,
        seconds=65.0,
        curves=curves(),
        pictures=examples(),
        routing={"semseg": [[0.25, 0.75], [0.5, 0.5]], "depth": [[0.9, 0.1], [0.2, 0.8]]},
        experts=["stem", "scene"],
        routing_images=3,
        fidelity={"scene": [0.9, 0.8]},
        confusion={"semseg": {"classes": ["wall", "floor"], "counts": [[8, 2], [1, 9]]}},
    )
    for key, value in changed.items():
        setattr(run, key, value)
    return run
