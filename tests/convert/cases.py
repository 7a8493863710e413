"""The students of the reference cases, for the tests that compare with them."""

import functools
import json
from pathlib import Path

import jax
from flax import nnx

from sak_jax.models.student import STEMS, Student, StudentConfig
from sak_jax.models.vit import ViTConfig

REFERENCE = Path(__file__).parent.parent / "reference"
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


CASES = {
    "student_small_aligned_nyud": student_config("small", (64, 96), NYUD, 768),
    "student_base_pascal": student_config("base", (64, 64), PASCAL),
    "stage1_small_aligned": student_config("small", (64, 64), (), 768),
}
BATCH = {"student_small_aligned_nyud": 2, "student_base_pascal": 1, "stage1_small_aligned": 2}
