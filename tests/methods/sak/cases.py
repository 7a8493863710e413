"""The students of the reference cases, for the tests that compare with them."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
import torch
from flax import nnx

from sak_jax.methods.sak.student import STEMS, Outputs, Student, StudentConfig
from sak_jax.nn.vit import ViTConfig
from tests.reference.formula_weights import formula_input

REFERENCE = Path(__file__).parents[2] / "reference"
SHAPES = json.loads((REFERENCE / "shapes.json").read_text())
TEACHERS = ("dinov2", "clip", "sam")
NYUD = (("semseg", 40), ("normals", 3), ("edge", 1), ("depth", 1))
PASCAL = (("semseg", 21), ("human_parts", 7), ("normals", 3), ("edge", 1), ("sal", 2))


def student_config(stem, image_size, tasks=(), teacher_width=None, **options) -> StudentConfig:
    """A student with the reference's three teachers; aligners if they are of another width than the stem."""
    sizes = STEMS[stem]
    depth, width = sizes["depth"], sizes["width"]
    vit = ViTConfig(**sizes, taps=tuple(range(depth // 4 - 1, depth, depth // 4)), image_size=image_size)
    aligners = TEACHERS if teacher_width else ()
    teachers = tuple((name, teacher_width or width) for name in TEACHERS)
    return StudentConfig(stem=vit, teachers=teachers, tasks=tasks, aligners=aligners, **options)


@functools.cache
def _abstract_student(config: StudentConfig) -> Student:
    return nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0)))


def abstract_student(config: StudentConfig) -> Student:
    """Shapes alone; loading weights makes it real."""
    return jax.tree.map(lambda x: x, _abstract_student(config))


TINY_TASKS = (("semseg", 40), ("edge", 1))
CASES = {
    "student_small_aligned_nyud": student_config("small", (64, 96), NYUD, 768),
    "student_base_pascal": student_config("base", (64, 64), PASCAL),
    "stage1_small_aligned": student_config("small", (64, 64), (), 768),
}
BATCH = {"student_small_aligned_nyud": 2, "student_base_pascal": 1, "stage1_small_aligned": 2}


def images(case: str) -> np.ndarray:
    """The case's images, channels last."""
    return formula_input("image", (BATCH[case], 3, *CASES[case].stem.image_size)).transpose(0, 2, 3, 1)


def worst_error(outputs: Outputs, case: str) -> float:
    """The largest difference of all reference values from our outputs, over the standard deviation of each."""
    taps, errors = CASES[case].stem.taps, {}
    with np.load(REFERENCE / f"{case}.npz") as reference:
        for key in reference.files:
            kind, name, *level = key.split("/")
            if kind == "prediction":
                ours = outputs.predictions[name][:, ::4, ::4].transpose(0, 3, 1, 2)
            elif kind == "aligned":
                ours = outputs.aligned[name][int(level[0])][..., ::8].transpose(0, 3, 1, 2)
            else:
                tap, task = name.split("_", 1)
                ours = outputs.routing[task][:, taps.index(int(tap))]
            expected = reference[key]
            assert ours.shape == expected.shape, key
            errors[key] = float(np.max(np.abs(ours - expected)) / np.std(expected))
    assert len(errors) == len(CASES[case].teachers) * 4 + len(CASES[case].tasks) * 5
    return max(errors.values())


def tiny_student(tasks=TINY_TASKS, image_size=(32, 32), lora=None, aligners=None):
    config = student_config("tiny", image_size, tasks, 768)
    config = dataclasses.replace(config, stem=dataclasses.replace(config.stem, lora=lora))
    config = config if aligners is None else dataclasses.replace(config, aligners=aligners)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), abstract_student(config))


def save(path, weights, **beside):
    """As the published training scripts save it."""
    torch.save({"model": {key: torch.tensor(value) for key, value in weights.items()}, **beside}, path)
    return path


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert other[key].dtype == value.dtype and other[key].shape == value.shape, key
        assert value.tobytes() == other[key].tobytes(), key
