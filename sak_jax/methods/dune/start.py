"""A student for another image size, as DUNE's second stage starts from its first."""

import dataclasses

from flax import nnx

from sak_jax.methods.dune.student import Student, check_size
from sak_jax.nn import resize


def at_size(student: Student, image_size: tuple[int, int]) -> Student:
    """The student with all its weights and statistics, its positions resized once for images of another size.

    Bicubic without DINOv2's offset, the class token's position kept (DUNE's rule between its stages).

    Args:
      student: of the earlier stage.
      image_size: (height, width) of the later one.

    Raises:
      UserError: the image is no whole number of patches.
    """
    encoder = student.config.encoder
    check_size(image_size, encoder.patch)
    config = dataclasses.replace(student.config, encoder=dataclasses.replace(encoder, image_size=tuple(image_size)))
    state = dict(nnx.to_flat_state(nnx.state(student)))
    place = "encoder", "position_embedding"
    positions = resize.resize_positions(
        state[place].get_value(), encoder.grid, config.encoder.grid, prefix=1, antialias=False
    )
    state[place] = state[place].replace(positions)
    new = nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0)))
    nnx.update(new, nnx.from_flat_state(state))
    return new
