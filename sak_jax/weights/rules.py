"""One engine for all weight conversions: a table of rules, read in both directions, with both sides checked.

NumPy alone: our side is `{path: array}` with paths as tuples (`states` makes NNX states of them).

A table is a list of `Rule(source, target, transform)`. `source` names keys of the foreign file and `target` the dotted
path of an array in our model, both as templates:

    Rule("patch_embed.proj.weight", "patch_embed.projection.kernel", PATCHES)
    Rule("blocks.{i}.attn.qkv.weight", "blocks.attention.qkv.kernel", LINEAR)
    Rule("adapters.{teacher}.{i}.up.bias", "paths.blocks.up.bias", stack=("i", "teacher"))
    Rule("heads.{task}.out.bias", "heads.output.{task}.bias")
    Rule(("b.{i}.q.weight", "b.{i}.k.weight", "b.{i}.v.weight"), "blocks.attention.qkv.kernel", join(LINEAR, 3))

A field such as `{i}` that the target also has is copied. One that the target lacks counts along a leading axis of the
target array, i.e. the numbered modules are stacked; `stack` gives the order of several such axes (default: as they
appear). The field's values are 0, 1, .. up to the length of the axis, or the `labels` given for it:
`labels={"teacher": ("dinov2", "sam")}` maps `adapters.dinov2.` to index 0, and `labels={"i": range(1, 13)}` starts the
numbering at 1.

`load` reads foreign -> ours, `export` ours -> foreign. From the target's shapes the engine works out every foreign key
and its shape beforehand, so that nothing is left over, nothing unfilled, and no shape mended silently.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from sak_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Transform:
    """How arrays change between a foreign file and our model.

    Attributes:
      load: foreign arrays -> our array (one slice of a stack).
      save: our array -> tuple of foreign arrays; the exact inverse of `load`.
    """

    load: Callable[..., np.ndarray]
    save: Callable[[np.ndarray], tuple[np.ndarray, ...]]


def _save_patches(kernel: np.ndarray) -> tuple[np.ndarray]:
    patch = round((kernel.shape[0] // 3) ** 0.5)
    return (kernel.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1),)


IDENTITY = Transform(lambda x: x, lambda x: (x,))
LINEAR = Transform(lambda x: x.T, lambda x: (x.T,))
"""PyTorch's (out, in) <-> (in, out)."""
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),))
"""PyTorch's (out, in, h, w) <-> (h, w, in, out)."""
CONV_1X1 = Transform(lambda x: x[:, :, 0, 0].T, lambda x: (x.T[:, :, None, None],))
"""PyTorch's (out, in, 1, 1) <-> the linear map (in, out)."""
PATCHES = Transform(lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]), _save_patches)
"""PyTorch's patch convolution (out, 3, p, p) <-> the linear map (p * p * 3, out) of `PatchEmbed`."""


def join(transform: Transform, count: int) -> Transform:
    """`count` foreign arrays of one shape, each transformed, side by side on our last axis (as q, k and v are)."""
    return Transform(
        lambda *parts: np.concatenate([transform.load(part) for part in parts], axis=-1),
        lambda x: tuple(itertools.chain(*(transform.save(part) for part in np.split(x, count, axis=-1)))),
    )


def lead(axes: int) -> Transform:
    """Our array has `axes` more leading axes of length 1."""
    return Transform(lambda x: x[(None,) * axes], lambda x: (x[(0,) * axes],))


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table; the module's docstring explains templates and stacking.

    Attributes:
      source: template, or templates, of foreign keys.
      target: template of the dotted path in our state, or None for a key that carries nothing we keep: it may be absent
        on reading, and `export` writes `value` for it (its fields need `labels`).
      transform: between the two.
      stack: the fields that count along leading axes, in the order of the axes.
      value: what `export` writes when there is no target.
    """

    source: str | tuple[str, ...]
    target: str | None
    transform: Transform = IDENTITY
    stack: tuple[str, ...] | None = None
    value: np.ndarray | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The foreign templates, always as a tuple."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def stacked(self) -> tuple[str, ...]:
        """The fields that count along leading axes."""
        if self.stack is not None:
            return self.stack
        found = dict.fromkeys(itertools.chain(*(_fields(source) for source in self.sources)))
        return tuple(field for field in found if field not in _fields(self.target or ""))


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a set of foreign keys belongs: a slice of one of our arrays."""

    keys: tuple[str, ...]
    path: tuple
    index: tuple[int, ...]
    transform: Transform


