"""Stage 2 on NYUD-v2: segmentation, surface normals, boundaries and depth, from the student that stage 1 gave.

python -m sak_jax.main --config=configs/nyud.py --config.data.root=DIR --config.init_from=runs/imagenet

Arguments: `:stem=small,teachers=base`, `preset=frontier`, `committee=dinov2` as in `configs/imagenet.py`, which must
have made the student with the same. Scores in print show beside ours where there are any.

Baselines: `:method=multitask` (nothing distilled) and `:method=single-depth` (one task) start from the augreg stem;
`:committee=dinov2` has one teacher alone; `:method=frozen-dinov2_base` and `:method=finetuned-dinov3_large,stem=large`
give a foundation model the student's heads (`stem` picks the single-task scores of Delta_m).

`init_from` may also be a published `.pth`. `DIR` holds the original folders or what `tools/prepare_data.py` wrote; see
docs/data.md. To try it without weights: `--config.teachers.random=True`. 4 images a step over all devices.
"""

from sak_jax.data.sets import nyud
from sak_jax.methods.sak import recipes

TASKS = {"semseg": {"channels": nyud.CLASSES, "names": list(nyud.NAMES)}, "normals": {}, "edge": {}, "depth": {}}
_KEYS = ("semseg/mIoU", "depth/RMSE", "normals/mErr", "edge/odsF", "delta_m")

SINGLE_TASK = {
    "base": dict(zip(_KEYS, (51.15, 0.5792, 19.77, 77.35), strict=False)),
    "large": dict(zip(_KEYS, (54.19, 0.5560, 19.22, 78.09), strict=False)),
}
PUBLISHED = {
    ("multitask", "base", ""): dict(zip(_KEYS, (49.27, 0.5823, 19.92, 75.88, -1.72), strict=True)),
    ("sak", "base", "base"): dict(zip(_KEYS, (59.93, 0.4942, 17.60, 78.60, 11.11), strict=True)),
    ("sak", "large", "large"): dict(zip(_KEYS, (63.18, 0.4313, 16.25, 79.43, 14.05), strict=True)),
}
"""SAK, tables of NYUD-v2, by method, stem and teachers."""


def get_config(text: str = ""):
    """The recipe; its arguments are stem, teachers, preset, committee and method."""
    config = recipes.multitask(recipes.arguments(text, method="sak"), TASKS, SINGLE_TASK, PUBLISHED)
    config.image_size = (448, 576)
    config.data.name = "nyud"
    config.boundary.max_distance = 0.011
    config.boundary.truth = "label_map"  # As published: the annotated curves are outlined before they are thinned.
    return config
