"""A trained model as a file that runs without sak_jax: StableHLO for JAX on any platform, ONNX for everything else."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend import core

from sak_jax import normalisation
from sak_jax.errors import UserError
from sak_jax.nn import placement

PLATFORMS = ("cpu", "cuda", "tpu")

ANY = "any"
"""The platform that is none: for `placement.compiling_for`, so that layers take the form that runs everywhere."""

_CALLS = ("jit", "pjit", "closed_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")


def forward(module: nnx.Module, *, preprocess: bool = False) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """What is exported: images `[b, H, W, 3]` -> `{task: [b, H, W, channels]}`, float32, in evaluation mode.

    Args:
      module: gives an object with `predictions`; its arrays become constants.
      preprocess: take uint8 images and normalise them, instead of float32 images that are ImageNet-normalised.
    """
    graph, state = nnx.split(module)

    def predict(images):
        if preprocess:
            images = (images.astype(jnp.float32) / 255 - jnp.asarray(normalisation.MEAN)) / jnp.asarray(
                normalisation.STD
            )
        return dict(getattr(nnx.merge(graph, state)(images), "predictions", {}))

    return predict


def stablehlo(
    module: nnx.Module,
    image_size: tuple[int, int],
    *,
    preprocess: bool = False,
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """The model as serialised StableHLO (`jax.export`), of any batch size, for several platforms at once.

    It is loaded by `predict = jax.export.deserialize(bytearray(open(file, "rb").read())).call`.

    Args:
      module: see `forward`.
      image_size: (height, width) of the images.
      preprocess: see `forward`.
      platforms: where it will run.

    Raises:
      UserError: the model has no tasks.
    """
    predict = jax.jit(forward(module, preprocess=preprocess))
    # For several platforms nothing may be chosen that one of them alone has, whatever this machine is.
    with placement.compiling_for(platforms[0] if len(platforms) == 1 else ANY):
        _tasks(predict, image_size, preprocess)
        return bytes(jax.export.export(predict, platforms=platforms)(_images(image_size, preprocess)).serialize())


def onnx(module: nnx.Module, image_size: tuple[int, int], *, preprocess: bool = False) -> bytes:
    """The model as ONNX, of any batch size: the input is `images`, and each output has its task's name.

    Loops over layers are unrolled: run by ONNX Runtime they would be several times slower. What the model computes in
    bfloat16, which ONNX Runtime lacks on CPUs, is computed in float32.

    Args:
      module, image_size, preprocess: see `stablehlo`.

    Raises:
      UserError: the package that converts is not installed, the model has no tasks, or it is too large for one file.
    """
    if importlib.util.find_spec("jax2onnx") is None:
        raise UserError("ONNX needs the package jax2onnx: pip install 'sak_jax[export]'")
    import jax2onnx

    predict, images = forward(module, preprocess=preprocess), _images(image_size, preprocess)
    with placement.compiling_for(ANY):
        tasks = _tasks(predict, image_size, preprocess)
        closed = jax.make_jaxpr(predict)(images)
    # Traced here, and handed over as plain primitives: the converter has its own ideas of what flax's layers are, which
    # don't go together with stacked ones.
    size = sum(math.prod(np.shape(value)) * np.dtype(value.dtype).itemsize for value in closed.consts)
    if size > 2**31:
        raise UserError(f"the model has {size / 2**30:.1f} GiB of parameters, and an ONNX file holds 2: use .stablehlo")
    model = jax2onnx.to_onnx(
        unrolled(closed),
        [images],
        model_name="sak_jax",
        input_names=["images"],
        output_names=tasks,
    )
    return model.SerializeToString()


def unrolled(closed: core.ClosedJaxpr) -> Callable[..., list[jax.Array]]:
    """A traced function with every `scan` and nested call written out, in float32 where it was in bfloat16.

    What depends on constants alone is computed, and products become products of matrices.

    Args:
      closed: of `jax.make_jaxpr`.
    """

    def run(*arguments):
        return _evaluate(closed, arguments)

    return run


def _evaluate(program: Any, arguments: Sequence[Any]) -> list[Any]:
    jaxpr = getattr(program, "jaxpr", program)  # Newer versions of JAX have one class where older ones have two.
    constants = map(_float32, getattr(program, "consts", ()))
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))
    read = lambda atom: _float32(atom.val) if isinstance(atom, core.Literal) else values[atom]  # noqa: E731
    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        if equation.primitive.name == "scan":
            outputs = _scan(equation.params, inputs)
        elif (inner := _inner(equation)) is not None:
            outputs = _evaluate(inner, inputs)
        elif not (all(map(_constant, inputs)) and _known_shape(equation)):
            outputs = _bind(equation, inputs)
        else:
            with jax.ensure_compile_time_eval():
                outputs = [np.asarray(value) for value in _bind(equation, inputs)]
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _bind(equation, inputs: Sequence[Any]) -> list[Any]:
    params = {name: np.dtype("float32") if _is_bfloat16(value) else value for name, value in equation.params.items()}
    if equation.primitive.name == "dot_general":
        return [_matrix_product(params, *inputs)]
    if equation.primitive.name == "pad" and not any(map(any, params["padding_config"])):
        return inputs[:1]
    outputs = equation.primitive.bind(*inputs, **params)
    return outputs if equation.primitive.multiple_results else [outputs]


def _matrix_product(params: dict[str, Any], left: Any, right: Any) -> jax.Array:
    """`dot_general` with one free and one contracted axis on either side: what every runtime multiplies fast."""
    (contract_left, contract_right), (batch_left, batch_right) = params["dimension_numbers"]

    def prepare(value, batch, contract, contracted_last):
        free = [axis for axis in range(value.ndim) if axis not in (*batch, *contract)]
        sides = [value.shape[axis] for axis in batch], [value.shape[axis] for axis in free]
        inner = math.prod(value.shape[axis] for axis in contract)
        order = (*batch, *free, *contract) if contracted_last else (*batch, *contract, *free)
        outer = math.prod(sides[1])
        shape = (*sides[0], outer, inner) if contracted_last else (*sides[0], inner, outer)
        if _constant(value):
            return np.transpose(value, order).reshape(shape), *sides
        return jnp.transpose(value, order).reshape(shape), *sides

    left, batch, rows = prepare(left, batch_left, contract_left, True)
    right, _, columns = prepare(right, batch_right, contract_right, False)
    outer = tuple(range(len(batch)))
    product = jax.lax.dot_general(
        left,
        right,
        (((len(batch) + 1,), (len(batch),)), (outer, outer)),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    return product.reshape(*batch, *rows, *columns)


def _known_shape(equation) -> bool:
    """Whether the results' shapes do not depend on the batch size."""
    return all(isinstance(side, int) for variable in equation.outvars for side in variable.aval.shape)


