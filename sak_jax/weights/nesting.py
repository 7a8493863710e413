"""Which weights in a training run's file are meant: wrappers, averages (EMA), prefixes of DDP and torch.compile."""

import logging
import math
import re
from collections.abc import Iterator, Mapping

from sak_jax.errors import UserError

logger = logging.getLogger(__name__)

WRAPPERS = (
    "state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "teacher", "student",
    "model_ema", "ema", "ema_model", "ema_state_dict", "state_dict_ema",
)  # fmt: skip
"""Keys under which training scripts nest weights; where a file has several, the first of these is taken."""

BESIDE = re.compile(r"optim|sched|scaler|rng|loss|hook|callback|loop|centering|config|args", re.IGNORECASE)
"""What lies beside weights and may hold tensors as well."""

DEPTH = 4
"""Dicts in dicts are searched no deeper than this."""

_ANYWHERE = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Modules that torch.compile, FSDP and checkpointing put around others."""

Tensors = dict[str, object]


def choose(content: object, wanted: str, name: str) -> Tensors:
    """The weights in what a file holds, without the prefixes that DDP, FSDP and torch.compile put before keys.

    Args:
      content: arrays by key, perhaps nested in other dicts (`{"model": .., "model_ema": .., "optimizer": ..}`).
      wanted: which weights are meant: the wrapper (`model_ema`, `checkpoint.teacher`), a part of its name (`ema`), a
        prefix of the keys (`backbone`), or both (`teacher.backbone`); "" for the plain weights.
      name: the file, for messages.

    Returns:
      Key -> array. Where the file holds other weights too, a warning says which were taken, and which there are.

    Raises:
      UserError: there are no weights, none that are `wanted`, or several.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{name}: holds a {type(content).__name__}, not weights by name; save the model's state dict")
    found = dict(_nested(content))
    if not found:
        inside = f" (it holds {', '.join(map(str, list(content)[:5]))})" if content else ""
        raise UserError(f"{name}: holds no weights{inside}; give a file of a model's weights")
    if not wanted:
        return _plain(found, name)
    path, prefix = _resolve(found, wanted, name)
    weights = unwrapped(found[path])
    if prefix:
        weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return weights


def _plain(found: dict[str, Tensors], name: str) -> Tensors:
    path = _default(found)
    sizes = {other: _size(weights) for other, weights in found.items()}
    others = [other for other in found if other not in ("", path) and sizes[other] > 0.1 * sizes[path]]
    if others:
        logger.warning(
            "%s: took the weights in %r; it also holds %s (--weights=%s takes those)",
            name, path, " and ".join(repr(other) for other in others), others[0],
        )  # fmt: skip
    return unwrapped(found[path])


def _default(found: dict[str, Tensors]) -> str:
    """The first of `WRAPPERS` that a file has; without any, the largest dict of arrays."""

    def rank(path: str) -> tuple[int, int]:
        first = path.split(".")[0]
        return WRAPPERS.index(first) if first in WRAPPERS else len(WRAPPERS), -_size(found[path])

    return min(found, key=rank)


def _resolve(found: dict[str, Tensors], wanted: str, name: str) -> tuple[str, str]:
    """The wrapper and the prefix of keys that `wanted` names."""
    if wanted in found:
        return wanted, ""
    groups = []
    for path in [_default(found), *found]:
        rest = wanted.removeprefix(f"{path}.") if path and wanted.startswith(f"{path}.") else wanted
        if rest == wanted and path != _default(found):
            continue
        if any(key.startswith(f"{rest}.") for key in unwrapped(found[path])):
            groups.append((path, f"{rest}."))
    if groups:
        return max(groups, key=lambda group: len(group[0]) if wanted.startswith(f"{group[0]}.") else 0)
    parts = [path for path in found if wanted.lower() in re.split(r"[._]", path.lower())]
    if len(parts) == 1:
        return parts[0], ""
    heads = dict.fromkeys(key.split(".")[0] for key in unwrapped(found[_default(found)]))
    known = [repr(path) for path in (parts or found) if path] or [repr(head) for head in list(heads)[:8]]
    raise UserError(
        f"{name}: {'several' if parts else 'no'} weights are called {wanted!r}; --weights can be {', '.join(known)}"
    )


def _nested(content: Mapping, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensors]]:
    """Every dict that holds arrays of numbers with axes, by where it lies."""
    tensors = {str(key): value for key, value in content.items() if _shape(value) is not None}
    if any(_shape(value) and ("." in key or not BESIDE.search(key)) for key, value in tensors.items()):
        yield path, tensors
    if depth < DEPTH:
        for key, value in content.items():
            if isinstance(value, Mapping) and isinstance(key, str) and not BESIDE.search(key):
                yield from _nested(value, f"{path}.{key}" if path else key, depth + 1)


def _size(tensors: Tensors) -> int:
    return sum(math.prod(_shape(value)) for value in tensors.values())


def _shape(value: object) -> tuple[int, ...] | None:
    """Of an array of any kind; None for what is no array."""
    try:
        return tuple(value.shape) if hasattr(value, "dtype") else None
    except RuntimeError:  # PyTorch's nested tensors have none.
        return (1,)
    except AttributeError:
        return None


def unwrapped(weights: Mapping[str, object]) -> Tensors:
    """Keys without what DDP, FSDP, checkpointing and torch.compile put into them; unchanged where two would be one."""
    keys = {key: ".".join(part for part in key.split(".") if part not in _ANYWHERE) for key in weights}
    while keys and all(key.startswith("module.") for key in keys.values()):
        keys = {key: short.removeprefix("module.") for key, short in keys.items()}
    if len(set(keys.values())) < len(keys):
        return dict(weights)
    return {keys[key]: value for key, value in weights.items()}


def unchunked(weights: Mapping[str, object]) -> Tensors:
    """`blocks.0.5.` -> `blocks.5.`: DINOv2 and DINOv3 train with their blocks in chunks.

    Where each chunk counts from 0, its blocks follow those of the chunk before.
    """
    pattern = re.compile(r"(.*?)\bblocks\.(\d+)\.(\d+)\.(.*)")
    found = {key: match for key in weights if (match := pattern.fullmatch(key))}
    places = sorted({(match[1], int(match[2]), int(match[3])) for match in found.values()})
    numbers = {}
    for stem in {stem for stem, _, _ in places}:
        own = [place for place in places if place[0] == stem]
        distinct = len({block for _, _, block in own}) == len(own)
        numbers |= {place: place[2] if distinct else number for number, place in enumerate(own)}
    renamed = {
        key: f"{match[1]}blocks.{numbers[match[1], int(match[2]), int(match[3])]}.{match[4]}"
        for key, match in found.items()
    }
    return {renamed.get(key, key): value for key, value in weights.items()}
