"""Every stage's step and evaluation, traced under the strict promotion of dtypes that all tests run under."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from sak_jax import methods, recipe
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.engine.evaluate import eval_step
from sak_jax.engine.step import train_step
from tests import runs

DUNE = str(runs.ROOT / "tests/recipes/tiny_dune.py")
ROOMS = str(runs.ROOT / "configs/rooms.py")
PARTS = {"model.lora.rank": 2, "distill.accumulate": 2, "multitask.accumulate": 2}


def test_a_promotion_that_nobody_asked_for_is_an_error():
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones(3, jnp.bfloat16) * jnp.ones(3, jnp.float32)
    with pytest.raises(jax.dtypes.TypePromotionError):
        0.5 * jnp.ones(3, jnp.int32)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (ROOMS, {"dtype": "float32"}),
        (ROOMS, {"dtype": "bfloat16"}),
        (runs.TINY, {"dtype": "float32"} | PARTS),
        (runs.TINY, {"dtype": "bfloat16"} | PARTS),
        (runs.TINY, {"distill.standardise": "running", "distill.dropping": "lowest_loss"}),
        (DUNE, {"dtype": "float32"}),
        (DUNE, {"dtype": "bfloat16", "distill.standardise": "phi_s", "distill.dropping": "own+generic"}),
        (f"{runs.TINY}:method=finetuned-rooms_scene", {"dtype": "bfloat16"}),
    ],
    ids=[
        "rooms", "rooms-bfloat16", "parts", "parts-bfloat16", "standardised", "dune", "dune-bfloat16", "foundation"
    ],
)  # fmt: skip
def test_no_step_promotes_dtypes_by_itself(config, changes):
    config = recipe.load(config)
    config.update_from_flattened_dict(changes)
    for stage in methods.get(config.method).stages(config):
        plan = states.plan(stage, meshes.make_mesh(-1, 1))
        step = partial(train_step, stage, plan.model)
        state, _ = jax.eval_shape(step, plan.state, plan.frozen, plan.batch)
        assert {x.dtype for x in jax.tree.leaves((state.params, state.stats))} <= {
            x.dtype for x in jax.tree.leaves((plan.state.params, plan.state.stats))
        }
        if stage.evaluation is not None:
            batch = plan.batch | {"mask": jax.ShapeDtypeStruct((config.batch_size,), jnp.bool_)}
            jax.eval_shape(partial(eval_step, stage.evaluation(), plan.model), plan.state.model, batch)
