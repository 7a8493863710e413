"""Stage 2 on PASCAL-Context: segmentation, human parts, surface normals, boundaries and saliency.

python -m sak_jax.main --config=configs/pascal_context.py --config.data.root=DIR --config.init_from=runs/imagenet

Arguments, starts and baselines are those of `configs/nyud.py`; for the data see docs/data.md.
"""

from sak_jax.data.sets import pascal_context
from sak_jax.methods.sak import recipes

TASKS = {
    "semseg": {"channels": pascal_context.CLASSES, "names": list(pascal_context.NAMES)},
    "human_parts": {"names": list(pascal_context.PART_NAMES)},
    "normals": {},
    "edge": {},
    "sal": {},
}
_KEYS = ("semseg/mIoU", "human_parts/mIoU", "sal/maxF", "normals/mErr", "edge/odsF", "delta_m")

SINGLE_TASK = {
    "base": dict(zip(_KEYS, (80.25, 70.54, 84.54, 13.57, 74.22), strict=False)),
    "large": dict(zip(_KEYS, (81.61, 72.77, 83.80, 13.87, 75.24), strict=False)),
}
PUBLISHED = {
    ("sak", "base", "base"): dict(zip(_KEYS, (81.88, 74.30, 84.79, 14.02, 74.09, 0.83), strict=True)),
    ("sak", "large", "large"): dict(zip(_KEYS, (84.01, 76.99, 84.65, 13.82, 76.27, 2.30), strict=True)),
}
"""SAK, tables of PASCAL-Context, by method, stem and teachers."""


def get_config(text: str = ""):
    """The recipe; its arguments are stem, teachers, preset, committee and method."""
    config = recipes.multitask(recipes.arguments(text, method="sak"), TASKS, SINGLE_TASK, PUBLISHED)
    config.image_size = (512, 512)
    config.data.name = "pascal_context"
    config.boundary.max_distance = 0.0075
    config.boundary.truth = "boundary"  # Of val the labels are the benchmark's thin truth, made from regions.
    return config
