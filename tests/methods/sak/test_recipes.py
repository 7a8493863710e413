"""The recipes of the published benchmarks: what they build, and whole runs on rooms written in the original layouts."""

import io
import json
import tarfile

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sak_jax
from sak_jax import predict, recipe
from sak_jax.data import prepare
from sak_jax.data.rooms import layouts
from sak_jax.data.rooms import source as rooms
from sak_jax.errors import UserError
from sak_jax.methods.sak import build, method
from sak_jax.methods.sak.keys import selected_teachers
from sak_jax.teachers import registry
from tests import runs

PAIRS = [(stem, teachers) for stem in ("small", "base", "large") for teachers in ("base", "large")]
WIDTHS = {"small": 384, "base": 768, "large": 1024}


def configuration(name, text=""):
    return recipe.load(f"{runs.ROOT}/configs/{name}.py:{text}")


def abstract_student(config):
    return predict.abstract_student(config, "multitask" if config.multitask.steps else "distill")


def parameters(student):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(student, nnx.Param)))


# --- what recipes build -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem, teachers", PAIRS)
def test_shapes_of_every_pair_of_stem_and_teachers(stem, teachers):
    config = configuration("nyud", f"stem={stem},teachers={teachers}")
    recipe.check(config, devices=2)
    student = abstract_student(config)
    images = jax.ShapeDtypeStruct((2, *config.image_size, 3), jnp.float32)
    outputs = jax.eval_shape(lambda student, images: student(images), student, images)
    channels = {"semseg": 40, "normals": 3, "edge": 1, "depth": 1}
    assert {name: x.shape for name, x in outputs.predictions.items()} == {
        name: (2, 448, 576, count) for name, count in channels.items()
    }
    features = [(2, 28, 36, WIDTHS[teachers])] * 4
    assert {name: [x.shape for x in maps] for name, maps in outputs.aligned.items()} == dict.fromkeys(
        ("dinov2", "clip", "sam"), features
    )
    assert set(student.aligners) == (set() if stem == teachers else {"dinov2", "clip", "sam"})
    assert all(x.shape == (2, 4, 4) for x in outputs.routing.values())


def test_the_base_student_is_as_large_as_the_published_one():
    assert parameters(abstract_student(configuration("nyud"))) / 1e6 == pytest.approx(126.40, abs=0.005)


@pytest.mark.parametrize(
    "name, tasks", [("pascal_context", ["semseg", "human_parts", "normals", "edge", "sal"]), ("imagenet", [])]
)
def test_tasks_of_the_other_recipes(name, tasks):
    config = configuration(name, "stem=small,teachers=large")
    recipe.check(config, devices=4)
    student = abstract_student(config)
    assert [name for name, _ in student.config.tasks] == tasks
    assert dict(student.config.teachers) == dict.fromkeys(("dinov2", "clip", "sam"), 1024)


def test_stage_one_is_thirty_epochs_with_two_of_warm_up():
    config = configuration("imagenet")
    assert config.distill.steps * config.batch_size == pytest.approx(30 * 1_281_167, rel=1e-4)
    rate = method.stages(config)[0].schedule
    epoch = config.distill.steps // 30
    assert [float(rate(step)) for step in (0, 2 * epoch, 30 * epoch)] == pytest.approx([1.25e-7, 1e-3, 1e-5], rel=1e-3)


def test_presets_differ_in_the_committee_and_what_it_sees():
    paper, frontier = (configuration("nyud", f"preset={preset}") for preset in ("paper", "frontier"))
    published = {"normalisation": "imagenet", "pad": True, "crop": False}
    assert selected_teachers(paper) == {
        name: {"model": f"{name}_base", **published} for name in ("dinov2", "clip", "sam")
    }
    assert list(selected_teachers(frontier)) == ["dinov3", "clip", "sam"]
    assert frontier.teachers.clip.normalisation == "native" and frontier.teachers.sam.crop


def test_a_teachers_options_reach_it(monkeypatch):
    config = configuration("nyud", "committee=rooms_geometry+rooms_scene,preset=frontier")
    config.image_size, config.teachers.rooms_scene.crop = (72, 96), False
    seen = {}
    view_of = registry.view_of
    monkeypatch.setattr(
        registry,
        "view_of",
        lambda teacher, **options: seen.update({teacher.name: options}) or view_of(teacher, **options),
    )
    committee = build.committee(config)
    assert set(committee.abstract["teachers"]) == {"rooms_geometry", "rooms_scene"}
    assert [seen[name]["crop"] for name in ("rooms_geometry", "rooms_scene")] == [True, False]
    assert seen["rooms_scene"]["normalisation"] == "native"


