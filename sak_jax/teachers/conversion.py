"""Foreign weights of a teacher -> our safetensors file and a small JSON of what it is."""

import hashlib
import json
import logging
from collections.abc import Mapping

import numpy as np
from etils import epath
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.teachers import registry
from sak_jax.teachers.entry import Teacher
from sak_jax.weights import files, formats

logger = logging.getLogger(__name__)


def convert_teacher(name: str, output: epath.PathLike, source: epath.PathLike | None = None) -> epath.Path:
    """Converts a teacher's weights; checks everything before it writes anything.

    Args:
      name: a key of the registry.
      output: the folder for `{name}.safetensors` and `{name}.json`.
      source: a local weight file in any of the teacher's formats; None downloads the registry's.

    Returns:
      The path of the weights.

    Raises:
      UserError: unknown teacher; the file can't be had or read, is another model's, or holds NaN or infinity.
    """
    teacher = registry.get(name)
    if teacher.packaged:
        raise UserError(f"teacher {name} comes with the package: there is nothing to convert")
    path = epath.Path(source).expanduser() if source else _download(teacher)
    weights = files.read_weights(path)
    state, found = read(teacher, weights, str(path))
    arrays = {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}
    bad = next((key for key, value in arrays.items() if not np.isfinite(value).all()), None)
    if bad:
        raise UserError(f"{path}: what becomes {bad} holds NaN or infinity; fetch the file again")
    description = {
        "teacher": name,
        "source": teacher.source,
        "licence": teacher.licence,
        "file": path.name,
        "sha256": _sha256(path),
        "format": found.name,
        "parameters": sum(value.size for value in arrays.values()),
        "image_size": list(teacher.config.image_size),
        "width": teacher.width,
        "final_norm": teacher.family.norm in state,
        "mean": list(teacher.normalisation[0]),
        "std": list(teacher.normalisation[1]),
    }
    output = epath.Path(output).expanduser()
    written = output / f"{name}.safetensors"
    files.write_safetensors(written, arrays, {"teacher": name})
    temporary = output / f".{name}.json.tmp"
    temporary.write_text(json.dumps(description, indent=2) + "\n")
    temporary.replace(output / f"{name}.json")
    return written


def read(teacher: Teacher, weights: Mapping[str, np.ndarray], name: str) -> tuple[nnx.State, formats.Format]:
    """The teacher's state from foreign weights, and the format they are in.

    The final norm is kept; where the file has none of it, which is logged, the state has none either: maps do not need
    it.

    Args:
      teacher: an entry of the registry.
      weights: foreign key -> array.
      name: what the weights are called in errors.

    Raises:
      UserError: a naming that is not known for this teacher, or a key or shape that is not this model's.
    """
    found, weights = formats.identify(weights, teacher.formats, name)
    config = teacher.with_norm(found.has_norm(weights))
    if teacher.has_norm and not config.norm:
        logger.warning("%s has no final norm: it gives maps, but not the tokens after that norm", name)
    native = registry.abstract(teacher, config)
    return formats.load(native, config, weights, found, name), found


def _download(teacher: Teacher) -> epath.Path:
    """The registry's file, by huggingface_hub's cache; raises UserError where it lies elsewhere."""
    if teacher.source.startswith("https://"):
        raise UserError(f"{teacher.name} is not on the hub: fetch {teacher.source} and give it with --input=FILE")
    address = f"https://huggingface.co/{teacher.source}/resolve/main/{teacher.file}"
    remedy = f"fetch {address} and give it with --input=FILE"
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(f"downloading needs huggingface_hub (pip install 'sak_jax[torch]'); or {remedy}") from error
    try:
        if teacher.file.endswith(".index.json"):
            folder = huggingface_hub.snapshot_download(teacher.source, allow_patterns=["*.safetensors", teacher.file])
            return epath.Path(folder) / teacher.file
        return epath.Path(huggingface_hub.hf_hub_download(teacher.source, teacher.file))
    except Exception as error:  # The library raises whatever its HTTP client, the hub or the disk give it.
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{teacher.source} can't be downloaded ({reason}): {remedy}") from error


def _sha256(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
