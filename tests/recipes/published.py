"""The recipes of the reference cases: `published.py:case=student_small_aligned_nyud`."""

from sak_jax import recipe

CASES = {
    "student_small_aligned_nyud": ("small", (64, 96), {"semseg": {}, "normals": {}, "edge": {}, "depth": {}}),
    "student_base_pascal": (
        "base",
        (64, 64),
        {"semseg": {"channels": 21}, "human_parts": {}, "normals": {}, "edge": {}, "sal": {}},
    ),
    "stage1_small_aligned": ("small", (64, 64), {}),
}


def get_config(text: str = ""):
    config = recipe.base()
    case = recipe.arguments(text, case="student_small_aligned_nyud")["case"]
    config.model.stem, config.image_size, config.tasks = CASES[case]
    config.teachers.update(
        {"dinov2": {"model": "dinov2_base"}, "clip": {"model": "clip_base"}, "sam": {"model": "sam_base"}}
    )
    config.distill.steps = config.multitask.steps = 10
    return config