@pytest.mark.parametrize(
    "text, words",
    [
        ("preset=papre", "preset=papre"),
        ("stem=huge", "stem=huge"),
        ("teacher=base", "stem, teachers, preset, committee, method"),
        ("method=single-sal", "single-depth"),
        ("method=frozen", "frozen-MODEL"),
    ],
)
def test_mistaken_arguments(text, words):
    with pytest.raises(UserError, match=words):
        configuration("nyud", text)


def test_unknown_options_of_a_teacher():
    with pytest.raises(UserError, match="no key 'teachers.sam.corp'.*crop"):
        recipe.load(f"{runs.ROOT}/configs/nyud.py", ["--config.teachers.sam.corp=True"])


@pytest.mark.parametrize(
    "model, grid",
    [("dinov2_large", (32, 41)), ("dinov3_base", (28, 36)), ("sam_base", (64, 64)), ("radio_large", (28, 36))],
)
def test_a_foundation_model_as_encoder(model, grid):
    config = configuration("nyud", f"method=finetuned-{model}")
    recipe.check(config, 1)
    student = abstract_student(config)
    images = jax.ShapeDtypeStruct((1, *config.image_size, 3), jnp.float32)
    seen = jax.eval_shape(lambda student, images: student.encoder(student.view(images)), student, images)
    assert [x.shape for x in seen] == [(1, *grid, registry.width(model))] * 4
    outputs = jax.eval_shape(lambda student, images: student(images), student, images)
    assert outputs.predictions["semseg"].shape == (1, 448, 576, 40)
    assert configuration("nyud", f"method=frozen-{model}").model.freeze == "stem" and config.model.freeze == "none"


def test_an_encoder_sees_what_its_preset_says():
    config = configuration("nyud", "method=frozen-sam_base,preset=frontier")
    view = abstract_student(config).view
    assert view.crop and view.mean == registry.get("sam_base").normalisation[0]


@pytest.mark.parametrize("override", ["init_from=runs/x", "distill.steps=3", "model.trunk=shared", "model.stem=tiny"])
def test_what_does_not_go_with_an_encoder_is_refused(override):
    with pytest.raises(UserError, match=override.partition("=")[0]):
        recipe.check(recipe.load(f"{runs.ROOT}/configs/nyud.py:method=frozen-sam_base", [f"--config.{override}"]), 1)


def test_an_unknown_encoder_is_refused():
    with pytest.raises(UserError, match="dinov2_base"):
        abstract_student(configuration("nyud", "method=frozen-dinov2_bse"))


def test_baselines_start_from_the_plain_stem():
    config = configuration("nyud", "method=single-depth")
    recipe.check(config, 1)
    assert list(config.tasks) == ["depth"] and not selected_teachers(config) and not config.init_from
    assert "B_16" in config.model.stem_init
    assert configuration("nyud", "method=multitask").published["delta_m"] == -1.72
    assert configuration("nyud").published["semseg/mIoU"] == 59.93
    assert configuration("pascal_context", "stem=large,teachers=large").baselines["edge/odsF"] == 75.24
    assert not configuration("nyud", "stem=small").published and not configuration("nyud", "committee=sam").published


def test_build_gives_a_fresh_student_of_the_recipes_last_stage():
    config = recipe.load(runs.TINY)
    student = sak_jax.build(config)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(student))
    outputs = jax.eval_shape(lambda student, images: student(images), student, jnp.zeros((1, 24, 32, 3)))
    assert {name: x.shape for name, x in outputs.predictions.items()} == {
        name: (1, 24, 32, channels) for name, channels in (("semseg", 14), ("depth", 1), ("edge", 1))
    }
    assert isinstance(outputs, sak_jax.Outputs) and set(outputs.aligned) == {"scene", "geometry"}
    config.seed, config.multitask.steps = 1, 0
    first = sak_jax.build(config)
    assert first.heads is None and not np.array_equal(first.stem.class_token[...], student.stem.class_token[...])


# --- whole runs -------------------------------------------------------------------------------------------------------

SMALL = (
    "--config.model.stem=custom", "--config.model.width=16", "--config.model.depth=4", "--config.model.heads=2",
    "--config.model.patch=16", "--config.teachers.random=True", "--config.batch_size=2", "--config.eval_batch_size=2",
    "--config.log_every=1", "--config.compilation_cache=",
)  # fmt: skip


def small_run(name, root, workdir, *options):
    """A recipe as it is but for a tiny student, one small teacher, and two steps."""
    start = "--config.model.stem_init=" if name == "imagenet" else f"--config.init_from={workdir}/missing"
    options = (f"--workdir={workdir}", f"--config.data.root={root}", start, *SMALL, *options)
    done = runs.run(*options, config=f"configs/{name}.py:committee=rooms_geometry")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def nyud(tmp_path_factory):
    root = tmp_path_factory.mktemp("nyud") / "nyud"
    layouts.write_nyud(root, 3, 2)
    return root


