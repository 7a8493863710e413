"""What the published PyTorch code predicts of photographs, as `predict_published.npz` holds it, and how that was made.

    python -m tests.reference.predict_published CLONE

with a clone of https://github.com/innovator-zero/SAK (c468ae9): its student of NYUD-v2 (ViT-B, paths of three teachers,
four tasks) in evaluation mode, float32 on a CPU, with the weights of `formula_weights`. The pictures are normalised and
padded here, by NumPy alone. The file holds, with the padding cut off:

    shapes                          {state-dict key: shape} as JSON
    {photograph}/{task}             raw outputs of every `STRIDE`-th row and column, [i, j, channels]
    {photograph}/{task}/moments     mean and standard deviation of all of them

The published student takes images of the trained size alone. `chelsea` is padded to another one: there it was built
for that size and given the weights by its own `update_weights`, which resamples position embeddings as for stage 2
(bicubic, no antialias); it takes every grid that it resamples for square, so it is told the trained one.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import skimage.data

from tests.reference.formula_weights import formula_state

TASKS = ("semseg", "normals", "edge", "depth")
TRAINED = (448, 576)
STRIDE = 23
FILE = Path(__file__).with_suffix(".npz")

PHOTOGRAPHS = {
    "coffee": (skimage.data.coffee()[1:, 20:571], TRAINED),  # 399 x 551
    "motorcycle": (skimage.data.stereo_motorcycle()[0][60:487, 100:629], TRAINED),  # 427 x 529
    "chelsea": (skimage.data.chelsea(), (320, 512)),  # 300 x 451
}
"""Pictures that scikit-image brings, without loss, and the sizes they are padded to."""


def padded(picture: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[slice, slice]]:
    """float32 [H, W, 3], normalised, in the centre of zeros; and where the picture lies."""
    top, left = ((outer - inner) // 2 for outer, inner in zip(size, picture.shape, strict=False))
    inside = slice(top, top + picture.shape[0]), slice(left, left + picture.shape[1])
    image = np.zeros((*size, 3), np.float32)
    image[inside] = (picture / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return image, inside


def main(clone: str) -> None:
    """Runs the published code and writes the file."""
    import torch

    from sak_jax.benchmark.published import _without_downloads, declare_torchvision

    declare_torchvision()
    sys.path.insert(0, clone)
    _without_downloads()
    import train_utils
    from models.build_models import build_model

    grid = [side // 16 for side in TRAINED]
    train_utils.resample_abs_pos_embed = functools.partial(train_utils.resample_abs_pos_embed, old_size=grid)

    def student(size):  # As its test.py builds it.
        teachers = dict.fromkeys(("dinov2", "clip", "sam"), 0)
        backbone = {"backbone_type": "sak", "vit_name": "vit_base", "tea_dims": teachers, "down_ratio": 4}
        backbone |= {"aligner": False, "router_type": "mor", "noisy_gating": True}
        return build_model("mt", img_size=size, backbone_args=backbone, dataname="nyud", tasks=list(TASKS)).eval()

    shapes = {key: list(value.shape) for key, value in student(TRAINED).state_dict().items()}
    weights = {key: torch.tensor(value) for key, value in formula_state(shapes).items()}
    found = {"shapes": np.array(json.dumps(shapes))}
    for name, (picture, size) in PHOTOGRAPHS.items():
        model = student(size)
        train_utils.update_weights(model, weights)
        image, (rows, columns) = padded(picture, size)
        with torch.no_grad():
            _, outputs = model(torch.tensor(image.transpose(2, 0, 1)[None]))
        for task in TASKS:
            raw = outputs[task][0].permute(1, 2, 0).numpy()[rows, columns]
            found[f"{name}/{task}"] = raw[::STRIDE, ::STRIDE]
            found[f"{name}/{task}/moments"] = np.array([raw.mean(dtype=np.float64), raw.std(dtype=np.float64)])
    np.savez_compressed(FILE, **found)


if __name__ == "__main__":
    main(sys.argv[1])
