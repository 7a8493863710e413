"""Students of DUNE and UNIC in the published PyTorch naming, both ways."""

import dataclasses
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.methods.dune.projectors import CLASS, PATCHES
from sak_jax.methods.dune.student import ENCODERS, Followed, Student, StudentConfig, encoder_config
from sak_jax.weights import files, names_authors, names_timm, pickles, signature, states
from sak_jax.weights.rules import LINEAR, Rule, Transform

PREFIXES = ("_orig_mod.", "module.")
"""What PyTorch's wrappers (compilation, data parallel) put before every name."""
POSITIONS = "encoder.pos_embed"
UNIC_STATISTICS = "teacher_ft_stats"
"""Where UNIC's checkpoints keep the statistics, beside the state dict."""
TEACHERS = {
    "dino2reg_vitlarge_14": "dinov2_large_registers",
    "mast3r_vitlarge_16": "mast3r_large",
    "multihmr_vitlarge_14_672": "multihmr_large",
}
"""DUNE's teachers by their names in its checkpoints, and in the registry."""


def read_checkpoint(path: epath.PathLike) -> dict[str, np.ndarray]:
    """The weights of a published file, with UNIC's statistics as `teacher_ft_stats.{teacher}.{kind}.{mean|std}`.

    Raises:
      UserError: see `files.read_weights`.
    """
    path = epath.Path(path).expanduser()
    weights = without_prefixes(files.read_weights(path))
    if any(key.startswith("lp.heads.") for key in weights) and signature.kind(path) == "torch":
        content = pickles.read(path)
        weights |= pickles.arrays(dict(_flat(content.get(UNIC_STATISTICS, {}), UNIC_STATISTICS)), str(path))
    return weights


