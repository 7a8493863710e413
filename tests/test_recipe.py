"""What a recipe may not say, and what may differ when a run goes on."""

import json

import jax
import jax.numpy as jnp
import pytest

from sak_jax import recipe, run
from sak_jax.errors import UserError
from tests import runs


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mesh.fsdp", 0, "mesh.fsdp is 0: it must be above 0"),
        ("mesh.fsdp", -1, "mesh.fsdp is -1"),
        ("mesh.data", 0, "mesh.data is 0: it must be positive, or -1"),
        ("checkpoint.every", 0, "checkpoint.every is 0"),
        ("multitask.alpha", -1.0, "multitask.alpha is -1.0: it must be at least 0"),
        ("multitask.lr", -1.0, "multitask.lr is -1.0"),
        ("multitask.eval_every", -3, "multitask.eval_every is -3"),
        ("model.lora.rank", -1, "model.lora.rank is -1"),
        ("model.lora.targets", ("qvk",), "model.lora.targets is .*qvk.*qkv, proj, fc1, fc2"),
        ("model.down_ratio", 17, "model.down_ratio 17 must be at most the width 16"),
    ],
)
def test_values_that_cannot_run_are_refused(key, value, message):
    config = recipe.load(runs.TINY)
    recipe.check(config, 1)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        recipe.check(config, 1)


def test_a_run_goes_on_where_only_the_way_it_is_carried_out_differs(tmp_path):
    config = recipe.load(runs.TINY)
    config.distill.data = {"root": "here", "workers": 0, "train_length": 16}
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(json.loads(config.to_json())))
    config.distill.data.update({"root": "there", "workers": 4})
    config.data.update({"root": "there", "workers": 4})
    recipe.check_workdir(config, tmp_path)
    config.eval_batch_size, config.multitask.eval_every, config.model.remat = 3, 7, "full"
    config.data.on_error, config.boundary.protocol, config.boundary.workers = "skip", "invpt", 2
    config.baselines, config.published = {"depth/RMSE": 1.0}, {"depth/RMSE": 0.5}
    config.mesh.fsdp, config.log_every, config.matmul_precision = 2, 5, "highest"
    recipe.check_workdir(config, tmp_path)
    config.distill.data.train_length = 15
    with pytest.raises(UserError, match="distill.data.train_length is 16 there and 15 here"):
        recipe.check_workdir(config, tmp_path)


def test_names_and_colours_of_classes_may_come_later(tmp_path):
    config = recipe.load(runs.TINY)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(recipe.plain(config)))
    config.tasks.semseg.unlock()
    config.tasks.semseg.names = [f"class {index}" for index in range(14)]
    recipe.check_workdir(config, tmp_path)
    config.tasks.semseg.channels = 13
    with pytest.raises(UserError, match="tasks.semseg.channels is 14 there and 13 here"):
        recipe.check_workdir(config, tmp_path)


def test_a_recipe_of_an_earlier_version_is_read_and_a_foreign_one_is_told():
    kept = recipe.plain(recipe.load(runs.TINY))
    for flag, name in ((True, "full"), (False, "none")):
        kept["model"]["remat"] = flag
        assert recipe.from_dict(kept).model.remat == name and kept["model"]["remat"] is flag
    for values in (kept | {"batch_size": "many"}, kept | {"model": 3}, kept | {"image_size": 3}):
        with pytest.raises(UserError, match="none of this version"):
            recipe.from_dict(values)


def test_matrices_are_multiplied_in_the_precision_of_the_recipe(monkeypatch):
    monkeypatch.setattr(run.hosts, "join", lambda: None)
    config, before = recipe.load(runs.TINY), jax.config.jax_default_matmul_precision
    try:
        run.start_jax(config)  # The default leaves JAX as it is.
        assert jax.config.jax_default_matmul_precision == before
        config.matmul_precision = "highest"
        run.start_jax(config)
        assert "HIGHEST" in str(jax.make_jaxpr(jnp.matmul)(jnp.ones((2, 2)), jnp.ones((2, 2))))
    finally:
        jax.config.update("jax_default_matmul_precision", before)
    config.matmul_precision = "float64"
    with pytest.raises(UserError, match="matmul_precision is 'float64'"):
        recipe.check(config, 1)
