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
    "semseg/mIoU": 23.48,
    "depth/RMSE": 1.020,
    "normals/mErr": 25.48,
    "edge/odsF": 42.67,
    "sal/maxF": 37.41,
}
"""`config.baselines`: of `configs/rooms.py:method=single-TASK`, means of three seeds (tools/compare.py)."""
