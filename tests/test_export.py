"""What is exported gives what the student gives, in a process without sak_jax and in ONNX Runtime."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sak_jax
from sak_jax import export, recipe
from sak_jax.errors import UserError
from tests import runs

SIZE = (24, 32)


def student(*overrides):
    """A fresh student of the tiny recipe: stem, two teachers' paths, routers, three heads."""
    return sak_jax.build(recipe.load(runs.TINY, overrides))


@pytest.fixture(scope="module")
def tiny():
    return student()


def pictures(count=3):
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), np.uint8)


def normalised(images):
    return ((images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)


def expected(model, count=3):
    return jax.device_get(model(jnp.asarray(normalised(pictures(count)))).predictions)


def assert_same(found, wanted, relative):
    assert set(found) == set(wanted)
    for task, value in wanted.items():
        assert found[task].shape == value.shape and found[task].dtype == np.float32
        np.testing.assert_allclose(found[task], value, rtol=0, atol=relative * np.abs(value).max(), err_msg=task)


LOADS = """
import json, sys
import numpy as np
import jax
predict = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read())).call
outputs = predict(np.load(sys.argv[2]))
assert not [name for name in sys.modules if name.split(".")[0] in ("sak_jax", "flax")]
np.savez(sys.argv[3], **outputs)
"""


@pytest.mark.parametrize("preprocess", [False, True])
def test_stablehlo_is_loaded_without_sak_jax(tiny, preprocess, tmp_path):
    file = tmp_path / "tiny.stablehlo"
    file.write_bytes(export.stablehlo(tiny, SIZE, preprocess=preprocess))
    for count in (1, 3):  # One file for batches of any size.
        images = pictures(count)
        np.save(tmp_path / "images.npy", images if preprocess else normalised(images))
        arguments = [str(tmp_path / name) for name in ("tiny.stablehlo", "images.npy", "outputs.npz")]
        done = subprocess.run([sys.executable, "-c", LOADS, *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert_same(dict(np.load(tmp_path / "outputs.npz")), expected(tiny, count), 1e-5)


def test_stablehlo_is_for_every_platform(tiny):
    loaded = jax.export.deserialize(bytearray(export.stablehlo(tiny, SIZE)))
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    assert [value.shape[1:] for value in loaded.in_avals] == [(*SIZE, 3)]
    alone = jax.export.deserialize(bytearray(export.stablehlo(tiny, SIZE, platforms=("tpu",))))
    assert alone.platforms == ("tpu",)


def test_a_student_without_tasks_has_nothing_to_export():
    with pytest.raises(UserError, match="no tasks"):
        export.stablehlo(student("--config.multitask.steps=0"), SIZE)


def test_loops_are_written_out():
    """Scans forwards and backwards, nested, with carries and results, against JAX's own."""

    def loops(x):
        def outer(carry, row):
            carry, turned = jax.lax.scan(lambda c, y: (c * 0.5 + y, c @ rows), carry + row, jnp.stack([row, 2 * row]))
            return carry, turned

        rows = jnp.linspace(-1, 1, 9).reshape(3, 3)
        last, results = jax.lax.scan(outer, x, rows, reverse=True)
        return last, results

    x = jnp.asarray([0.3, -0.2, 0.9])
    written = export.unrolled(jax.make_jaxpr(loops)(x))
    assert "scan" in str(jax.make_jaxpr(loops)(x)) and "scan" not in str(jax.make_jaxpr(written)(x))
    for ours, theirs in zip(written(x), loops(x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def loops_of(jaxpr):
    """The primitives of a traced function, and of all that it calls, that hold another program."""
    found = set()
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= {equation.primitive.name} | loops_of(inner)
    return found


def test_calls_of_every_kind_are_written_out():
    """Recomputed parts, gradients of one's own, and loops in them, as the student's attention has them."""

    @jax.custom_vjp
    def squares(x):
        return jax.lax.map(lambda row: row * row, x)

    squares.defvjp(lambda x: (squares(x), x), lambda x, gradient: (2 * x * gradient,))
    both = jax.checkpoint(lambda x: jax.nn.relu(squares(x)))
    x = jnp.asarray([[0.3, -0.2], [0.9, 2.0]])
    traced = jax.make_jaxpr(both)(x)
    assert "scan" in loops_of(traced.jaxpr)
    written = export.unrolled(traced)
    assert not loops_of(jax.make_jaxpr(written)(x).jaxpr)
    np.testing.assert_allclose(written(x)[0], both(x), rtol=1e-6)


@pytest.mark.parametrize("attention", ["auto", "looped"])
def test_nothing_of_a_student_stays_a_loop(attention):
    model = student(f"--config.model.attention={attention}")
    images = jnp.asarray(normalised(pictures(2)))
    traced = jax.make_jaxpr(export.forward(model))(images)
    assert loops_of(jax.make_jaxpr(export.unrolled(traced))(images).jaxpr) == set()


@pytest.mark.parametrize(
    "pattern", ["bnd,de->bne", "bnhe,bmhe->bhnm", "tbnd,tde->tbne", "bhwc,yxcd->byhxwd", "xWw,byhxwd->byhWd", "ij,ij->"]
)
def test_products_of_all_forms(pattern):
    sizes = dict(zip("bcdehijmntwxyHW", range(2, 17), strict=True))
    left, right = pattern.split("->")[0].split(",")
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=[sizes[axis] for axis in side]).astype(np.float32) for side in (left, right))
    multiply = lambda a, b: jnp.einsum(pattern, a, b)  # noqa: E731
    (found,) = export.unrolled(jax.make_jaxpr(multiply)(a, b))(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(found, multiply(a, b), rtol=1e-5, atol=1e-5)


def run_onnx(content, images):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


@pytest.mark.parametrize("preprocess", [False, True])
def test_onnx_runs(tiny, preprocess):
    pytest.importorskip("jax2onnx")
    content = export.onnx(tiny, SIZE, preprocess=preprocess)
    assert b"Einsum" not in content and b"Loop" not in content
    for count in (1, 3):
        images = pictures(count)
        found = run_onnx(content, images if preprocess else normalised(images))
        assert_same(found, expected(tiny, count), 1e-4)


def test_onnx_of_a_student_in_bfloat16_computes_in_float32():
    pytest.importorskip("jax2onnx")
    half, whole = student("--config.dtype=bfloat16"), student()
    content = export.onnx(half, SIZE)
    assert_same(run_onnx(content, normalised(pictures())), expected(whole), 1e-4)
    assert_same(run_onnx(content, normalised(pictures())), expected(half), 5e-2)


def test_onnx_without_its_package(tiny, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="jax2onnx.*pip install"):
        export.onnx(tiny, SIZE)
