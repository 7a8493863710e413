"""What recipes on rooms predict, and what they are compared with."""

from sak_jax.data.rooms import furniture

TASKS = {
    "semseg": {"channels": len(furniture.CLASSES), "names": list(furniture.CLASSES)},
    "depth": {},
    "normals": {},
    "edge": {},
    "sal": {},
}
"""`config.tasks`."""

SINGLE_TASK = {
    "semseg/mIoU": 23.04,
    "depth/RMSE": 1.065,
    "normals/mErr": 25.44,
    "edge/odsF": 42.62,
    "sal/maxF": 37.10,
}
"""`config.baselines`: of `configs/rooms.py:method=single-TASK`, seed 0 (tools/compare.py)."""
