import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.methods.dune.pytorch import config_of, load_pytorch_state, pytorch_state
from sak_jax.methods.dune.student import ENCODERS, Followed, Student, StudentConfig, encoder_config
from sak_jax.nn import resize
from tests.methods.dune.cases import TYPES, deviations, images, reference, shapes
from tests.nn.filling import filled
from tests.reference.formula_weights import formula_input, formula_state, formula_weight

SIZES = [(56, 56), (56, 84)]
TOLERANCE = 2e-5
"""Of the standard deviation. Positions between sizes come from coordinates that PyTorch computes in float32."""


@functools.cache
def student(case="student_tiny_56") -> Student:
    weights = formula_state(shapes(case))
    config = config_of(weights)
    made = nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0)))
    load_pytorch_state(made, weights)
    return made


@functools.cache
def ours(size):
    """What the student gives for the reference's images of a size."""
    model = student()

    @jax.jit
    def run(model, images):
        tokens = model.encode(images)
        projected = {name: model.project(images, name) for name in TYPES}
        return tokens, model.encoder.tokens(images, norm=True)[-1], projected, model(images)

    return run(model, jnp.asarray(images("image", 2, size)))


def given(size, key):
    return reference("dune_student_tiny")[f"{size[0]}x{size[1]}/{key}"]