def _inner(equation):
    """The function that an equation calls, where it does nothing but call it."""
    if equation.primitive.name in _CALLS:
        return equation.params["jaxpr" if "jaxpr" in equation.params else "call_jaxpr"]
    return None


def _scan(params: dict[str, Any], inputs: Sequence[Any]) -> list[Any]:
    if "ft_in" in params:  # jax 0.12
        constants, carries, _ = map(len, params["ft_in"].unpack())
    else:
        constants, carries = params["num_consts"], params["num_carry"]
    fixed, carry, stacked = inputs[:constants], inputs[constants : constants + carries], inputs[constants + carries :]
    steps = range(params["length"])
    results = []
    for step in reversed(steps) if params["reverse"] else steps:
        outputs = _evaluate(params["jaxpr"], [*fixed, *carry, *(value[step] for value in stacked)])
        carry = outputs[:carries]
        results.append(outputs[carries:])
    if params["reverse"]:
        results.reverse()
    return [*carry, *(_stack(values) for values in zip(*results, strict=True))]


def _stack(values: Sequence[Any]) -> Any:
    return np.stack(values) if all(map(_constant, values)) else jnp.stack(values)


def _is_bfloat16(value: Any) -> bool:
    return isinstance(value, np.dtype | type) and value == jnp.bfloat16


def _float32(value: Any) -> np.ndarray:
    value = np.asarray(value)
    return value.astype(np.float32) if value.dtype == jnp.bfloat16 else value


def _constant(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic | bool | int | float)


def _tasks(predict: Callable, image_size: tuple[int, int], preprocess: bool) -> list[str]:
    """The names of the outputs in their order.

    Raises:
      UserError: there are none.
    """
    tasks = sorted(jax.eval_shape(predict, _images(image_size, preprocess)))
    if not tasks:
        raise UserError("this student has no tasks, as after a distillation: give one that was trained on tasks")
    return tasks


def _images(image_size: tuple[int, int], preprocess: bool) -> jax.ShapeDtypeStruct:
    (batch,) = jax.export.symbolic_shape("b")
    return jax.ShapeDtypeStruct((batch, *image_size, 3), jnp.uint8 if preprocess else jnp.float32)
