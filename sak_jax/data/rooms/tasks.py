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
    "semseg/mIoU": 17.09,
    "depth/RMSE": 1.157,
    "normals/mErr": 31.23,
    "edge/odsF": 39.10,
    "sal/maxF": 34.81,
}
"""`config.baselines`: means of three seeds of `configs/rooms.py:method=single-TASK` (tools/compare.py)."""