Labels = Mapping[str, Sequence[object]]


@runtime_checkable
class Shaped(Protocol):
    """An array, or what describes one."""

    shape: tuple[int, ...]
    dtype: np.dtype


Target = Mapping[tuple, Shaped]
"""Our side: path -> shape and dtype."""


def load(
    target: Target,
    source: Mapping[str, np.ndarray],
    rules: Sequence[Rule],
    *,
    drop: Sequence[str] = (),
    labels: Labels | None = None,
    name: str = "the weights",
) -> dict[tuple, np.ndarray]:
    """Our arrays from a foreign weight dict.

    Args:
      target: path -> shape and dtype of each of our arrays.
      source: foreign key -> array.
      rules: the table.
      drop: regular expressions (full match) of foreign keys to leave out on purpose.
      labels: values of template fields; see the module's docstring.
      name: what the weights are called in errors.

    Returns:
      Path -> array, for each of the target's paths; where nothing is stacked or changed, the source's own array.

    Raises:
      UserError: a key is missing, left over, or of another shape or kind than the model's.
      ValueError: the table itself is at fault: two rules for one key or array, or an array without a rule.
    """
    places = list(_places(target, rules, labels or {}))
    wanted = _wanted(target, places)
    _check_keys(source, wanted, rules, drop, labels or {}, name)
    for key, (place, shape) in wanted.items():
        _check_array(key, source[key], shape, np.dtype(target[place.path].dtype), name)
    arrays = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in target.items() if 0 in leaf.shape}
    for place in places:
        shape, dtype = target[place.path].shape, target[place.path].dtype
        array = place.transform.load(*(np.asarray(source[key]) for key in place.keys))
        if array.shape != tuple(shape[len(place.index) :]):
            raise ValueError(f"the transform for {place.keys} gives shape {array.shape}")
        if not place.index:
            arrays[place.path] = array.astype(dtype, copy=False)
            continue
        if place.path not in arrays:
            arrays[place.path] = np.empty(shape, dtype)
        arrays[place.path][place.index] = array
    return {path: arrays[path] for path in target}


def wanted_shapes(target: Target, rules: Sequence[Rule], *, labels: Labels | None = None) -> dict[str, tuple[int, ...]]:
    """The foreign keys that `load` wants, with their shapes; nothing of the model's size is allocated."""
    return {key: shape for key, (_, shape) in _wanted(target, _places(target, rules, labels or {})).items()}


def export(arrays: Mapping[tuple, np.ndarray], rules: Sequence[Rule], *, labels: Labels | None = None) -> dict:
    """The foreign weight dict of our arrays: the exact inverse of `load`, bit for bit; contiguous.

    Raises:
      ValueError: the table is at fault (see `load`).
    """
    result = {}
    for place in _places(arrays, rules, labels or {}):
        parts = place.transform.save(arrays[place.path][place.index])
        result |= {key: np.asarray(part, order="C") for key, part in zip(place.keys, parts, strict=True)}
    for key, value in _constants(rules, labels or {}):
        result[key] = value
    return result


def _fields(template: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", template)


def _pattern(template: str) -> re.Pattern:
    """A regular expression for the keys a template stands for; a field is anything between dots."""
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(f"(?P<{p}>[^.]+)" if n % 2 else re.escape(p) for n, p in enumerate(parts)))


