"""The rules' arrays as NNX states: the only place here that knows of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from flax import nnx

from sak_jax.weights import rules


def flat(model: nnx.Module | nnx.State) -> dict[tuple, object]:
    """Path -> array, or shape where the model is abstract, of every variable."""
    state = model if isinstance(model, nnx.State) else nnx.state(model)
    return {path: leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def load(
    model: nnx.Module | nnx.State, source: Mapping[str, np.ndarray], table: Sequence[rules.Rule], **options
) -> nnx.State:
    """The model's state with numpy arrays from a foreign weight dict; apply it with `nnx.update(model, state)`.

    Args:
      model: our model or its state, abstract (`nnx.eval_shape`) or not; only shapes and dtypes are read.
      source, table, options: those of `rules.load`, whose errors these are as well.
    """
    return like(model, rules.load(flat(model), source, table, **options))


def like(model: nnx.Module | nnx.State, arrays: Mapping[tuple, np.ndarray]) -> nnx.State:
    """The model's state with other arrays in it, one for each path."""
    state = model if isinstance(model, nnx.State) else nnx.state(model)
    return nnx.from_flat_state({path: leaf.replace(arrays[path]) for path, leaf in nnx.to_flat_state(state)})


def export(model: nnx.Module | nnx.State, table: Sequence[rules.Rule], **options) -> dict[str, np.ndarray]:
    """The foreign weight dict of a model, see `rules.export`."""
    return rules.export({path: np.asarray(leaf) for path, leaf in flat(model).items()}, table, **options)


def own(model: nnx.Module | nnx.State) -> list[rules.Rule]:
    """The table of our own files: dotted paths, nothing transformed."""
    return [rules.Rule(name, name, stack=()) for name in (".".join(map(str, path)) for path in flat(model))]
