"""A foreign format: how to tell it, and its table of rules."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sak_jax.errors import UserError
from sak_jax.weights import rules
from sak_jax.weights.nesting import unchunked


@dataclasses.dataclass(frozen=True)
class Format:
    """One naming of a model's weights.

    Attributes:
      name: what people call it.
      keys: keys that files of this naming have, and other namings of the same model do not have together.
      prefixes: what may stand before the keys that `keys`, `table` and `drop` name. `drop` sees keys without the
        prefix (another tower's, say) with a slash before them.
      table: model config -> rules.
      drop: regular expressions of keys the features do not need (heads, text towers).
      norm: the rules of the final norm, which files may lack (`read`).
      labels: model config -> values of the rules' fields, where these are not 0, 1, ..
    """

    name: str
    keys: tuple[str, ...]
    table: Callable[[object], Sequence[rules.Rule]]
    drop: tuple[str, ...] = ()
    norm: tuple[rules.Rule, ...] = ()
    labels: Callable[[object], rules.Labels] = lambda config: {}
    prefixes: tuple[str, ...] = ("",)

    def for_config(self, config: object) -> tuple[list[rules.Rule], list[str]]:
        """The whole table for a config, and what to drop: the final norm is in one or the other (`config.norm`)."""
        if getattr(config, "norm", False):
            return [*self.table(config), *self.norm], list(self.drop)
        return list(self.table(config)), [*self.drop, *(re.escape(key) for rule in self.norm for key in rule.sources)]

    def has_norm(self, weights: Mapping[str, np.ndarray]) -> bool:
        """Whether weights of this naming hold the final norm, or a part of it."""
        return any(key in weights for rule in self.norm for key in rule.sources)


def identify(
    weights: Mapping[str, np.ndarray], formats: Sequence[Format], name: str
) -> tuple[Format, Mapping[str, np.ndarray]]:
    """The first of `formats` whose keys the weights have, and the weights without its prefix.

    Blocks that were trained in chunks (`blocks.0.5.`) are numbered through.

    Raises:
      UserError: none fits; says under which prefix one would, or what was looked for.
    """
    weights = unchunked(weights)
    for candidate in formats:
        for prefix in candidate.prefixes:
            if all(prefix + key in weights for key in candidate.keys):
                return candidate, {
                    key.removeprefix(prefix) if key.startswith(prefix) else f"/{key}": value
                    for key, value in weights.items()
                }
    found = list(dict.fromkeys(prefix for candidate in formats for prefix in _prefixes(weights, candidate)))
    if found:
        raise UserError(
            f"{name}: the weights have the prefix {' or '.join(found)}; give --weights={found[0].removesuffix('.')} for"
            " those under it"
        )
    wanted = "; ".join(f"{candidate.name} has {' and '.join(candidate.keys)}" for candidate in formats)
    raise UserError(
        f"{name}: the names in it ({', '.join(list(weights)[:3])}, ..) are of no format known for this model: {wanted}"
    )


def _prefixes(weights: Mapping[str, np.ndarray], candidate: Format) -> list[str]:
    """What stands before all keys that tell a format, where it is none of the format's own prefixes."""
    first = candidate.keys[0]
    prefixes = (key.removesuffix(first) for key in weights if key.endswith(f".{first}"))
    return [prefix for prefix in prefixes if all(prefix + key in weights for key in candidate.keys)]
