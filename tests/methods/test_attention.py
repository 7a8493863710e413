"""`model.attention` reaches every transformer that a stage runs, the student's and the teachers'."""

from functools import partial

import jax
import pytest

from sak_jax import methods, recipe
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.engine.step import train_step
from sak_jax.nn import vit
from tests import runs


@pytest.mark.parametrize("attention", ["xla", "looped"])
@pytest.mark.parametrize("name", ["tiny.py", "tiny_dune.py"])
def test_the_key_reaches_all(name, attention, monkeypatch):
    config = recipe.load(str(runs.ROOT / "tests/recipes" / name))
    config.model.attention = attention
    asked, ours = [], vit.attention

    def spy(query, key, value, *, implementation="auto", **options):
        asked.append(implementation)
        return ours(query, key, value, implementation=implementation, **options)

    monkeypatch.setattr(vit, "attention", spy)
    for stage in methods.get(config.method).stages(config):
        plan = states.plan(stage, meshes.make_mesh(-1, 1))
        jax.eval_shape(partial(train_step, stage, plan.model), plan.state, plan.frozen, plan.batch)
    assert set(asked) == {attention}
