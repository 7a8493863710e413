import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sak_jax.methods.foundation.student import FoundationStudent
from sak_jax.methods.sak.student import Student, StudentConfig
from sak_jax.nn.vit import ViT, ViTConfig
from sak_jax.teachers.views import View
from tests.nn.filling import filled

ENCODER = ViTConfig(width=24, depth=4, heads=3, patch=4, taps=(0, 1, 2, 3), image_size=(16, 24))
TASKS = (("semseg", 5), ("depth", 1))
IMAGES = jnp.asarray(np.random.default_rng(1).standard_normal((2, 16, 24, 3), np.float32))


def make(view=View(), config=ENCODER):  # noqa: B008 - a frozen dataclass
    def create():
        rngs = nnx.Rngs(0)
        return FoundationStudent(ViT(config, rngs=rngs), view, config.width, TASKS, rngs=rngs)

    return filled(create)


def test_with_a_plain_encoder_it_is_the_student_without_teachers():
    ours = make()
    student = filled(
        lambda: Student(StudentConfig(stem=ENCODER, teachers=(), tasks=TASKS, router="none"), rngs=nnx.Rngs(0))
    )
    nnx.update(student.stem, nnx.state(ours.encoder))
    nnx.update(student.heads, nnx.state(ours.heads))
    for name, expected in student(IMAGES).predictions.items():
        found = ours(IMAGES).predictions[name]
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.std(expected))


def test_the_encoder_sees_its_own_view_of_the_image():
    view = View(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), pad_to=48, crop=True)
    config = dataclasses.replace(ENCODER, image_size=(48, 48))
    ours = make(view, config)
    seen = ours.encoder(view(IMAGES))
    assert [x.shape for x in seen] == [(2, 12, 12, 24)] * 4
    outputs = jax.jit(lambda student, images: student(images))(ours, IMAGES)
    levels = [x[:, :8] for x in seen]  # Below row 8 there is padding alone.
    heads = ours.heads(dict.fromkeys(dict(TASKS), levels), (16, 24), False)
    for name, channels in TASKS:
        assert outputs.predictions[name].shape == (2, 16, 24, channels)
        np.testing.assert_allclose(outputs.predictions[name], heads[name], atol=1e-5 * np.std(heads[name]))
    assert outputs.aligned == {} and outputs.routing == {}