@pytest.mark.parametrize("size", SIZES)
def test_the_encoder_with_and_without_its_final_norm(size):
    tokens, normed, _, _ = ours(size)
    assert deviations(tokens, given(size, "encoder/output")) < TOLERANCE
    parts = {"cls": normed[:, 0], "registers": normed[:, 1:5], "patch": normed[:, 5:]}
    for name, part in parts.items():
        assert deviations(part, given(size, f"encoder_normed/{name}")) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_positions_as_added(size):
    encoder = student().encoder
    grid = size[0] // 14, size[1] // 14
    found = resize.resize_positions(
        encoder.position_embedding[...], encoder.config.grid, grid, prefix=1, antialias=False, offset=0.1
    )
    assert deviations(found, given(size, "positions")) < TOLERANCE


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_transformer_projectors(size, name):
    _, _, projected, followed = ours(size)
    found, grid = projected[name], (size[0] // 14, size[1] // 14)
    assert found["map"].shape == (2, *grid, 1024)
    rows = np.concatenate([found["cls"][:, None], np.reshape(found["map"], (2, -1, 1024))], axis=1)
    assert deviations(rows[..., ::8], given(size, f"projector/{name}")) < TOLERANCE
    assert deviations(found["cls"][:, ::8], given(size, f"features/{name}/cls")) < TOLERANCE
    map_ = np.transpose(found["map"][..., ::32], (0, 3, 1, 2))
    assert deviations(map_, given(size, f"features/{name}/map")) < TOLERANCE
    assert tuple(followed[name]) == TYPES[name]
    np.testing.assert_array_equal(followed[name]["patch"], np.reshape(found["map"], (2, -1, 1024)))


def test_features_are_denormalised_by_the_running_statistics():
    model, pictures = student(), jnp.asarray(images("image", 2, (56, 84)))
    features = jax.jit(lambda model, images: model.features(images, "mast3r_vitlarge_16"))(model, pictures)
    own = model.running_statistics()["mast3r_vitlarge_16"]["patch"]
    standardised = ours((56, 84))[2]["mast3r_vitlarge_16"]["map"]
    assert set(features) == {"map"}
    np.testing.assert_allclose(features["map"], standardised * own["std"] + own["mean"], atol=1e-5)


@pytest.mark.parametrize("key", [k for k in reference("dune_positions") if "offset" in k])
def test_positions_of_other_sizes(key):
    table, _, size = key.split("/")
    name, side = ("encoder.pos_embed", 24) if table == "table24" else ("pos_embed", 37)
    embedding = formula_weight(name, (1, 1 + side**2, 4))
    grid = tuple(int(pixels) // 14 for pixels in size.split("x"))
    found = resize.resize_positions(embedding, (side, side), grid, prefix=1, antialias=False, offset=0.1)
    assert deviations(found, reference("dune_positions")[key]) < 3e-5
    if (side, side) == grid:
        np.testing.assert_array_equal(found, embedding)


@pytest.mark.parametrize("change", ["24_to_32", "32_to_24"])
def test_positions_at_the_change_of_stage(change):
    old, new = map(int, change.split("_to_"))
    embedding = formula_weight("encoder.pos_embed", (1, 1 + old**2, 4))
    found = resize.resize_positions(embedding, (old, old), (new, new), prefix=1, antialias=False)
    assert deviations(found, reference("dune_positions")[f"plain/{change}"]) < 3e-5


@pytest.mark.parametrize("name", ["dino_vitbase_16", "deit3_vitbase_16"])
def test_the_ladder_of_unic(name):
    model = student("unic_tiny_64")
    assert model.config.projector == "ladder" and model.config.encoder.registers == 0
    found = jax.jit(lambda model, images: model(images))(model, jnp.asarray(images("image", 2, (64, 96))))
    for kind in ("cls", "patch"):
        assert deviations(found[name][kind], reference("unic_ladder")[f"model/{name}/{kind}"]) < TOLERANCE


@pytest.mark.parametrize("name", ["dino_vitbase_16", "deit3_vitbase_16"])
def test_one_ladder_on_given_block_outputs(name):
    weights = formula_state(shapes("unic_ladder_tiny"))
    followed = tuple(Followed(teacher, width) for teacher, width in (("deit3_vitbase_16", 32), ("dino_vitbase_16", 48)))
    encoder = encoder_config("tiny", (64, 64), patch=16, registers=0, layer_scale=False)
    encoder = dataclasses.replace(encoder, depth=4, taps=(3,))
    config = StudentConfig(encoder, followed, projector="ladder", standardise="none")
    model = filled(lambda: Student(config, rngs=nnx.Rngs(0)))
    load_pytorch_state(model, pytorch_state(model) | weights)
    outputs = {
        kind: np.stack([formula_input(f"block{i}/{kind}", shape) for i in range(1, 5)])
        for kind, shape in (("cls", (3, 192)), ("patch", (3, 6, 192)))
    }
    tokens = np.concatenate([outputs["cls"][:, :, None], outputs["patch"]], axis=2)
    found = model.projectors[name](jnp.asarray(tokens))
    for kind in ("cls", "patch"):
        assert deviations(found[kind], reference("unic_ladder")[f"ladder/{name}/{kind}"]) < TOLERANCE


SMALL = dataclasses.replace(encoder_config("tiny", (28, 28)), width=128, depth=3, heads=2, taps=(2,), mlp_hidden=256)
TEACHERS = (Followed("b", 24), Followed("a", 16, ("patch",)))


@pytest.mark.parametrize("projector", ["transformer", "ladder", "mlp"])
def test_a_student_from_scratch_starts_as_published(projector):
    config = StudentConfig(SMALL, TEACHERS, projector=projector, hidden=32, last_hidden=48)
    model = jax.jit(lambda: Student(config, rngs=nnx.Rngs(0)))()
    encoder = model.encoder
    assert abs(float(encoder.blocks.mlp.up.kernel[...].std()) - 0.02) < 1e-3
    assert not encoder.blocks.mlp.up.bias[...].any()
    np.testing.assert_array_equal(encoder.blocks.scale1.scale[...], np.float32(1e-4))
    bound = (3 * 14 * 14) ** -0.5
    for leaf in (encoder.patch_embed.projection.kernel, encoder.patch_embed.projection.bias):
        assert 0.8 * bound < float(jnp.abs(leaf[...]).max()) <= bound
    assert float(jnp.abs(encoder.class_token[...]).max()) < 1e-5
    assert 0.01 < float(encoder.position_embedding[...].std()) < 0.03
    if projector == "transformer":
        block = model.projectors["a"].blocks
        for linear, fan_in in ((block.attention.qkv, 128), (block.mlp.down, 256), (model.projectors["a"].output, 128)):
            for leaf in (linear.kernel, linear.bias):
                assert 0.8 * fan_in**-0.5 < float(jnp.abs(leaf[...]).max()) <= fan_in**-0.5
        np.testing.assert_array_equal(block.scale1.scale[...], np.float32(1e-4))
    else:
        last = model.projectors["a"].ladders["patch"].last
        assert last.up.kernel.shape == (128, 48) and not last.up.bias[...].any()
        assert (model.projectors["a"].ladders["patch"].rungs is None) == (projector == "mlp")
    found = jax.jit(lambda model, x: model(x))(model, jnp.ones((2, 28, 42, 3)))
    shapes = {name: {kind: x.shape for kind, x in parts.items()} for name, parts in found.items()}
    assert shapes == {"a": {"patch": (2, 6, 16)}, "b": {"cls": (2, 24), "patch": (2, 6, 24)}}


def test_recomputing_blocks_changes_no_gradient():
    def gradient(remat):
        config = StudentConfig(SMALL, TEACHERS, remat=remat)
        model = filled(lambda: Student(config, rngs=nnx.Rngs(0)))
        loss = lambda model: sum(jnp.sum(x**2) for x in jax.tree.leaves(model(jnp.ones((1, 28, 28, 3)))))  # noqa: E731
        return jax.jit(jax.grad(loss, allow_int=True))(model).encoder.blocks.mlp.up.kernel[...]

    np.testing.assert_allclose(gradient(True), gradient(False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", ENCODERS)
def test_every_size_can_be_made(size):
    config = StudentConfig(encoder_config(size, (336, 336)), (Followed("x", 1024),))
    model = nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0)))
    parameters = sum(x.size for x in jax.tree.leaves(nnx.state(model.encoder)))
    published = {"small": 21.75e6, "base": 85.97e6}
    if size in published:
        assert abs(parameters - published[size]) < 0.01e6


def test_what_a_student_cannot_do_is_refused():
    model = nnx.eval_shape(lambda: Student(StudentConfig(SMALL, TEACHERS), rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="does not follow teacher 'c': it follows a, b"):
        model.features(jnp.ones((1, 28, 28, 3)), "c")
    with pytest.raises(UserError, match="30 x 28 pixels: both sides must be multiples of the patch, 14"):
        model.features(jnp.ones((1, 30, 28, 3)), "a")
    with pytest.raises(UserError, match="model.stem is 'huge'"):
        encoder_config("huge", (28, 28))
    with pytest.raises(UserError, match="model.projector is 'linear'"):
        StudentConfig(SMALL, TEACHERS, projector="linear")
