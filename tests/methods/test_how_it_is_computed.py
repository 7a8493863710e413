"""`model.attention` and `model.remat` reach every transformer that a stage runs, the student's and the teachers'."""

from functools import partial

import jax
import pytest

from sak_jax import methods, recipe
from sak_jax.benchmark import work
from sak_jax.engine import mesh as meshes
from sak_jax.engine import state as states
from sak_jax.engine.step import train_step
from sak_jax.nn import vit
from tests import runs

RECIPES = ("tests/recipes/tiny.py", "tests/recipes/tiny_dune.py", "configs/nyud.py:method=finetuned-dinov2_small")


def plans(config):
    for stage in methods.get(config.method).stages(config):
        yield states.plan(stage, meshes.make_mesh(1, 1, jax.devices()[:1]))


@pytest.mark.parametrize("attention", ["xla", "looped"])
@pytest.mark.parametrize("name", RECIPES)
def test_attention_reaches_all(name, attention, monkeypatch):
    config = recipe.load(str(runs.ROOT / name))
    config.model.attention = attention
    asked, ours = [], vit.attention

    def spy(query, key, value, *, implementation="auto", **options):
        asked.append(implementation)
        return ours(query, key, value, implementation=implementation, **options)

    monkeypatch.setattr(vit, "attention", spy)
    for plan in plans(config):
        jax.eval_shape(partial(train_step, plan.stage, plan.model), plan.state, plan.frozen, plan.batch)
    assert set(asked) == {attention}


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_recomputed_is_what_the_recipe_says(name):
    counts = []
    for remat in ("none", "full"):
        config = recipe.load(str(runs.ROOT / name))
        config.model.remat = remat
        counts.append([plan.flops() for plan in plans(config)])
        assert [work.needed(config, plan.stage.name) for plan in plans(config)] == counts[0]
    assert all(none < full for none, full in zip(*counts, strict=True))
