"""What a start is checked by: the teachers' models, not only their names and widths."""

import numpy as np
import pytest
from flax import nnx

from sak_jax import predict, recipe
from sak_jax.errors import UserError
from sak_jax.methods.sak import build, start
from tests import runs


def test_a_start_that_learned_from_another_model_of_the_same_name_and_width_is_refused():
    config = recipe.load(runs.TINY)
    target = build.student_config(config, "multitask")
    student = nnx.state(predict.abstract_student(config, "distill"))
    weights = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in nnx.to_flat_state(student)}
    models = {"scene": "rooms_scene", "geometry": "rooms_geometry"}
    source = start.Source("runs/first", weights, build.student_config(config, "distill"), models)
    assert start.adapt(source, target, models)
    with pytest.raises(UserError, match=r"runs/first learned its path scene from rooms_scene, and .*is rooms_regions"):
        start.adapt(source, target, models | {"scene": "rooms_regions"})
    # A published file does not say whose features it learned.
    unknown = start.Source("sak.pth", weights, source.config)
    assert start.adapt(unknown, target, models).keys() == start.adapt(source, target, models).keys()


def test_a_run_is_read_with_the_models_it_learned_from(tmp_path, monkeypatch):
    config = recipe.load(runs.TINY)
    monkeypatch.setattr(start.checkpoints, "load", lambda file: (recipe.plain(config), "distill", {}))
    other = recipe.load(runs.TINY)
    other.init_from = str(tmp_path)
    other.teachers.scene.model = "rooms_regions"
    source = start.read(str(tmp_path), other)
    assert source.models == {"scene": "rooms_scene", "geometry": "rooms_geometry"}
    with pytest.raises(UserError, match="learned its path scene from rooms_scene"):
        start.start(other, "multitask", None)
