"""What one key of a recipe may hold: its default, and beside it type, bounds and choices."""

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from sak_jax.errors import UserError

Value = bool | int | float | str | tuple | dict


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a recipe; the type of its default is the type it takes.

    Attributes:
      default: its value where a recipe says nothing.
      above, at_least, below, at_most: bounds of a number, or of each element of a tuple.
      choices: the values it may have (each element of a tuple), or none for any.
      length: elements of a tuple.
      rising: a tuple's elements must not fall.
      open: the section below this key is not ours to know (scores by name, say); the default is a dict.
      runtime: says how a run is carried out, not what it computes: it may differ when a run goes on.
    """

    default: Value
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    choices: tuple = ()
    length: int | None = None
    rising: bool = False
    open: bool = False
    runtime: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value, as the end of the sentence "it ..", or None."""
        if isinstance(self.default, dict):
            return None if isinstance(value, Mapping) else "must be a section of keys"
        if isinstance(self.default, tuple):
            return self._problem_of_tuple(value)
        return self._problem_of(value, self.default)

    def _problem_of_tuple(self, value: Any) -> str | None:
        if not isinstance(value, list | tuple):
            return "must be a tuple"
        if self.length is not None and len(value) != self.length:
            return f"must have {self.length} elements"
        for element in value:
            problem = self._problem_of(element, self.default[0] if self.default else element)
            if problem:
                return problem
        if self.rising and list(value) != sorted(value):
            return "must not fall: give the lower end first"
        return None

    def _problem_of(self, value: Any, like: Any) -> str | None:
        kinds = {bool: bool, int: int, float: int | float, str: str}
        wanted = kinds.get(type(like))
        if wanted is None:
            return "must hold numbers or texts"
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            return f"must be {_article(type(like).__name__)}"
        if isinstance(value, float) and not math.isfinite(value):
            return "must be finite"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(map(str, self.choices))}"
        for bound, wrong, words in (
            (self.above, lambda bound: value <= bound, "above"),
            (self.at_least, lambda bound: value < bound, "at least"),
            (self.below, lambda bound: value >= bound, "below"),
            (self.at_most, lambda bound: value > bound, "at most"),
        ):
            if bound is not None and wrong(bound):
                return f"must be {words} {bound:g}"
        return None


Keys = Mapping[str, Any]  # Of `Key`s and further `Keys`.
"""A section of a recipe: keys and sections by name; `*` is what rows of any other name are like."""

ROWS = "*"


def defaults(keys: Keys) -> dict:
    """Every key's default, as nested dicts."""
    return {name: key.default if isinstance(key, Key) else defaults(key) for name, key in keys.items() if name != ROWS}


def get(keys: Keys, name: str) -> Any:
    """The key or section of a name, or what rows of any name are like, or None."""
    return keys.get(name, keys.get(ROWS))


def merged(*sections: Keys) -> dict:
    """Several sections as one; of two keys of one name the later stands."""
    result: dict = {}
    for section in sections:
        for name, key in section.items():
            both = isinstance(key, Mapping) and isinstance(result.get(name), Mapping)
            result[name] = merged(result[name], key) if both else key
    return result


def check(values: Mapping, keys: Keys, parents: tuple[str, ...] = ()) -> None:
    """Makes sure that `values` has the keys of `keys`, none besides, and that each may have its value.

    Raises:
      UserError: names the first key that is wrong, its value and what would do.
    """
    for name, value in values.items():
        path = ".".join((*parents, name))
        key = get(keys, name)
        if key is None:
            raise UserError(f"config has no key {path!r}{near(name, keys, parents)}")
        if isinstance(key, Key):
            problem = key.problem(value)
            if problem:
                raise UserError(f"config.{path} is {value!r}: it {problem}")
        elif not isinstance(value, Mapping):
            raise UserError(f"config.{path} is {value!r}: it must be a section with {', '.join(key)}")
        else:
            check(value, key, (*parents, name))


def missing(values: Mapping, keys: Keys, parents: tuple[str, ...] = ()) -> str | None:
    """The dotted path of the first key of `keys` that `values` lacks, or None; rows of any name may be lacking."""
    for name, key in keys.items():
        if name == ROWS:
            continue
        if name not in values:
            return ".".join((*parents, name))
        if not isinstance(key, Key):
            found = missing(values[name], key, (*parents, name))
            if found:
                return found
    return None


def find(keys: Keys, path: str) -> Key | None:
    """The key at a dotted path, or that of the open section above it."""
    section: Any = keys
    for part in path.split("."):
        if isinstance(section, Key):
            break
        section = get(section, part)
        if section is None:
            return None
    return section if isinstance(section, Key) else None


def flatten(values: Mapping, prefix: str = "") -> dict:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differing(one: Mapping, other: Mapping) -> list[str]:
    """The keys, sorted, under which two flat mappings hold different values, or only one of them holds any."""
    return [key for key in sorted(set(one) | set(other)) if one.get(key) != other.get(key)]


def near(name: str, known: Iterable[str], parents: tuple[str, ...] = ()) -> str:
    """`: did you mean ..?`, or all that could have been meant, or nothing."""
    names = sorted(set(known) - {ROWS})
    found = difflib.get_close_matches(name, names, n=1)
    if found:
        return f": did you mean {'.'.join([*parents, *found])}?"
    return f": {'.'.join(['config', *parents])} has {', '.join(names)}" if parents and names else ""


def _article(name: str) -> str:
    return {"int": "an int", "float": "a float", "bool": "True or False", "str": "a text"}[name]
