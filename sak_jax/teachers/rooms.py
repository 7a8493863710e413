"""The committee of `rooms`: three small vision transformers with different biases, and a stem to start a student from.

Their weights come with the package; `tools/train_rooms_committee.py` made them. Each was trained on one pretext task,
on scenes of the training split that no recipe's labelled set reaches.
"""

import json
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.nn.vit import ViT, ViTConfig
from sak_jax.teachers.entry import IMAGENET, PACKAGED, Teacher
from sak_jax.teachers.vits import PLAIN
from sak_jax.weights import files, states

IMAGE_SIZE = (72, 96)
STEM = ViTConfig(96, 8, 3, 8, (1, 3, 5, 7), IMAGE_SIZE)
"""The student's stem `tiny`."""

CONFIGS = {
    "scene": ViTConfig(128, 4, 4, 8, (0, 1, 2, 3), IMAGE_SIZE),
    "regions": ViTConfig(96, 4, 3, 6, (0, 1, 2, 3), IMAGE_SIZE, class_token=False),
    "geometry": ViTConfig(144, 4, 4, 12, (0, 1, 2, 3), IMAGE_SIZE, mlp_hidden=432, class_token=False),
    "stem_tiny": STEM,
}
"""Architectures by short name: three teachers, and the stem."""

BIASES = {
    "scene": "what is where, by name: the classes in the picture and in each part of a patch",
    "regions": "what belongs together, without names: same object or not, and boundaries",
    "geometry": "the shape of things, without names: depth and surface normals in each part of a patch",
}
"""What each teacher was taught."""

TEACHERS = [
    Teacher(
        name=f"rooms_{name}",
        family=PLAIN,
        config=CONFIGS[name],
        source="tools/train_rooms_committee.py",
        licence="Apache-2.0",
        normalisation=IMAGENET,
        formats=(),
        packaged=True,
    )
    for name in BIASES
]


def weights_path(name: str) -> epath.Path:
    """The packaged file of a member by short name."""
    if name not in CONFIGS:
        raise UserError(f"the rooms committee has no {name!r}; it has {', '.join(CONFIGS)}")
    return PACKAGED / f"rooms_{name}.safetensors"


def load(name: str, dtype=jnp.float32) -> ViT:
    """A member with its packaged weights, at the image size it was trained on.

    Args:
      name: a key of `CONFIGS`.
      dtype: of the computation; parameters are float32.
    """
    path = weights_path(name)
    vit = nnx.eval_shape(lambda: ViT(CONFIGS[name], dtype=dtype, rngs=nnx.Rngs(0)))
    state = states.load(vit, files.read_weights(path), states.own(vit), name=str(path))
    nnx.update(vit, nnx.from_flat_state([(key, leaf.replace(jnp.asarray(leaf[...]))) for key, leaf in _flat(state)]))
    return vit


def stem_state() -> dict[tuple, np.ndarray]:
    """The stem `tiny`, trained on which classes fill how much of a picture: float32 arrays by path in `ViT`."""
    return {path: np.asarray(leaf[...]) for path, leaf in _flat(nnx.state(load("stem_tiny")))}


def write(path: epath.PathLike, vit: ViT, facts: dict) -> None:
    """Writes a member's weights in float16, with `facts` as its metadata, whole or not at all.

    Raises:
      ValueError: a weight is not finite in float16; nothing is written.
    """
    with np.errstate(over="ignore"):  # said by the error below
        arrays = {key: value.astype(np.float16) for key, value in states.export(vit, states.own(vit)).items()}
    wrong = [key for key, value in arrays.items() if not np.isfinite(value).all()]
    if wrong:
        raise ValueError(f"not finite in float16: {', '.join(wrong)}")
    files.write_safetensors(path, arrays, {key: json.dumps(value) for key, value in facts.items()})


def _flat(state: nnx.State) -> Sequence[tuple[tuple, nnx.Variable]]:
    return nnx.to_flat_state(state)
