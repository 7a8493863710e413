import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sak_jax
from sak_jax.errors import UserError
from sak_jax.methods.sak.pytorch import load_pytorch_state, pytorch_state
from sak_jax.methods.sak.student import merge_lora
from sak_jax.nn.vit import LoRA
from tests.methods.foundation.test_student import make
from tests.methods.sak.cases import CASES, NYUD, PASCAL, SHAPES, abstract_student, assert_same, student_config


@pytest.fixture(scope="module")
def tiny():
    """A stage-2 student of a size that costs nothing, and its weights under the published names."""
    config = student_config("tiny", (32, 32), NYUD, 48)
    return config, pytorch_state(random_student(config))


def random_student(config, dtype=np.float32):
    """A student of random bytes: any slip in the order of elements shows."""
    rng = np.random.default_rng(0)

    def fill(x):
        array = np.frombuffer(rng.bytes(x.size * np.dtype(dtype).itemsize), dtype).reshape(x.shape)
        return array if dtype == np.int8 else np.nan_to_num(array, nan=0.5).clip(-100, 100)

    return jax.tree.map(fill, abstract_student(config))


@pytest.mark.parametrize("case", CASES)
def test_published_names_and_shapes(case):
    student = jax.tree.map(lambda x: np.broadcast_to(np.int8(0), x.shape), abstract_student(CASES[case]))
    names = pytorch_state(student)
    assert {key: list(value.shape) for key, value in names.items()} == SHAPES[case]
    counts = [value for key, value in names.items() if key.endswith("num_batches_tracked")]
    assert len(counts) == len(CASES[case].tasks) and all(count.dtype == np.int64 and count == 0 for count in counts)


STAGES = {"nyud": NYUD, "pascal": PASCAL, "stage1": ()}
STUDENTS = [(stem, tasks, aligned) for stem in ("small", "base") for tasks in STAGES for aligned in (False, True)]
STUDENTS += [("large", "nyud", True), ("large", "pascal", False), ("large", "stage1", True)]


@pytest.mark.parametrize(("stem", "tasks", "aligned"), STUDENTS)
def test_there_and_back_is_the_identity(stem, tasks, aligned):
    # The arrays hold bytes instead of floats, which makes the memory a quarter; converting only moves elements.
    check_round_trip(student_config(stem, (64, 96), STAGES[tasks], 768 if aligned else None), np.int8)


@pytest.mark.parametrize(
    "options",
    [{"router": "none"}, {"noisy_gating": False}, {"teachers": ()}, {"lora": LoRA(4, 8.0, ("qkv", "fc1"))}],
    ids=str,
)
def test_there_and_back_with_options(options):
    config = student_config("tiny", (64, 96), NYUD)
    if lora := options.pop("lora", None):
        config = dataclasses.replace(config, stem=dataclasses.replace(config.stem, lora=lora))
    check_round_trip(dataclasses.replace(config, **options))


def check_round_trip(config, dtype=np.float32):
    original = random_student(config, dtype)
    weights = pytorch_state(original)
    student = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), abstract_student(config))
    load_pytorch_state(student, weights)
    for ours, theirs in zip(jax.tree.leaves(student), jax.tree.leaves(original), strict=True):
        assert np.asarray(ours).tobytes() == theirs.tobytes()
    del original
    assert_same(weights, pytorch_state(student))


def test_loading_fills_in_place_where_the_arrays_are(tiny):
    config, weights = tiny
    student = jax.tree.map(jnp.zeros_like, random_student(config))
    device = jax.tree.leaves(student)[0].sharding
    load_pytorch_state(student, weights)
    assert all(isinstance(leaf, jax.Array) and leaf.sharding == device for leaf in jax.tree.leaves(student))
    assert_same(weights, pytorch_state(student))