def _flat(tree: Mapping, prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", value


def without_prefixes(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights without the prefixes of PyTorch's wrappers, in whichever order they are."""
    clean = {}
    for key, value in weights.items():
        while key.startswith(PREFIXES):
            key = key.split(".", 1)[1]
        clean[key] = np.asarray(value)
    return clean


def load_pytorch_state(student: Student, weights: Mapping[str, np.ndarray], *, name: str = "the weights") -> None:
    """Fill a student in place from weights under the published names; it may be abstract (`nnx.eval_shape`).

    Args:
      student: the student.
      weights: PyTorch's state dict as numpy arrays.
      name: what the weights are called in errors.

    Raises:
      UserError: a key is missing or left over, or a shape or a kind differs.
    """
    state = nnx.state(student)
    loaded = states.load(state, without_prefixes(weights), table(student.config), name=name)
    nnx.update(student, jax.tree.map(_place_like, loaded, state))


def pytorch_state(student: Student) -> dict[str, np.ndarray]:
    """The student's weights under the published names, as numpy arrays: the exact inverse of `load_pytorch_state`.

    With a ladder or MLPs these are UNIC's names, and the statistics are apart (`unic_statistics`).
    """
    arrays = states.export(nnx.state(student), table(student.config))
    return {key: value for key, value in arrays.items() if not key.startswith(f"{UNIC_STATISTICS}.")}


def unic_statistics(student: Student) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """The statistics as UNIC's checkpoints hold them beside the state dict; empty for a student of DUNE."""
    nested: dict = {}
    for key, value in states.export(nnx.state(student), table(student.config)).items():
        if key.startswith(f"{UNIC_STATISTICS}."):
            _, teacher, kind, part = key.split(".")
            nested.setdefault(teacher, {}).setdefault(kind, {})[part] = value
    return nested


def _place_like(array: np.ndarray, old: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    return jax.device_put(array, old.sharding) if isinstance(old, jax.Array) else jnp.asarray(array)


def table(config: StudentConfig) -> list[Rule]:
    """The published names of everything a student has."""
    encoder = [*names_authors.dinov2_rules(config.encoder), *names_timm.NORM]
    last = config.encoder.depth - 1 if config.projector == "ladder" else 0
    statistics = "statistics.{teacher}.{kind}.{key}"
    if config.projector == "transformer":
        own = [Rule("teacher_norms.{teacher}.normalizers.{kind}.{key}", statistics)]
    else:
        theirs = f"{UNIC_STATISTICS}.{{teacher}}.{{kind}}.{{key}}"
        own = [
            Rule(theirs.replace("{kind}", kind), statistics.replace("{kind}", kind), _without_axes(axes))
            for kind, axes in ((CLASS, 1), (PATCHES, 2))
        ]
    head = "lp.heads.{teacher}.{kind}"
    ladder = "projectors.{teacher}.ladders.{kind}"
    return [
        *(_in_encoder(rule) for rule in encoder),
        Rule("encoder.mask_token", "mask_token"),
        *(_in_projector(rule) for rule in encoder if rule.target.startswith("blocks.")),
        *_linear("projectors.{teacher}.linear", "projectors.{teacher}.output"),
        *_mlp(f"{head}.{{rung}}", f"{ladder}.rungs"),
        *_mlp(f"{head}.{last}", f"{ladder}.last"),
        *own,
    ]


def _without_axes(count: int) -> Transform:
    """Their array has `count` more leading axes of length 1."""
    return Transform(lambda x: x[(0,) * count], lambda x: (x[(None,) * count],))


def _in_encoder(rule: Rule) -> Rule:
    """The encoder groups its blocks in chunks, of which there is one."""
    source = rule.source.replace("blocks.", "blocks.0.")
    return dataclasses.replace(rule, source=f"encoder.{source}", target=f"encoder.{rule.target}")


def _in_projector(rule: Rule) -> Rule:
    return dataclasses.replace(
        rule, source=f"projectors.{{teacher}}.{rule.source}", target=f"projectors.{{teacher}}.{rule.target}"
    )


def _linear(source: str, target: str) -> list[Rule]:
    return [Rule(f"{source}.weight", f"{target}.kernel", LINEAR), Rule(f"{source}.bias", f"{target}.bias")]


def _mlp(source: str, target: str) -> list[Rule]:
    return [*_linear(f"{source}.layers.0", f"{target}.up"), *_linear(f"{source}.layers.2", f"{target}.down")]


def config_of(weights: Mapping[str, np.ndarray], *, name: str = "the weights") -> StudentConfig:
    """The student that published weights are of, read from their names and shapes.

    UNIC keeps its statistics beside the state dict (`read_checkpoint`): without them features stay standardised.

    Raises:
      UserError: they are not of a student of DUNE or UNIC.
    """
    shapes = {key: value.shape for key, value in without_prefixes(weights).items()}
    positions, patches = shapes.get(POSITIONS), shapes.get("encoder.patch_embed.proj.weight")
    if positions is None or patches is None:
        raise UserError(f"{name}: {POSITIONS} is missing; give a file of a student of DUNE or UNIC")
    width, patch, side = positions[2], patches[-1], round((positions[1] - 1) ** 0.5)
    depth = len({key.split(".")[3] for key in shapes if key.startswith("encoder.blocks.0.")})
    sizes = [size for size, known in ENCODERS.items() if (known["width"], known["depth"]) == (width, depth)]
    if not sizes or side**2 != positions[1] - 1:
        raise UserError(f"{name}: {depth} blocks of width {width} at {positions[1]} positions are no published encoder")
    registers = shapes.get("encoder.register_tokens", (1, 0))[1]
    encoder = encoder_config(
        sizes[0],
        (side * patch, side * patch),
        patch=patch,
        registers=registers,
        layer_scale="encoder.blocks.0.0.ls1.gamma" in shapes,
    )
    teachers = _followed(shapes)
    if not teachers:
        raise UserError(f"{name}: it has no projectors; give the whole student, not its encoder alone")
    standardise = _standardise(shapes)
    head = next((key.split(".")[:4] for key in shapes if key.startswith("lp.heads.")), None)
    if head is None:
        return StudentConfig(encoder, teachers, standardise=standardise)
    hidden = lambda rung: shapes.get(".".join([*head, str(rung), "layers", "0", "bias"]), (0,))[0]  # noqa: E731
    if hidden(depth - 1):
        widths = {"projector": "ladder", "hidden": hidden(0), "last_hidden": hidden(depth - 1)}
    else:
        widths = {"projector": "mlp", "last_hidden": hidden(0)}
    return StudentConfig(encoder, teachers, standardise=standardise, **widths)


def _standardise(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """DUNE's students predict features standardised by the batch, UNIC's by running statistics."""
    known = {"std": "batch", "rotation": "phi_s"}
    for key in shapes:
        if key.startswith("teacher_norms.") and key.split(".")[-1] in known:
            return known[key.split(".")[-1]]
        if key.startswith(f"{UNIC_STATISTICS}."):
            return "running"
    return "none"


def _followed(shapes: Mapping[str, tuple[int, ...]]) -> tuple[Followed, ...]:
    """Teachers with their widths, and the tokens that have heads or statistics of their own; both where none has."""
    widths: dict[str, int] = {}
    kinds: dict[str, set[str]] = {}
    for key, shape in shapes.items():
        words = key.split(".")
        if key.startswith("lp.heads.") and words[-3:] == ["layers", "2", "weight"]:
            widths[words[2]] = shape[0]
            kinds.setdefault(words[2], set()).add(words[3])
        elif words[0] == "projectors" and words[2:] == ["linear", "weight"]:
            widths[words[1]] = shape[0]
        elif words[0] == "teacher_norms":
            kinds.setdefault(words[1], set()).add(words[3])
    both = {CLASS, PATCHES}
    return tuple(
        Followed(teacher, widths[teacher], tuple(sorted(kinds.get(teacher, both)))) for teacher in sorted(widths)
    )