def _places(flat: Target, rules: Sequence[Rule], labels: Labels) -> Iterator[_Place]:
    """Every slice of every array with the foreign keys it comes from; checks that rules and arrays pair off."""
    seen = {}
    patterns = [(rule, _pattern(rule.target)) for rule in rules if rule.target is not None]
    for path, leaf in flat.items():
        dotted = ".".join(map(str, path))
        matches = [(rule, match) for rule, pattern in patterns if (match := pattern.fullmatch(dotted))]
        if len(matches) != 1:
            raise ValueError(f"{len(matches)} rules fill {dotted}; exactly one must")
        rule, match = matches[0]
        sizes = leaf.shape[: len(rule.stacked)]
        values = [labels.get(field, range(size)) for field, size in zip(rule.stacked, sizes, strict=True)]
        if any(len(value) != size for value, size in zip(values, sizes, strict=True)):
            raise ValueError(f"{dotted} has leading axes {sizes}, but the fields {rule.stacked} have {values}")
        for index in np.ndindex(*sizes):
            fields = match.groupdict() | {f: v[n] for f, v, n in zip(rule.stacked, values, index, strict=True)}
            keys = tuple(template.format(**fields) for template in rule.sources)
            for key in keys:
                if key in seen:
                    raise ValueError(f"two rules use {key}: for {seen[key]} and for {dotted}")
                seen[key] = dotted
            yield _Place(keys, path, index, rule.transform)


def _constants(rules: Sequence[Rule], labels: Labels) -> Iterator[tuple[str, np.ndarray]]:
    """Keys without a target, with the value `export` writes."""
    for rule in rules:
        if rule.target is None:
            for template in rule.sources:
                fields = _fields(template)
                for values in itertools.product(*(labels[field] for field in fields)):
                    yield template.format(**dict(zip(fields, values, strict=True))), rule.value


def _wanted(flat: Target, places: Iterable[_Place]) -> dict[str, tuple[_Place, tuple[int, ...]]]:
    """Foreign key -> where it belongs, and its shape: that of what `save` makes of an array of zeros."""
    wanted = {}
    for place in places:
        leaf = flat[place.path]
        zeros = np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape[len(place.index) :])
        for key, part in zip(place.keys, place.transform.save(zeros), strict=True):
            wanted[key] = (place, part.shape)
    return wanted


def _check_keys(source, wanted, rules, drop, labels, name):
    """Errors unless the file's keys are the wanted ones plus those listed as dropped."""
    missing = [key for key in wanted if key not in source]
    dropped = re.compile("|".join(f"(?:{pattern})" for pattern in drop) or r"(?!)")
    constant = {key for key, _ in _constants(rules, labels)}
    extra = [key for key in source if key not in wanted and key not in constant and not dropped.fullmatch(key)]
    both = [key for key in wanted if dropped.fullmatch(key)]
    if both:
        raise ValueError(f"{both[0]} is both used and listed as dropped")
    if missing:
        place = ".".join(map(str, wanted[missing[0]][0].path))
        raise UserError(
            f"{name}: key {missing[0]}{_others(missing)}, which {place} needs, is missing"
            + (f" (and {extra[0]}{_others(extra)} is not known)" if extra else "")
            + "; give a complete file of this very model"
        )
    if extra:
        raise UserError(
            f"{name}: key {extra[0]}{_others(extra)} has no place in this model; give a file of this very model"
        )


def _others(keys: Sequence[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _check_array(key: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, name: str):
    """Errors unless the shape is the expected one and the conversion to our dtype loses nothing."""
    if tuple(array.shape) != tuple(shape):
        raise UserError(
            f"{name}: {key} has shape {tuple(array.shape)}, not {tuple(shape)}; give a file of this very model"
        )
    if np.issubdtype(dtype, np.floating) and not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"{name}: {key} is {array.dtype}, of a quantised model perhaps; give weights in float32, float16 or"
            " bfloat16"
        )
    if not np.can_cast(array.dtype, dtype, "safe"):
        raise UserError(f"{name}: {key} is {array.dtype}, the model wants {np.dtype(dtype)}; save it in that precision")