def without(weights, key):
    return {k: v for k, v in weights.items() if k != key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: without(w, "heads.edge.last_conv.bias"), ["heads.edge.last_conv.bias", "missing"]),
        (lambda w: without(w, "backbone.tsap.sam.3.scale"), ["backbone.tsap.sam.3.scale", "missing"]),
        (lambda w: w | {"backbone.vit.norm.weight": np.zeros(96, np.float32)}, ["vit.norm.weight", "no place"]),
        (lambda w: w | {"heads.edge.last_conv.bias": np.zeros(2, np.float32)}, ["heads.edge.last_conv.bias", "(2,)"]),
        (lambda w: w | {"backbone.tsap.sam.3.scale": np.zeros((), np.float32)}, ["tsap.sam.3.scale", "()"]),
        (lambda w: w | {"backbone.tsap.sam.3.scale": np.zeros(1)}, ["tsap.sam.3.scale", "float64"]),
        (lambda w: w | {"backbone.vit.pos_embed": np.zeros((1, 5, 96), np.float32)}, ["4 positions", "4 x 4"]),
        (lambda w: {k.removeprefix("backbone."): v for k, v in w.items() if "heads" not in k}, ["no tasks", "stage-1"]),
        (lambda w: {"conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, ["conv1.weight is not known", "missing"]),
    ],
)
def test_files_that_do_not_fit_are_refused_and_change_nothing(tiny, change, words):
    config, weights = tiny
    student = jax.tree.map(jnp.zeros_like, random_student(config))
    with pytest.raises(UserError) as error:
        load_pytorch_state(student, change(weights), name="sak.pth")
    message = str(error.value)
    assert all(word in message for word in ["sak.pth", *words]) and "\n" not in message, message
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(student))


def test_a_stage_2_file_is_refused_by_a_stage_1_student(tiny):
    config, weights = tiny
    student = abstract_student(dataclasses.replace(config, tasks=()))
    with pytest.raises(UserError, match="recipe with tasks"):
        load_pytorch_state(student, weights)


def test_aligners_that_the_student_lacks_are_refused(tiny):
    config, weights = tiny
    with pytest.raises(UserError, match="ts_aligners"):
        load_pytorch_state(abstract_student(dataclasses.replace(config, aligners=())), weights)


def test_positions_of_another_grid_are_left_to_the_hand_over(tiny):
    config, weights = tiny
    stem = dataclasses.replace(config.stem, image_size=(48, 64))
    with pytest.raises(UserError, match="16 positions.*6 x 8 grid 48.*init_from"):
        load_pytorch_state(abstract_student(dataclasses.replace(config, stem=stem)), weights)


@pytest.fixture(scope="module")
def low_rank():
    lora = LoRA(4, 8.0, ("qkv", "proj"))
    config = student_config("tiny", (32, 32), (), 48)
    config = dataclasses.replace(config, stem=dataclasses.replace(config.stem, lora=lora))
    rng = np.random.default_rng(1)
    student = abstract_student(config)
    student = jax.tree.map(lambda x: jnp.asarray(0.1 * rng.standard_normal(x.shape, np.float32)), student)
    return config, student


def test_low_rank_weights_are_named_as_peft_names_them(low_rank):
    _, student = low_rank
    names = pytorch_state(student)
    block = "vit.base_model.model.blocks.0.attn.qkv"
    assert names[f"{block}.base_layer.weight"].shape == (288, 96)
    assert names[f"{block}.lora_A.default.weight"].shape == (4, 96)
    assert names[f"{block}.lora_B.default.weight"].shape == (288, 4)
    assert names["vit.base_model.model.blocks.0.mlp.fc1.weight"].shape == (384, 96)


def test_low_rank_weights_merge_into_a_plain_student(low_rank):
    config, student = low_rank
    plain = abstract_student(dataclasses.replace(config, stem=dataclasses.replace(config.stem, lora=None)))
    weights = pytorch_state(student)
    load_pytorch_state(plain, weights, lora=config.stem.lora)
    for ours, theirs in zip(jax.tree.leaves(plain), jax.tree.leaves(merge_lora(student)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="LoRA rank"):
        load_pytorch_state(plain, weights, lora=LoRA(8, 8.0))
    with pytest.raises(UserError, match="no low-rank updates"):
        load_pytorch_state(plain, pytorch_state(plain), lora=config.stem.lora)
    missing = without(weights, "vit.base_model.model.blocks.0.attn.qkv.lora_A.default.weight")
    with pytest.raises(UserError, match="lora_A.default.weight is missing"):
        load_pytorch_state(plain, missing, lora=config.stem.lora)


def test_what_load_gives_is_taken_as_its_student_and_other_students_are_refused():
    loaded = sak_jax.load("rooms")
    names = pytorch_state(loaded)
    before = np.asarray(loaded.student.routers.hidden.kernel[...])
    load_pytorch_state(loaded, {key: 2 * value for key, value in names.items()})
    np.testing.assert_array_equal(loaded.student.routers.hidden.kernel[...], 2 * before)
    with pytest.raises(UserError, match="FoundationStudent has no published SAK naming"):
        pytorch_state(make())
