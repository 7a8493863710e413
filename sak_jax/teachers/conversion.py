"""Foreign weights of a teacher -> our safetensors file and a small JSON of what it is."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping

import numpy as np
from etils import epath

from sak_jax import paths
from sak_jax.errors import UserError
from sak_jax.teachers import registry
from sak_jax.teachers.entry import Teacher
from sak_jax.weights import files, formats, positions, rules, states

logger = logging.getLogger(__name__)


def convert_teacher(
    name: str,
    output: epath.PathLike = "",
    source: epath.PathLike | None = None,
    *,
    weights: str = "",
    force: bool = False,
) -> epath.Path:
    """Converts a teacher's weights; checks everything before it writes anything.

    Args:
      name: a key of the registry.
      output: the folder for `{name}.safetensors` and `{name}.json`; "" is where recipes look.
      source: a local weight file in any of the teacher's formats; None downloads the registry's.
      weights: which weights of a training run's file are meant, see `files.read_weights`.
      force: replace what is there.

    Returns:
      The path of the weights.

    Raises:
      UserError: unknown teacher; the file can't be had or read, is another model's, or holds NaN or infinity; the
        output is there already, or can't be written.
    """
    teacher = registry.get(name)
    if teacher.packaged:
        raise UserError(f"teacher {name} comes with the package: there is nothing to convert")
    folder = paths.given(output) if output else registry.default_directory(writable=True)
    written = paths.check_output(folder / f"{name}.safetensors", force=force)
    path = paths.given(source) if source else _download(teacher)
    converted = read(teacher, files.read_weights(path, weights=weights), str(path))
    arrays = {".".join(map(str, path)): value for path, value in converted.arrays.items()}
    files.check_finite(arrays, str(path))
    description = {
        "teacher": name,
        "source": teacher.source,
        "licence": teacher.licence,
        "file": path.name,
        "sha256": _sha256(path),
        "format": converted.format.name,
        "parameters": sum(value.size for value in arrays.values()),
        "image_size": list(converted.config.image_size),
        "width": teacher.width,
        "final_norm": getattr(converted.config, "norm", False),
        "mean": list(teacher.normalisation[0]),
        "std": list(teacher.normalisation[1]),
    }
    size = ",".join(map(str, converted.config.image_size))
    files.write_safetensors(written, arrays, {"teacher": name, "image_size": size})
    paths.write_text(written.with_suffix(".json"), json.dumps(description, indent=2) + "\n")
    return written


@dataclasses.dataclass(frozen=True)
class Converted:
    """A teacher's arrays from foreign weights.

    Attributes:
      arrays: path in the module -> array.
      config: of the module that they fill: at the image size of the file's own position table.
      format: the naming they came in.
    """

    arrays: dict[tuple, np.ndarray]
    config: object
    format: formats.Format


def read(teacher: Teacher, weights: Mapping[str, np.ndarray], name: str) -> Converted:
    """The teacher's arrays from foreign weights.

    The final norm is kept; where the file has none of it, which is logged, the result has none either: maps do not need
    it. A position table for another square size is kept as well: it is resized once, when the teacher is loaded.

    Args:
      teacher: an entry of the registry.
      weights: foreign key -> array.
      name: what the weights are called in errors.

    Raises:
      UserError: a naming that is not known for this teacher, or a key or shape that is not this model's.
    """
    found, weights = formats.identify(weights, teacher.formats, name)
    config = teacher.with_norm(found.has_norm(weights))
    target = states.flat(registry.abstract(teacher, config))
    grid = _other_grid(config, target, found, weights, name)
    if grid:
        config = dataclasses.replace(config, image_size=tuple(side * config.patch for side in grid))
        target = states.flat(registry.abstract(teacher, config))
    table, drop = found.for_config(config)
    arrays = rules.load(target, weights, table, drop=drop, labels=found.labels(config), name=name)
    if teacher.has_norm and not config.norm:
        logger.warning("%s has no final norm: it gives maps, but not the tokens after that norm", name)
    if grid:
        logger.warning(
            "%s: its position table is for %s, that of %s for %s; it is kept, and resized when it is loaded",
            name, _sizes(config), teacher.name, _sizes(teacher.config),
        )  # fmt: skip
    return Converted(arrays, config, found)


def _other_grid(config, target, found: formats.Format, weights, name: str) -> tuple[int, int] | None:
    """The grid of the position table in a file, where it is not that of `config`."""
    key = next((rule.sources[0] for rule in found.table(config) if rule.target == "position_embedding"), None)
    if ("position_embedding",) not in target or key not in weights:
        return None
    own = rules.wanted_shapes(target, found.for_config(config)[0], labels=found.labels(config))[key]
    grid = tuple(side // config.patch for side in config.image_size)
    return positions.other_grid(weights[key].shape, own, grid, f"{name}: {key}")


def _sizes(config) -> str:
    height, width = config.image_size
    pixels = f"{height}" if height == width else f"{height} x {width}"
    return f"{pixels} pixels ({height // config.patch} x {width // config.patch} patches)"


def _download(teacher: Teacher) -> epath.Path:
    """The registry's file, by huggingface_hub's cache; raises UserError where it lies elsewhere."""
    if teacher.source.startswith("https://"):
        raise UserError(f"{teacher.name} is not on the hub: fetch {teacher.source} and give it with --input=FILE")
    address = f"https://huggingface.co/{teacher.source}/resolve/main/{teacher.file}"
    remedy = f"fetch {address} and give it with --input=FILE"
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"downloading needs huggingface_hub (pip install huggingface_hub); or {remedy}") from error
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # It says each of its trials; the one line below is enough.
    try:
        if teacher.file.endswith(".index.json"):
            folder = huggingface_hub.snapshot_download(teacher.source, allow_patterns=["*.safetensors", teacher.file])
            return epath.Path(folder) / teacher.file
        return epath.Path(huggingface_hub.hf_hub_download(teacher.source, teacher.file))
    except Exception as error:  # The library raises whatever its HTTP client, the hub or the disk give it.
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{teacher.source} can't be downloaded ({reason}): {remedy}") from error
    finally:
        log.setLevel(level)


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
