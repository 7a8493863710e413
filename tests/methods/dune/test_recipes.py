"""The recipes of DUNE: what they ask for, and what is refused before anything is loaded."""

import logging

import pytest
from PIL import Image

from sak_jax import recipe
from sak_jax.errors import UserError
from sak_jax.methods.distillation import dropping, images, keys, statistics
from sak_jax.methods.dune import build, method
from tests import runs

TINY = str(runs.ROOT / "tests/recipes/tiny_dune.py")


def load(name, *overrides):
    return recipe.load(str(runs.ROOT / "configs" / name), overrides)


def test_stages_are_as_published():
    first, second = load("dune.py"), load("dune.py:stem=base,stage=448")
    assert (first.distill.steps, second.distill.steps) == (125_114, 62_558)
    assert first.distill.warmup_steps == 25_022 and first.distill.lr == pytest.approx(1.2e-3)
    assert second.distill.lr == pytest.approx(2e-4) and second.image_size == (448, 448)
    assert load("dune.py:batch=512").distill.steps == 250_228
    settings = build.student_config(second)
    assert settings.encoder.grid == (32, 32) and settings.encoder.registers == 4
    assert [(t.name, t.width, t.tokens) for t in settings.teachers] == [
        ("dino2reg_vitlarge_14", 1024, ("cls", "patch")),
        ("mast3r_vitlarge_16", 1024, ("patch",)),
        ("multihmr_vitlarge_14_672", 1024, ("patch",)),
    ]
    assert len(first.distill.mix.sets) == 19 and keys.groups(first) == ("dinov2", "mast3r", "multihmr")
    recipe.check(first, 8)
    for text in ("stage=224", "batch=many", "stem=enormous"):
        with pytest.raises(UserError):
            recipe.check(load(f"dune.py:{text}"), 1)


@pytest.mark.parametrize("data", ["nyud", "pascal_context"])
def test_heads_on_the_encoder(data):
    config = load(f"dune_multitask.py:data={data}")
    recipe.check(config, 1)
    assert config.model.freeze == "stem" and build.encoder(config).patch == 14
    config.init_from = ""
    with pytest.raises(UserError, match="init_from"):
        recipe.check(config, 1)


@pytest.mark.parametrize(
    "text",
    ["projector=ladder", "projector=mlp,encoder=frozen", "assignment=own", "assignment=own+generic", "dropping=none",
     "standardise=phi_s,start=scratch", "standardise=running"],
)  # fmt: skip
def test_arms_of_the_rooms(text):
    config = load(f"rooms_dune.py:{text}")
    recipe.check(config, 8)
    assert (
        config.image_size == load("rooms.py").image_size and config.multitask.steps == load("rooms.py").multitask.steps
    )


def test_sets_that_are_not_there_are_left_out_and_told(tmp_path, caplog):
    (tmp_path / "bedlam/a").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "bedlam/a/1.png")
    overrides = [f"--config.distill.mix.sets.{name}.root={tmp_path / name}" for name in ("bedlam", "in19k")]
    config = load("dune.py", *overrides)
    with caplog.at_level(logging.WARNING):
        opened = images.open_sets(keys.mix(config), (336, 336), leave_out=True)
    assert list(opened) == ["bedlam"] and len(opened["bedlam"]) == 1
    assert "18 of 19 data sets are left out" in caplog.text and "in19k" in caplog.text
    with pytest.raises(UserError, match="none of the folders is there"):
        images.open_sets(keys.mix(load("dune.py")), (336, 336), leave_out=True)
    with pytest.raises(UserError, match="ARKitScenesV2|in19k"):
        images.open_sets(keys.mix(load("dune.py")), (336, 336), leave_out=False)


def test_roots_may_differ_when_a_run_goes_on_and_sets_may_not():
    config = load("dune.py")
    recipe.incompatible(recipe.plain(load("dune.py", "--config.distill.mix.sets.agora.root=/elsewhere")), config, "run")
    with pytest.raises(UserError, match="mix.sets.agora.group"):
        recipe.incompatible(recipe.plain(load("dune.py", "--config.distill.mix.sets.agora.group=x")), config, "run")


def tiny(change):
    config = recipe.load(TINY)
    with config.unlocked():
        change(config)
    return config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.distill.update(dropping="lowest"), "distill.dropping is 'lowest'"),
        (lambda c: c.distill.update(standardise="mean"), "distill.standardise is 'mean'"),
        (lambda c: c.teachers.scene.update(tokens=()), "teachers.scene.tokens is empty"),
        (lambda c: c.teachers.geometry.update(tokens=("cls",)), "rooms_geometry does not"),
        (lambda c: (c.distill.update(dropping="own"), c.teachers.scene.update(group="day")), "scene: 'day' is none of"),
        (
            lambda c: (c.distill.update(dropping="own"), c.teachers.geometry.update(group="plain")),
            "no teacher.*'night'",
        ),
        (lambda c: c.distill.update(dropping="own+generic", generic=("day",)), "generic: 'day'"),
        (lambda c: c.distill.mix.sets.rooms.update(group=""), "mix.sets.rooms must have"),
        (lambda c: c.distill.mix.sets.rooms.update(name="attic"), "'attic' is unknown"),
        (lambda c: c.distill.mix.sets.rooms.update(look="odd"), "mix.sets.rooms.look is 'odd'"),
        (lambda c: c.distill.mix.sets.rooms.update(lenght=3), "mix.sets.rooms.lenght"),
        (lambda c: c.update(batch_size=1), "batch_size"),
        (lambda c: c.distill.update(warmup_steps=6), "warmup_steps"),
        (lambda c: c.model.update(depth=6), "depth 6 must be a multiple of 4"),
        (lambda c: c.update(image_size=(24, 30)), "24 x 30"),
    ],
)
def test_what_cannot_run_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        recipe.check(tiny(change), 1)


def test_kinds_in_recipes_are_those_that_are_computed():
    assert statistics.KINDS == keys.STANDARDISE and dropping.METHODS == keys.DROPPING
    assert recipe.base("sak").distill.standardise == "none" and recipe.base("sak").distill.dropping == "none"


def test_sak_takes_the_shared_options():
    config = load("rooms.py")
    config.distill.standardise, config.distill.dropping = "batch", "lowest_loss"
    recipe.check(config, 1)
    with config.unlocked():
        config.distill.mix.sets = {"a": {"name": "rooms", "group": "a", "train_length": 8}}
    recipe.check(config, 1)
    config.distill.dropping = "own"
    with config.unlocked():
        for name in ("scene", "regions", "geometry"):
            config.teachers[name].group = "a"
    with pytest.raises(UserError, match="labelled images have not"):
        recipe.check(config, 1)
    config.multitask.alpha = 0.0
    recipe.check(config, 1)


@pytest.mark.parametrize("read", ["levels", "dinov2"])
def test_how_heads_are_computed_is_no_part_of_what_they_are(read):
    config = recipe.load(f"configs/dune_multitask.py:read={read}")
    before = method.architecture(config, "multitask")
    config.dtype, config.model.remat, config.model.attention = "bfloat16", "none", "xla"
    assert method.architecture(config, "multitask") == before
