"""DUNE: a universal encoder from DINOv2, MASt3R and Multi-HMR on 19 data sets, stage by stage.

python -m sak_jax.main --config=configs/dune.py:stem=base,stage=336
python -m sak_jax.main --config=configs/dune.py:stem=base,stage=448 --config.init_from=runs/dune --workdir=runs/dune_448

`stem` is tiny, small, base (default), large or giant2; `stage=336` starts from scratch, `stage=448` from what the first
stage gave. Each data set is a folder of images, `data/dune/NAME`, or another `config.distill.mix.sets.NAME.root`; those
that are not there are left out, and the log says which. `batch=1024` is the batch that rates and lengths are for.

Teachers come from `tools/convert_teacher.py` (dinov2_large_registers, mast3r_large, multihmr_large). To try it without:
`--config.teachers.random=True`. Published files: `tools/import_pytorch.py --config=configs/dune.py --input=FILE.pth
--output=DIR`. Then heads: configs/dune_multitask.py. Settings are those of the published code; see docs/dune.md.
"""

import math

from sak_jax import recipe
from sak_jax.errors import UserError

SETS = {
    "dinov2": ("in19k", "gldv2", "mapillarystreet"),
    "mast3r": (
        "ARKitScenesV2", "Habitat512", "WildRgb", "DL3DV", "Co3d_v3", "TartanAir", "BlendedMVS", "ScanNetppV2",
        "Niantic", "MegaDepthDense", "Unreal4K", "VirtualKitti",
    ),
    "multihmr": ("bedlam", "cuffs", "ubody", "agora"),
}  # fmt: skip
"""The data sets of each group, by their names in the published code."""

TEACHERS = {
    "dino2reg_vitlarge_14": {"model": "dinov2_large_registers", "group": "dinov2", "tokens": ("cls", "patch")},
    "mast3r_vitlarge_16": {
        "model": "mast3r_large",
        "group": "mast3r",
        "tokens": ("patch",),
        "normalisation": "native",
    },
    "multihmr_vitlarge_14_672": {"model": "multihmr_large", "group": "multihmr", "tokens": ("patch",)},
}

STAGES = {"336": (336, 100, 3e-4), "448": (448, 50, 5e-5)}
"""Side of the images, epochs of ImageNet-1k's length, and peak rate for a batch of 256."""

IMAGES = 1_281_167


def get_config(text: str = ""):
    """The recipe; its arguments are stem, stage and batch."""
    chosen = recipe.arguments(text, stem="base", stage="336", batch="1024")
    recipe.check_arguments(chosen, stage=STAGES)
    if not chosen["batch"].isdigit() or int(chosen["batch"]) < 2:
        raise UserError(f"recipe argument batch={chosen['batch']}: it must be a number of images, 2 at least")
    side, epochs, rate = STAGES[chosen["stage"]]
    config = recipe.base("dune")
    config.image_size = (side, side)
    config.batch_size = int(chosen["batch"])
    config.dtype = "bfloat16"
    config.model.stem = chosen["stem"]
    config.teachers.update(TEACHERS)
    steps = math.ceil(epochs * IMAGES / config.batch_size)
    config.distill.steps = steps + steps % 2
    config.distill.warmup_steps = int(0.2 * config.distill.steps)
    config.distill.lr = rate * config.batch_size / 256
    config.distill.mix.sets = {
        name: {"name": "folder", "group": group, "root": f"data/dune/{name}", "train": {"images": "**/*"}}
        for group, names in SETS.items()
        for name in names
    }
    config.distill.mix.missing = "leave_out"
    config.distill.generic = ("dinov2",)
    config.data.name = "folder"
    config.log_every = 50
    config.checkpoint.every = 2000
    return config
