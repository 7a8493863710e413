"""Arithmetic of a function, counted from its jaxpr: what matrix products and convolutions cost."""

import math
from collections.abc import Callable

import jax
from jax.extend import core
from jax.interpreters import partial_eval

PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}
"""Dense bfloat16 operations a second, by JAX's `device_kind`, from the makers' data sheets."""


def count(function: Callable, *arguments) -> int:
    """Floating-point operations of the matrix products and convolutions in a function, two a multiply-add.

    What no result depends on is left out, as a compiler leaves it out.
    Loops with a known number of rounds count that often, `while` loops once, and of a branch the dearest side. What a
    backward pass computes again counts as well: for the arithmetic that is needed, count a model that keeps all.

    Args:
      function: to be traced; nothing is computed.
      *arguments: arrays or `jax.ShapeDtypeStruct`s.

    Raises:
      ValueError: there is a kernel (of Pallas, or cuDNN's attention) in it, whose arithmetic cannot be seen: count the
        plain form.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _count(needed)


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        elif name == "conv_general_dilated":
            kernel, layout = equation.invars[1].aval.shape, parameters["dimension_numbers"].rhs_spec
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[layout[0]]
        elif name == "pallas_call" or name.startswith("dot_product_attention"):
            raise ValueError(f"the arithmetic of {name} cannot be counted: count the plain form (attention xla)")
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in parameters["branches"])
        else:
            inner = sum(_count(inner) for inner in _inner(parameters))
            total += inner * (parameters["length"] if name == "scan" else 1)
    return total


def _inner(parameters: dict):
    """The jaxprs an operation calls."""
    for value in parameters.values():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item
