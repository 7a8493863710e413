import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.methods.dune.start import at_size
from sak_jax.methods.dune.student import Followed, Student, StudentConfig, encoder_config
from tests.methods.dune.cases import deviations, reference
from tests.nn.filling import filled
from tests.reference.formula_weights import formula_weight


@pytest.fixture(scope="module")
def student():
    config = StudentConfig(encoder_config("tiny", (336, 336)), (Followed("a", 16),))
    return filled(lambda: Student(config, rngs=nnx.Rngs(0)))


def test_the_second_stage_starts_from_all_of_the_first(student):
    # The reference's table is four channels wide: the student's first four.
    table = formula_weight("encoder.pos_embed", (1, 577, 4))
    positions = student.encoder.position_embedding
    positions[...] = positions[...].at[..., :4].set(table)
    new = at_size(student, (448, 448))
    assert new.config.encoder.grid == (32, 32)
    found = new.encoder.position_embedding[...]
    assert found.shape == (1, 1025, 192)
    assert deviations(found[..., :4], reference("dune_positions")["plain/24_to_32"]) < 3e-5
    np.testing.assert_array_equal(found[:, 0], positions[:, 0])
    before, after = (dict(nnx.to_flat_state(nnx.state(model))) for model in (student, new))
    assert before.keys() == after.keys()
    for path in before.keys() - {("encoder", "position_embedding")}:
        np.testing.assert_array_equal(before[path].get_value(), after[path].get_value())
    assert jax.jit(lambda model, x: model(x))(new, jnp.ones((1, 28, 28, 3)))["a"]["patch"].shape == (1, 4, 16)


def test_a_size_of_broken_patches_is_refused(student):
    with pytest.raises(UserError, match="450 x 448 pixels"):
        at_size(student, (450, 448))
