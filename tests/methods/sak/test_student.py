import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sak_jax.engine import flops
from sak_jax.errors import UserError
from sak_jax.methods.sak.student import STEMS, Student, StudentConfig, merge_lora
from sak_jax.nn import layers, placement
from sak_jax.nn.vit import LoRA, ViTConfig
from tests.nn.filling import filled

STEM = ViTConfig(width=24, depth=4, heads=3, patch=4, taps=(0, 1, 2, 3), image_size=(16, 24))
TASKS = (("semseg", 5), ("depth", 1))
CONFIG = StudentConfig(stem=STEM, teachers=(("dinov2", 24), ("sam", 32)), tasks=TASKS, aligners=("sam",))
IMAGES = jnp.asarray(np.random.default_rng(1).standard_normal((2, 16, 24, 3), np.float32))


def make(config=CONFIG, **changes):
    config = dataclasses.replace(config, **changes)
    return filled(lambda: Student(config, rngs=nnx.Rngs(0)))


@jax.jit
def evaluate(student, images):
    return student(images)


@jax.jit
def train(student, key):
    """Training-mode outputs, batch statistics after them and gradients of a loss of all of them."""
    graph, params, statistics = nnx.split(student, nnx.Param, ...)

    def loss(params):
        student = nnx.merge(graph, params, statistics, copy=True)
        outputs = student(IMAGES, train=True, rngs=nnx.Rngs(noise=key))
        total = sum(jnp.mean(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(outputs))
        return total, (outputs, nnx.state(student, nnx.BatchStat))

    (_, aux), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return *aux, gradients


def anew(function):
    """The jitted function as one that was never traced: what is traced is kept by function."""
    return jax.jit(lambda *arguments: function.__wrapped__(*arguments))


def assert_close(one, other, tolerance=1e-5):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=tolerance * max(np.std(y), 1e-3) + 1e-7)


@pytest.fixture(scope="module")
def student():
    return make()


@pytest.fixture(scope="module")
def outputs(student):
    return evaluate(student, IMAGES)


def test_levels_written_out_for_a_gpu_compute_what_a_scan_does(student, outputs):
    key = jax.random.key(3)
    assert "length=4" in str(jax.make_jaxpr(anew(evaluate))(student, IMAGES))
    scanned = train(student, key)
    with placement.compiling_for("gpu"):
        assert "length=4" not in str(jax.make_jaxpr(anew(evaluate))(student, IMAGES))
        assert_close(anew(evaluate)(student, IMAGES), outputs)
        assert_close(anew(train)(student, key), scanned)


def test_shapes(outputs):
    assert {task: p.shape for task, p in outputs.predictions.items()} == {
        "semseg": (2, 16, 24, 5),
        "depth": (2, 16, 24, 1),
    }
    assert [f.shape for f in outputs.aligned["dinov2"]] == [(2, 4, 6, 24)] * 4
    assert [f.shape for f in outputs.aligned["sam"]] == [(2, 4, 6, 32)] * 4
    assert {task: r.shape for task, r in outputs.routing.items()} == {"semseg": (2, 4, 3), "depth": (2, 4, 3)}


def features(student):
    """Stem and student features at the taps, `[levels, experts, b, h, w, d]`, computed block by block."""
    config, cut = student.config, student.config.stem.prefix
    x = student.stem.embed(IMAGES)
    paths = [layers.take(student.adapters.entry, t)(x) for t in range(len(config.teachers))]
    levels = []
    for i in range(config.stem.depth):
        x = layers.take(student.stem.blocks, i)(x)
        paths = [layers.take(student.adapters.blocks, (i, t))(path + x) for t, path in enumerate(paths)]
        if i in config.stem.taps:
            level = config.stem.taps.index(i)
            norms = [layers.take(student.output_norms, (level, t)) for t in range(len(paths))]
            levels.append([x[:, cut:], *(norm(path[:, cut:]) for norm, path in zip(norms, paths, strict=True))])
    return jnp.asarray(levels).reshape(len(levels), 1 + len(paths), 2, *config.stem.grid, -1)


@pytest.fixture(scope="module")
def experts(student):
    return jax.jit(features)(student)


def test_paths_read_the_stem_and_aligners_the_paths(student, outputs, experts):
    assert_close(outputs.aligned["dinov2"], tuple(experts[:, 1]))
    kernel, bias = student.aligners["sam"].kernel[...], student.aligners["sam"].bias[...]
    assert_close(outputs.aligned["sam"], tuple(experts[i, 2] @ kernel[i] + bias[i] for i in range(4)))


@jax.jit
def heads_of(student, mixed):
    return student.heads({task: tuple(maps) for (task, _), maps in zip(TASKS, mixed, strict=True)}, (16, 24), False)


def test_heads_see_the_experts_weighted_by_the_routing(student, outputs, experts):
    weights = jnp.stack([outputs.routing[task] for task, _ in TASKS])
    np.testing.assert_allclose(jnp.sum(weights, axis=-1), 1, rtol=1e-5)
    mixed = jnp.einsum("tble,lebhwd->tlbhwd", weights, experts)
    assert_close(heads_of(student, mixed), outputs.predictions)


