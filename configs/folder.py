"""One's own photographs: a folder of images and, for any subset of the tasks, of labels. An example to copy and change.

python -m sak_jax.main --config=configs/rooms.py
python -m sak_jax.main --config=configs/folder.py --config.data.root=DIR

As it stands it wants `DIR/{train,val}/images/NAME.jpg` with classes in `DIR/{train,val}/semseg/NAME.png` and depth in
`DIR/{train,val}/depth/NAME.png`, and trains the small student that `rooms` gave. docs/data.md tells of other encodings,
of tasks of one's own, and of larger students.
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
    config.tasks = {"semseg": {"channels": 5}, "depth": {}}
    config.model.stem = "tiny"
    config.teachers.update(recipes.ROOMS_COMMITTEE)
    config.multitask.steps = 1000
    config.multitask.lr = 5e-4
    config.data.name = "folder"
    config.data.resize = True  # Larger photographs are shrunk to image_size before the transforms.
    config.data.encodings = {"depth": "millimetres"}  # 16-bit PNG, 0 where nothing was measured.
    for split in ("train", "val"):
        config.data[split] = {
            "images": f"{split}/images/*.jpg",
            "semseg": f"{split}/semseg/{{id}}.png",
            "depth": f"{split}/depth/{{id}}.png",
        }
    return recipes.as_method(config, chosen["method"])
