import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sak_jax import recipe
from sak_jax.benchmark import ablations, processes, published, work
from sak_jax.errors import UserError
from sak_jax.methods.sak import routers
from sak_jax.methods.sak.student import Student
from sak_jax.nn import activations, heads, layers, resize
from tests import runs
from tests.methods.sak.test_student import IMAGES, make
from tools import benchmark


@pytest.fixture(scope="module")
def config():
    return recipe.load(str(runs.TINY), ["--config.batch_size=2"])


def test_what_can_be_timed(config):
    assert work.names(config) == ("forward", "inference", "student", "distill", "multitask")


def test_a_student_without_its_teachers_needs_less_than_the_stage(config):
    needed = {name: work.needed(config, name) for name in ("student", "distill", "multitask")}
    # Four blocks of 12 kernels' worth of 16 x 16, for 13 tokens of 2 images, forward and backward: as a least.
    assert 3 * 2 * 4 * 12 * 16 * 16 * 13 * 2 < needed["student"] < needed["multitask"]
    config = config.copy_and_resolve_references()
    config.model.remat = "full"
    assert work.needed(config, "student") == needed["student"]  # What is computed twice counts once.


@pytest.mark.parametrize("name", ["inference", "student"])
def test_it_runs_as_often_as_it_is_told(config, name):
    prepared = work.prepare(config, name)
    assert prepared.seconds(2) > 0 and prepared.flops > 0 and prepared.program_bytes > 0


def test_a_student_s_step_in_parts(config):
    config = config.copy_and_resolve_references()
    config.multitask.accumulate = 2
    assert work.prepare(config, "student").seconds(1) > 0


def test_inference_needs_no_aligned_features(config):
    assert work.prepare(config, "inference").flops <= work.prepare(config, "forward").flops


def test_the_matrix_rate_is_that_of_a_machine():
    assert 1e8 < work.matrix_rate("float32", 256) < 1e16


@pytest.fixture
def restored(monkeypatch):
    """Whatever an ablation replaces is there again after the test."""
    for module in list(sys.modules.values()):
        if getattr(module, "exact_gelu", None) is activations.exact_gelu:
            monkeypatch.setattr(module, "exact_gelu", module.exact_gelu)
    monkeypatch.setitem(activations.ACTIVATIONS, "gelu", activations.ACTIVATIONS["gelu"])
    for owner, name in (
        (routers, "mix"), (heads.FusedUpsampleConv, "__call__"), (layers.Linear, "__call__"),
        (resize, "resize_bilinear"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, getattr(owner, name))


@pytest.mark.parametrize("name", ["gelu", "mixing", "heads", "flat_tokens", "resizing"])
def test_without_an_optimisation_the_numbers_are_the_same(name, restored):
    forward = lambda student, images: tuple(student(images).predictions.values())  # noqa: E731
    with_it, student = jax.make_jaxpr(forward)(make(), IMAGES), make()
    expected = jax.jit(forward)(student, IMAGES)
    ablations.ABLATIONS[name](None)
    again = lambda student, images: forward(student, images)  # noqa: E731
    assert str(jax.make_jaxpr(again)(make(), IMAGES)) != str(with_it)
    for x, y in zip(jax.jit(again)(make(), IMAGES), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * float(jnp.std(y)))


def test_every_optimisation_can_be_switched_off(config):
    assert set(benchmark.WITHOUT) == set(ablations.ABLATIONS)
    for name, key in (("attention", "model.attention"), ("remat", "model.remat"), ("precision", "dtype")):
        changed = config.copy_and_resolve_references()
        ablations.ABLATIONS[name](changed)
        values = recipe.ordered(changed), recipe.ordered(config)
        section, _, last = key.rpartition(".")
        rows = [value[section] if section else value for value in values]
        assert rows[0][last] != rows[1][last] or name == "precision"
    assert isinstance(make(), Student)


def test_what_the_published_code_lacks_is_said():
    with pytest.raises(UserError, match="models/mt_distiller.py"):
        published.Published("nowhere", "forward", data="nyud", stem="base", teachers={}, aligned=False, batch=1)


def test_who_fails_says_why(config):
    with processes.Contestant(processes.ours, (recipe.ordered(config), "stuednt", 2)) as contestant:
        with pytest.raises(UserError, match="StopIteration"):
            contestant.ask("ready")