def test_router_none_is_the_plain_sum_of_all_experts(student, experts):
    plain = make(router="none")
    parts = {"stem", "adapters", "output_norms", "aligners", "heads"}
    nnx.update(plain, nnx.from_flat_state([x for x in nnx.to_flat_state(nnx.state(student)) if x[0][0] in parts]))
    result = evaluate(plain, IMAGES)
    assert result.routing == {}
    mixed = jnp.broadcast_to(jnp.sum(experts, axis=1), (2, 4, 2, 4, 6, 24))
    assert_close(result.predictions, heads_of(student, mixed))


def test_without_teachers_the_stem_alone_feeds_the_heads():
    student = make(teachers=(), aligners=())
    result = evaluate(student, IMAGES)
    assert result.aligned == {} and np.all(result.routing["depth"] == 1)
    maps = jax.jit(lambda student: jnp.stack(student.stem(IMAGES)))(student)
    assert_close(result.predictions, heads_of(student, jnp.broadcast_to(maps, (2, *maps.shape))))


def test_without_tasks_there_are_features_only(student, outputs):
    first = make(tasks=())
    nnx.update(
        first,
        nnx.from_flat_state([x for x in nnx.to_flat_state(nnx.state(student)) if x[0][0] not in ("heads", "routers")]),
    )
    result = evaluate(first, IMAGES)
    assert result.predictions == {} and result.routing == {}
    assert_close(result.aligned, outputs.aligned)


def test_noise_is_drawn_from_the_key_and_batch_statistics_move(student, outputs):
    once, statistics, _ = train(student, jax.random.key(0))
    again, _, _ = train(student, jax.random.key(0))
    other, _, _ = train(student, jax.random.key(1))
    for one, same in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, same)
    assert not np.allclose(once.routing["depth"], other.routing["depth"], atol=1e-3)
    assert_close(once.aligned, outputs.aligned)
    for moved, start in zip(
        jax.tree.leaves(statistics), jax.tree.leaves(nnx.state(student, nnx.BatchStat)), strict=True
    ):
        assert np.all(np.any(moved != start, axis=-1))


def test_without_noisy_gating_training_routes_as_evaluation_does():
    student = make(noisy_gating=False, tasks=TASKS[:1])
    in_training = jax.jit(lambda student: student(IMAGES, train=True).routing)(student)
    assert_close(in_training, evaluate(student, IMAGES).routing)


def test_the_noise_is_standard_normal_and_drawn_for_each_position_task_and_level():
    # Two experts, equal clean logits and the least deviation s = 0.01: a weight is 1/2 + s (e0 - e1) / 4, so the mean
    # over the n positions deviates by s sqrt(2 / n) / 4, were it one draw an image by sqrt(n) times as much.
    student = make(teachers=(("dinov2", 24),), aligners=())
    student.routers.output.kernel[...] = jnp.zeros_like(student.routers.output.kernel[...])
    student.routers.output.bias[...] = jnp.broadcast_to(jnp.asarray([0.0, 0.0, -30.0, -30.0]), (4, 2, 4))
    run = jax.jit(lambda student, key: student(IMAGES, train=True, rngs=nnx.Rngs(noise=key)).routing)
    routing = [run(student, jax.random.key(i)) for i in range(40)]
    deviations = np.stack([np.stack([r[task] for task, _ in TASKS]) for r in routing])[..., 0] - 0.5
    expected = 0.01 * np.sqrt(2 / 24) / 4
    assert deviations.shape == (40, 2, 2, 4)
    assert abs(np.std(deviations) / expected - 1) < 0.12  # 640 draws: 2.8 % is one standard error
    assert abs(np.mean(deviations)) < 0.15 * expected
    correlation = np.corrcoef(deviations.reshape(40, 16), rowvar=False) - np.eye(16)
    assert np.abs(correlation).max() < 0.7  # 40 pairs: 0.16 is one standard error


@pytest.mark.parametrize("remat", ["none", "full"])
def test_what_is_kept_or_recomputed_changes_no_gradient(student, remat):
    other = make(remat=remat)
    assert_close(train(other, jax.random.key(0)), train(student, jax.random.key(0)), 1e-4)


def test_policies_differ_in_what_they_keep_and_booleans_name_two_of_them():
    def products(remat):
        """Matrix products in a step: those recomputed come on top."""
        return flops.count(train, nnx.eval_shape(lambda: make(remat=remat)), jax.random.key(0))

    counts = {name: products(name) for name in ("none", "dots", "named", "blocks", "full")}
    assert counts["none"] == counts["dots"] < counts["named"] < counts["blocks"] < counts["full"]
    assert products(True) == counts["blocks"] and products(False) == counts["none"]
    with pytest.raises(UserError, match="remat is 'some': it must be one of none, named"):
        make(remat="some")


