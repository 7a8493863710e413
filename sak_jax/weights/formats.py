"""A foreign format: how to tell it, and its table of rules."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.weights import rules


@dataclasses.dataclass(frozen=True)
class Format:
    """One naming of a model's weights.

    Attributes:
      name: what people call it.
      keys: keys that files of this naming have, and other namings of the same model do not have together.
      prefixes: what may stand before the keys that `keys`, `table` and `drop` name. `drop` sees keys without the
        prefix (another tower's, say) with a slash before them.
      table: model config -> rules.
      drop: regular expressions of keys the features do not need (final norm, heads, text towers).
      labels: model config -> values of the rules' fields, where these are not 0, 1, ..
    """

    name: str
    keys: tuple[str, ...]
    table: Callable[[object], Sequence[rules.Rule]]
    drop: tuple[str, ...] = ()
    labels: Callable[[object], rules.Labels] = lambda config: {}
    prefixes: tuple[str, ...] = ("",)


def identify(
    weights: Mapping[str, np.ndarray], formats: Sequence[Format], name: str
) -> tuple[Format, Mapping[str, np.ndarray]]:
    """The first of `formats` whose keys the weights have, and the weights without its prefix.

    Raises:
      UserError: none fits; says what was looked for.
    """
    for candidate in formats:
        for prefix in candidate.prefixes:
            if all(prefix + key in weights for key in candidate.keys):
                return candidate, {
                    key.removeprefix(prefix) if key.startswith(prefix) else f"/{key}": value
                    for key, value in weights.items()
                }
    wanted = "; ".join(f"{candidate.name} has {' and '.join(candidate.keys)}" for candidate in formats)
    raise UserError(
        f"{name}: the names in it ({', '.join(list(weights)[:3])}, ..) are of no format known for this model: {wanted}"
    )


def read(
    model: nnx.Module, config: object, weights: Mapping[str, np.ndarray], formats: Sequence[Format], name: str
) -> tuple[nnx.State, Format]:
    """The model's state from weights in whichever of the formats they are; see `rules.load` for the errors."""
    found, weights = identify(weights, formats, name)
    table, labels = found.table(config), found.labels(config)
    return rules.load(model, weights, table, drop=found.drop, labels=labels, name=name), found


def own_rules(model: nnx.Module | nnx.State) -> list[rules.Rule]:
    """The table of our own files: dotted paths, nothing transformed."""
    paths = (".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model)))
    return [rules.Rule(path, path, stack=()) for path in paths]
