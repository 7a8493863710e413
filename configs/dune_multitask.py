"""Our heads on DUNE's encoder, frozen or fine-tuned, on NYUD-v2 or PASCAL-Context.

python -m sak_jax.main --config=configs/dune_multitask.py --config.data.root=DIR --config.init_from=runs/dune_448

Arguments: `data=nyud|pascal_context`, `encoder=frozen|finetuned`, `stem=base`, and `read=levels` (four levels of the
encoder) or `read=dinov2` (the map that DINOv2's projector makes of it, as DUNE's own segmentation does). `init_from` is
a run of `configs/dune.py` or a published `.pth`. Tasks and length: as in `configs/nyud.py` and
`configs/pascal_context.py`.
"""

from sak_jax import recipe
from sak_jax.data.sets import nyud, pascal_context

DATA = {
    "nyud": {
        "tasks": {
            "semseg": {"channels": nyud.CLASSES, "names": list(nyud.NAMES)},
            "normals": {},
            "edge": {},
            "depth": {},
        },
        "image_size": (448, 560),  # Whole patches of 14, and room for the pictures of 425 x 560.
        "boundary": {"max_distance": 0.011, "truth": "label_map"},
    },
    "pascal_context": {
        "tasks": {
            "semseg": {"channels": pascal_context.CLASSES, "names": list(pascal_context.NAMES)},
            "human_parts": {"names": list(pascal_context.PART_NAMES)},
            "normals": {},
            "edge": {},
            "sal": {},
        },
        "image_size": (504, 504),
        "boundary": {"max_distance": 0.0075, "truth": "boundary"},
    },
}


def get_config(text: str = ""):
    """The recipe; its arguments are data, encoder, stem and read."""
    chosen = recipe.arguments(text, data="nyud", encoder="frozen", stem="base", read="levels")
    recipe.check_arguments(chosen, data=DATA, encoder=("frozen", "finetuned"), read=("levels", "dinov2"))
    settings = DATA[chosen["data"]]
    config = recipe.base("dune")
    config.image_size = settings["image_size"]
    config.batch_size = 4
    config.eval_batch_size = 8
    config.init_from = "runs/dune_448"
    config.tasks = settings["tasks"]
    config.boundary.update(settings["boundary"])
    config.model.stem = chosen["stem"]
    if chosen["read"] == "dinov2":
        name = "dino2reg_vitlarge_14"
        config.teachers[name] = {"model": "dinov2_large_registers"}
        config.model.read_after = name
    config.model.freeze = "stem" if chosen["encoder"] == "frozen" else "none"
    config.multitask.steps = 40_000
    config.multitask.lr = 2e-5 if chosen["encoder"] == "finetuned" else 1e-3
    config.data.name = chosen["data"]
    config.log_every = 50
    config.checkpoint.every = 1000
    return config
