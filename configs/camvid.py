"""Both stages on street photographs (CamVid, 11 classes and boundaries), from the student that `rooms` gave.

python -m sak_jax.main --config=configs/rooms.py
python -m sak_jax.main --config=configs/camvid.py --config.data.root=DIR

`DIR` holds `{train,val}/{id}.png` and `{train,val}annot/{id}.png`, as the SegNet tutorial has them.
"""

from sak_jax import recipe
from sak_jax.methods.sak import recipes


def get_config(text: str = ""):
    """The recipe; `method` as in `configs/rooms.py`."""
    chosen = recipe.arguments(text, method="sak")
    config = recipe.base()
    config.image_size = (96, 128)
    config.batch_size = 8
    config.init_from = "runs/rooms"
    config.tasks = {"semseg": {"channels": 11}, "edge": {}}
    config.model.stem = "tiny"
    config.teachers.update(recipes.ROOMS_COMMITTEE)
    config.distill.steps = 150
    config.distill.warmup_steps = 15
    config.multitask.steps = 200
    config.multitask.lr = 5e-4
    config.data.name = "camvid"
    config.data.resize = True  # The photographs are shrunk to image_size before the transforms.
    return recipes.as_method(config, chosen["method"])
