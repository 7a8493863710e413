"""DUNE from the command line: distillation, heads on the encoder, resuming, eight devices."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx

import sak_jax
from sak_jax import recipe
from sak_jax.engine import checkpoints
from sak_jax.errors import UserError
from sak_jax.methods.dune import build, start
from sak_jax.methods.dune.student import Student
from sak_jax.nn import resize
from tests import runs

RECIPE = str(runs.ROOT / "tests/recipes/tiny_dune.py")
LOADED = ("encoder", "projectors", "statistics", "mask_token")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("dune")
    done = runs.run(f"--workdir={workdir}", config=RECIPE)
    assert done.returncode == 0, done.stderr
    return workdir


def stage(workdir, name, step):
    return runs.parameters(workdir / "checkpoints" / name / str(step))


def test_it_goes_from_teachers_in_groups_to_a_table(run):
    first = [line["values"] for line in runs.lines(run, "distill")]
    assert [line["distill"] for line in first] == [line["total"] for line in first] and len(first) == 6
    losses = [line["total"] for line in first]
    assert np.mean(losses[2:]) < np.mean(losses[:2])  # The rate of the first step is zero.
    for line in first:
        kept = [line["kept/geometry"], line["kept/scene"]]
        assert all(share * 8 == round(share * 8) for share in kept)  # Of eight images,
        assert sum(kept) >= 1  # each of which teaches with one teacher at least.
    assert json.loads((run / "results.json").read_text())["metrics"]["depth/RMSE"] > 0
    assert (run / "report/index.html").exists()


def test_statistics_move_and_what_is_not_trained_stays(run):
    arrays = stage(run, "distill", 6)
    assert {name.split("/")[0] for name in arrays} == set(LOADED)
    for part in ("scene/cls", "scene/patch", "geometry/patch"):
        assert arrays[f"statistics/{part}/mean"].any() and (arrays[f"statistics/{part}/std"] != 1).all()
    assert not arrays["mask_token"].any()
    assert (arrays["encoder/norm/scale"] == 1).all() and not arrays["encoder/norm/bias"].any()


def test_the_encoder_is_handed_over_to_the_heads(run):
    distilled, final = stage(run, "distill", 6), stage(run, "multitask", 3)
    kernel = "encoder/blocks/mlp/up/kernel"
    assert np.abs(final[kernel] - distilled[kernel]).max() < 0.01  # Three steps away; fresh ones are 0.02 apart.
    assert np.corrcoef(final[kernel].ravel(), distilled[kernel].ravel())[0, 1] > 0.9
    outputs = sak_jax.load(run)(np.zeros((1, 24, 32, 3), np.float32))
    assert outputs.predictions["semseg"].shape == (1, 24, 32, 14) and outputs.aligned == {}


def test_a_distilled_student_gives_each_teachers_features_at_any_size(run):
    student = sak_jax.load(run / "checkpoints/distill/6")
    images = jax.random.normal(jax.random.key(0), (2, 32, 48, 3))
    predicted = student(images)
    assert predicted["scene"]["cls"].shape == (2, 128) and predicted["geometry"]["patch"].shape == (2, 24, 144)
    features = student.student.features(images, "geometry")
    own = stage(run, "distill", 6)
    mean, std = (own[f"statistics/geometry/patch/{key}"] for key in ("mean", "std"))
    expected = np.asarray(predicted["geometry"]["patch"]) * np.maximum(std, 1e-3) + mean
    np.testing.assert_allclose(features["map"].reshape(2, 24, 144), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="multiples of the patch 8"):
        student(images[:, :30])
    assert student.tasks == ()


def test_it_resumes_bit_for_bit_with_its_statistics(run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(run, again)
    # As if it had been killed after the first checkpoint.
    shutil.rmtree(again / "checkpoints/distill/6")
    shutil.rmtree(again / "checkpoints/multitask")
    done = runs.run(f"--workdir={again}", config=RECIPE)
    assert done.returncode == 0 and "distill resumes at step 3" in done.stderr, done.stderr
    for name, step in (("distill", 6), ("multitask", 3)):
        found, expected = stage(again, name, step), stage(run, name, step)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=f"{name} {key}")


@pytest.mark.parametrize("hosts", [1, 2])
def test_eight_devices_compute_what_one_does(run, tmp_path, hosts):
    """On one host, and on two with four each."""
    flags = f"--xla_force_host_platform_device_count={8 // hosts}"
    places = [{}] if hosts == 1 else runs.environments()
    started = [
        runs.start(f"--workdir={tmp_path}", config=f"{RECIPE}:multitask=no", env=env | {"XLA_FLAGS": flags})
        for env in places
    ]
    runs.ended(started, 0)
    found, expected = ([line["values"] for line in runs.lines(workdir, "distill")] for workdir in (tmp_path, run))
    for mine, theirs in zip(found, expected, strict=True):
        kept = [key for key in theirs if key.startswith("kept/")]
        assert [mine[key] for key in kept] == [theirs[key] for key in kept]
    # The first two steps have the same weights, as the rate starts from 0; then Adam makes steps of rounding.
    for mine, theirs in zip(found[:2], expected[:2], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    # Statistics follow from the images alone: those of each device's one image would be far from these.
    mine, theirs = stage(tmp_path, "distill", 6), stage(run, "distill", 6)
    for key in theirs:
        if key.startswith("statistics/"):
            np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-5, atol=1e-6, err_msg=key)


def config_of(run, **changes):
    config = recipe.load(RECIPE)
    config.init_from = str(run / "checkpoints/distill/6")
    for key, value in changes.items():
        config[key] = value
    return config


def test_a_second_stage_starts_from_all_of_the_first_at_another_size(run):
    first = stage(run, "distill", 6)
    found = start.distillation(config_of(run, image_size=(32, 48)))
    assert {"/".join(path) for path in found.weights} == set(first)
    for path, value in found.weights.items():
        if path == start.POSITIONS:
            assert value.shape == (1, 1 + 24, 16)
            expected = resize.resize_positions(first["/".join(path)], (3, 4), (4, 6), prefix=1, antialias=False)
            np.testing.assert_allclose(value, expected, atol=1e-6)
        else:
            np.testing.assert_array_equal(value, first["/".join(path)])


def test_heads_start_from_a_distilled_encoder_at_another_size(run):
    first = stage(run, "distill", 6)
    found = start.multitask(config_of(run, image_size=(32, 48)), None).weights
    assert {path[0] for path in found} == {"encoder"}
    expected = resize.resize_positions(
        first["encoder/position_embedding"], (3, 4), (4, 6), prefix=1, antialias=False, offset=0.1
    )
    np.testing.assert_allclose(found[start.POSITIONS], expected, atol=1e-6)


def test_a_start_that_is_another_student_is_refused(run):
    config = config_of(run)
    config.model.depth = 8
    with pytest.raises(UserError, match="encoder.depth is 4 there and 8 here"):
        start.distillation(config)
    with pytest.raises(UserError, match="depth is 4 there and 8 here"):
        start.multitask(config, None)
    config = config_of(run)
    config.distill.standardise = "none"
    with pytest.raises(UserError, match="standardise is 'batch' there and 'none' here"):
        start.distillation(config)
    with pytest.raises(UserError, match="has no projectors"):
        start.distillation(config_of(run, init_from=str(run)))
    with pytest.raises(UserError, match="nowhere.*is missing"):
        start.distillation(config_of(run, init_from="nowhere"))


def test_heads_read_after_a_teachers_projector(run, tmp_path):
    first = stage(run, "distill", 6)
    done = runs.run(
        f"--workdir={tmp_path / 'run'}",
        f"--config.init_from={run / 'checkpoints/distill/6'}",
        "--config.distill.steps=0",
        "--config.model.read_after=geometry",
        "--config.model.freeze=stem",
        config=RECIPE,
    )
    assert done.returncode == 0, done.stderr
    final = stage(tmp_path / "run", "multitask", 3)
    for key in ("encoder/blocks/mlp/up/kernel", "projectors/geometry/output/kernel"):
        np.testing.assert_array_equal(final[f"encoder/{key}"], first[key])
    assert not any(name.startswith("encoder/projectors/scene") for name in final)
    assert final["heads/trunk/reduce/kernel"].shape == (2, 1, 144, 144)  # Two tasks; one level, of the teacher's width.
    # What the heads get is what the distilled student says of this teacher, before it is de-normalised.
    images = jax.random.normal(jax.random.key(0), (2, 32, 48, 3))
    predicted = sak_jax.load(run / "checkpoints/distill/6")(images)["geometry"]["patch"]
    student = sak_jax.load(tmp_path / "run")
    (found,) = student.student.encoder(images)
    np.testing.assert_allclose(found.reshape(2, 24, 144), predicted, rtol=1e-5, atol=1e-5)
    assert student(images).predictions["depth"].shape == (2, 32, 48, 1)
    # A picture larger than the images it was trained on is seen whole, padded to whole patches.
    prediction = student.predict(np.zeros((35, 50, 3), np.uint8))
    assert prediction["depth"].raw.shape == (35, 50, 1) and len(prediction.layout.places) == 1
    with pytest.raises(UserError, match="multiples of the patch 8"):
        student(images[:, :30])
    # Such a run is a start as well: of the same heads' encoder, or of the encoder alone.
    config = config_of(run, init_from=str(tmp_path / "run"))
    alone = start.multitask(config, None).weights
    config.model.read_after = "geometry"
    both = start.multitask(config, None).weights
    assert {("encoder", *path) for path in alone} == {path for path in both if path[1] == "encoder"}
    assert ("encoder", "projectors", "geometry", "output", "kernel") in both


def test_reading_after_a_projector_that_is_not_there_is_refused(run, tmp_path):
    config = config_of(run, init_from=str(run))
    config.model.read_after = "geometry"
    with pytest.raises(UserError, match="has no projectors to read after"):
        start.multitask(config, None)
    config = config_of(run)
    config.model.read_after = "nobody"
    with pytest.raises(UserError, match="read_after='nobody': the recipe follows the patches of geometry, scene"):
        start.multitask(config, None)
    config.model.read_after, config.model.projector = "geometry", "mlp"
    with pytest.raises(UserError, match="projector is 'transformer' there and 'mlp' here"):
        start.multitask(config, None)


def test_a_checkpoint_says_what_its_student_is(run):
    saved, name, arrays = checkpoints.load(run / "checkpoints/distill/6")
    settings = build.student_config(recipe.from_dict(saved))
    student = nnx.eval_shape(lambda: Student(settings, rngs=nnx.Rngs(0)))
    nnx.update(student, arrays)
    assert name == "distill" and settings.encoder.registers == 2