def test_only_what_is_asked_for_is_computed(student, outputs):
    run = jax.jit(lambda student, wanted: student(IMAGES, outputs=wanted), static_argnums=1)
    predictions = run(student, ("predictions",))
    assert predictions.aligned == {} and predictions.routing == {}
    assert_close(predictions.predictions, outputs.predictions)
    others = run(student, ("aligned", "routing"))
    assert others.predictions == {}
    assert_close((others.aligned, others.routing), (outputs.aligned, outputs.routing))
    kernel = student.aligners["sam"].kernel[...].size * 2 * len(IMAGES) * 24
    work = [flops.count(lambda student, wanted=wanted: student(IMAGES, outputs=wanted), student) for wanted in
            (("predictions", "aligned"), ("predictions",))]  # fmt: skip
    assert work[0] - work[1] == kernel


@pytest.mark.parametrize("attention", ["xla", "looped"])
def test_the_stems_attention_can_be_chosen(outputs, attention):
    chosen = make(stem=dataclasses.replace(STEM, attention=attention))
    assert_close(evaluate(chosen, IMAGES), outputs)


def test_bfloat16_computes_close_to_float32_with_float32_parameters(outputs):
    half = make(dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype(jnp.float32)}
    _, statistics, gradients = jax.eval_shape(train, half, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves((statistics, gradients))} == {jnp.dtype(jnp.float32)}
    result = evaluate(half, IMAGES)
    assert result.predictions["depth"].dtype == jnp.float32 and result.aligned["sam"][0].dtype == jnp.bfloat16
    for ours, exact in zip(jax.tree.leaves(result), jax.tree.leaves(outputs), strict=True):
        difference = np.asarray(ours, np.float32) - exact
        assert 0 < np.std(difference) < 0.05 * np.std(exact)


def test_merging_low_rank_updates_changes_no_output():
    student = make(stem=dataclasses.replace(STEM, lora=LoRA(2, 4.0, ("qkv", "fc1", "fc2"))))
    merged = merge_lora(student)
    assert merged.config.stem.lora is None and not jax.tree.leaves(nnx.state(merged, nnx.LoRAParam))
    assert_close(evaluate(merged, IMAGES), evaluate(student, IMAGES), 1e-4)


def test_taps_must_end_equal_levels():
    with pytest.raises(ValueError, match="levels of equally many blocks"):
        make(stem=dataclasses.replace(STEM, taps=(0, 1, 3)))


def test_parameter_count_of_the_published_base_student():
    stem = ViTConfig(**STEMS["base"], taps=(2, 5, 8, 11), image_size=(448, 576))
    tasks = (("semseg", 40), ("normals", 3), ("edge", 1), ("depth", 1))
    config = StudentConfig(stem=stem, teachers=tuple((name, 768) for name in ("dinov2", "clip", "sam")), tasks=tasks)
    student = nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(student, nnx.Param)))
    assert round(count / 1e6, 2) == 126.40


def test_many_to_one_compares_the_stem_itself():
    student = make(paths=False, router="none", aligners=("dinov2", "sam"))
    assert student.adapters is None and student.routers is None
    outputs = evaluate(student, IMAGES)
    x, level = student.stem.embed(IMAGES), 2
    for index in range(level + 1):
        x = layers.take(student.stem.blocks, index)(x)
    tokens = x[:, student.config.stem.prefix :]
    for index, name in enumerate(("dinov2", "sam")):
        normed = layers.take(student.output_norms, (level, index))(tokens)
        wanted = layers.take(student.aligners[name], level)(normed)
        assert_close(outputs.aligned[name][level].reshape(wanted.shape), wanted)
    # What heads see is what they would see of a student without teachers.
    alone = make(teachers=(), aligners=(), router="none")
    weights = dict(nnx.to_flat_state(nnx.state(student)))
    nnx.update(alone, nnx.from_flat_state({path: weights[path] for path, _ in nnx.to_flat_state(nnx.state(alone))}))
    assert_close(evaluate(alone, IMAGES).predictions, outputs.predictions)


def test_a_shared_trunk_leaves_tasks_their_norm_and_their_output():
    student = make(trunk="shared")
    trunk = student.heads.trunk
    assert trunk.reduce.kernel.shape[:2] == (1, 4) and trunk.fuse.kernel.shape[0] == 1
    assert trunk.norm.scale.shape == trunk.norm.mean.shape == (2, 24)
    # Equal to heads of their own that hold the same maps.
    own = make()
    weights = dict(nnx.to_flat_state(nnx.state(student)))
    for path, value in weights.items():
        if path[:2] == ("heads", "trunk") and path[2] != "norm":
            weights[path] = value.replace(jnp.repeat(value[...], 2, axis=0))
    nnx.update(own, nnx.from_flat_state(weights))
    assert_close(evaluate(own, IMAGES).predictions, evaluate(student, IMAGES).predictions)
    (shared, moved, gradients), (_, moved_own, gradients_own) = (train(s, jax.random.key(0)) for s in (student, own))
    assert_close(moved["heads"]["trunk"]["norm"], moved_own["heads"]["trunk"]["norm"])
    ours = gradients["heads"]["trunk"]["reduce"]["kernel"][...]
    theirs = gradients_own["heads"]["trunk"]["reduce"]["kernel"][...].sum(axis=0, keepdims=True)
    assert_close(ours, theirs)