@pytest.fixture(scope="module")
def pascal_context(tmp_path_factory):
    root = tmp_path_factory.mktemp("pascal") / "pascal_context"
    layouts.write_pascal_context(root, 3, 3)  # The third shows a person.
    return root


METRICS = {
    "nyud": {"semseg/mIoU", "depth/RMSE", "normals/mErr", "edge/odsF"},
    "pascal_context": {"semseg/mIoU", "human_parts/mIoU", "normals/mErr", "edge/odsF", "sal/maxF"},
}


@pytest.mark.parametrize("name", METRICS)
def test_from_original_files_and_array_record_to_the_whole_table(name, request, tmp_path):
    root = request.getfixturevalue(name)
    done = small_run(name, root, tmp_path / "files", "--config.multitask.steps=2")
    results = json.loads((tmp_path / "files" / "results.json").read_text())
    assert set(results["metrics"]) == METRICS[name] | {"edge/oisF", "edge/AP"}
    assert all(np.isfinite(value) for value in results["metrics"].values())
    assert np.isfinite(results["delta_m"]) and results["teachers_random"]
    table = done.stdout.splitlines()
    assert table[0].split() == ["metric", "student", "single-task", "change"]
    assert METRICS[name] <= {line.split()[0] for line in table if line}
    assert any(line.startswith("Delta_m") and "%" in line for line in table)
    assert "starts from random weights" in done.stderr and "TEACHERS WERE RANDOM" in done.stderr

    prepare.prepare(name, root, tmp_path / "prepared")
    small_run(
        name, tmp_path / "prepared", tmp_path / "records", "--config.multitask.steps=2", "--config.boundary.workers=1"
    )
    again = json.loads((tmp_path / "records" / "results.json").read_text())
    assert again["metrics"] == results["metrics"]  # The same samples, so the same student, bit for bit.
    assert runs.lines(tmp_path / "records") == runs.lines(tmp_path / "files")


def test_imagenet_from_tar_folders_and_array_record(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, packed = tmp_path / "folder", tmp_path / "tar"
    packed.mkdir()
    scenes = rooms.Rooms("train", 4, size=(60, 80))
    for index in range(len(scenes)):
        path = folder / f"train/n{index % 2}/{index}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".jpg", scenes[index]["image"])[1].tobytes())
    with tarfile.open(packed / "train.tar", "w") as archive:
        for path in sorted(folder.glob("train/*/*")):
            info = tarfile.TarInfo(str(path.relative_to(folder)))
            info.size = path.stat().st_size
            archive.addfile(info, io.BytesIO(path.read_bytes()))
    prepare.prepare("imagenet", packed, tmp_path / "records")
    losses = {}
    for kind in ("tar", "folder", "records"):
        options = ("--config.image_size=(48, 48)", "--config.distill.steps=2", "--config.distill.warmup_steps=1")
        done = small_run("imagenet", tmp_path / kind, tmp_path / "runs" / kind, *options)
        assert "stage 1 is done" in done.stderr
        losses[kind] = [line["values"]["total"] for line in runs.lines(tmp_path / "runs" / kind, "distill")]
    assert len(losses["tar"]) == 2 and losses["folder"] == losses["tar"] == losses["records"]


# --- what is missing --------------------------------------------------------------------------------------------------


def message(done):
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_without_the_data_one_line_says_what_to_do(tmp_path):
    line = message(runs.run(f"--workdir={tmp_path / 'run'}", "--config.data.root=/no/nyud", config="configs/nyud.py"))
    for words in ("/no/nyud", "github.com/innovator-zero/SAK", "tools/prepare_data.py nyud", "configs/rooms.py"):
        assert words in line


def test_without_weights_one_line_says_what_to_do(nyud, tmp_path):
    options = (f"--workdir={tmp_path / 'run'}", f"--config.data.root={nyud}", *SMALL, "--config.teachers.random=False")
    env = {"SAK_JAX_TEACHERS": str(tmp_path / "none")}
    line = message(runs.run(*options, config="configs/nyud.py:committee=dinov2", env=env))
    assert str(tmp_path / "none") in line and "tools/convert_teacher.py dinov2_base" in line
    options += (f"--config.init_from={tmp_path / 'stage1'}",)
    line = message(runs.run(*options, config="configs/nyud.py:committee=rooms_geometry"))
    assert str(tmp_path / "stage1") in line and "init_from" in line
