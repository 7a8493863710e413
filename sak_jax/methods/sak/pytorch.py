"""Students in the published PyTorch naming, both ways."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sak_jax.errors import UserError
from sak_jax.methods.sak.student import Student, StudentConfig
from sak_jax.nn.vit import LoRA
from sak_jax.weights import states
from sak_jax.weights.rules import CONV, CONV_1X1, LINEAR, PATCHES, Rule

POSITIONS = "vit.pos_embed"
PEFT = "base_model.model."
MAPS = {"qkv": ("attn", "attention.qkv"), "proj": ("attn", "attention.output"), "fc1": ("mlp", "mlp.up")}
MAPS |= {"fc2": ("mlp", "mlp.down")}
"""A block's linear maps by timm's names: the foreign module they are in, and our path."""


def load_pytorch_state(
    student: Any,
    weights: Mapping[str, np.ndarray],
    *,
    lora: LoRA | None = None,
    name: str = "the weights",
) -> None:
    """Fill a student in place from weights under the published names.

    Args:
      student: the student, or what `sak_jax.load` gave; it may be abstract (`nnx.eval_shape`), which saves
        initialising it.
      weights: PyTorch's state dict as numpy arrays, of stage 1 (`vit.`, ..) or stage 2 (`backbone.vit.`, `heads.`, ..).
      lora: the low-rank updates in the weights are of this kind, and are merged into the kernels. A student that itself
        has low-rank updates takes them as they are, without this.
      name: what the weights are called in errors.

    Raises:
      UserError: a key is missing or left over, a shape or a kind differs, or the weights are of the other stage; or the
        student is of another method.
    """
    student = _student(student)
    weights = {key: np.asarray(value) for key, value in weights.items()}
    if lora is not None:
        weights = _merge(weights, lora, name)
    config, state = student.config, nnx.state(student)
    stages = {key.startswith("backbone.") for key in weights if key.replace(PEFT, "").endswith(POSITIONS)}
    staged = stages == {True} or (not stages and bool(config.tasks))
    if staged != bool(config.tasks):
        file, model = ("has", "has none") if staged else ("has no", "has some")
        raise UserError(
            f"{name}: the file {file} tasks' weights and the model {model}; "
            + ("give a recipe with tasks" if staged else "give a stage-1 recipe, or start stage 2 from it by init_from")
        )
    _check_positions(weights, config, name)
    table = _table(config, "backbone." if staged else "")
    loaded = states.load(state, weights, table, labels=_labels(config), name=name)
    nnx.update(student, jax.tree.map(place_like, loaded, state))


def pytorch_state(student: Any) -> dict[str, np.ndarray]:
    """The student's weights under the published names, as numpy arrays: the exact inverse of `load_pytorch_state`.

    A student without tasks is written as stage 1, one with tasks as stage 2, low-rank updates in peft's naming.
    Statistics of the teachers' features, which the published code does not keep, are left out.

    Raises:
      UserError: the student is of another method.
    """
    student = _student(student)
    config = student.config
    prefix = "backbone." if config.tasks else ""
    state = nnx.State({part: value for part, value in nnx.state(student).items() if part != "statistics"})
    return states.export(state, _table(config, prefix), labels=_labels(config))


def _student(student: Any) -> Student:
    student = getattr(student, "student", student)
    if not isinstance(student, Student):
        raise UserError(f"a {type(student).__name__} has no published SAK naming: take a student of the method sak")
    return student


def place_like(array: np.ndarray, old: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """The array where the old one lies."""
    return jax.device_put(array, old.sharding) if isinstance(old, jax.Array) else jnp.asarray(array)


def _labels(config: StudentConfig) -> dict:
    return {
        "teacher": tuple(name for name, _ in config.teachers),
        "task": tuple(name for name, _ in config.tasks),
        "tap": config.stem.taps,
        "adapter": range(1, config.stem.depth + 1),
    }


def _linear(source: str, target: str, stack: tuple[str, ...] | None = None) -> list[Rule]:
    return [
        Rule(f"{source}.weight", f"{target}.kernel", LINEAR, stack),
        Rule(f"{source}.bias", f"{target}.bias", stack=stack),
    ]


def _norm(source: str, target: str, stack: tuple[str, ...] | None = None) -> list[Rule]:
    return [
        Rule(f"{source}.weight", f"{target}.scale", stack=stack),
        Rule(f"{source}.bias", f"{target}.bias", stack=stack),
    ]


def _table(config: StudentConfig, prefix: str) -> list[Rule]:
    """The published names of everything a student has; `prefix` leads those outside the heads."""
    backbone = [
        *_stem("vit.", config.stem.lora),
        *_adapter("tsap.{teacher}.0", "adapters.entry", ("teacher",)),
        *_adapter("tsap.{teacher}.{adapter}", "adapters.blocks", ("adapter", "teacher")),
        *_norm("out_norms.{tap}_{teacher}", "output_norms", ("tap", "teacher")),
        *_linear("ts_aligners.{tap}_{teacher}", "aligners.{teacher}"),
        *_linear("mor.{tap}_{task}.router.module.0", "routers.hidden", ("tap", "task")),
        *_norm("mor.{tap}_{task}.router.module.1", "routers.norm", ("tap", "task")),
        *_linear("mor.{tap}_{task}.router.module.3", "routers.output", ("tap", "task")),
    ]
    return [dataclasses.replace(rule, source=prefix + rule.source) for rule in backbone] + _heads()


def _stem(prefix: str, lora: LoRA | None) -> list[Rule]:
    """timm's names of a vision transformer, or peft's where the low-rank updates are."""
    prefix += PEFT if lora else ""
    table = [
        Rule(f"{prefix}cls_token", "stem.class_token"),
        Rule(f"{prefix}pos_embed", "stem.position_embedding"),
        Rule(f"{prefix}patch_embed.proj.weight", "stem.patch_embed.projection.kernel", PATCHES),
        Rule(f"{prefix}patch_embed.proj.bias", "stem.patch_embed.projection.bias"),
        *_norm(prefix + "blocks.{block}.norm1", "stem.blocks.norm1"),
        *_norm(prefix + "blocks.{block}.norm2", "stem.blocks.norm2"),
    ]
    for name, (module, target) in MAPS.items():
        source, target = prefix + "blocks.{block}." + f"{module}.{name}", f"stem.blocks.{target}"
        updated = lora is not None and name in lora.targets
        table += _linear(source + (".base_layer" if updated else ""), target)
        if updated:
            table.append(Rule(f"{source}.lora_A.default.weight", f"{target}.lora_a", LINEAR))
            table.append(Rule(f"{source}.lora_B.default.weight", f"{target}.lora_b", LINEAR))
    return table


def _adapter(source: str, target: str, stack: tuple[str, ...]) -> list[Rule]:
    return [
        Rule(f"{source}.scale", f"{target}.scale", stack=stack),
        *_linear(f"{source}.down", f"{target}.down", stack),
        *_linear(f"{source}.up", f"{target}.up", stack),
    ]


def _heads() -> list[Rule]:
    fuse, norm = "heads.{task}.linear_fuse.0", "heads.{task}.linear_fuse.1"
    return [
        *_linear("heads.{task}.linears.{level}", "heads.trunk.reduce", ("task", "level")),
        Rule(f"{fuse}.weight", "heads.trunk.fuse.kernel", CONV),
        Rule(f"{fuse}.bias", "heads.trunk.fuse.bias"),
        *_norm(norm, "heads.trunk.norm"),
        Rule(f"{norm}.running_mean", "heads.trunk.norm.mean"),
        Rule(f"{norm}.running_var", "heads.trunk.norm.var"),
        # A count that only PyTorch's option momentum=None reads; it is not kept.
        Rule(f"{norm}.num_batches_tracked", None, value=np.zeros((), np.int64)),
        Rule("heads.{task}.last_conv.weight", "heads.output.{task}.kernel", CONV_1X1),
        Rule("heads.{task}.last_conv.bias", "heads.output.{task}.bias"),
    ]


def _check_positions(weights: dict, config: StudentConfig, name: str) -> None:
    """Raises a UserError where the position embedding is for another grid."""
    height, width = config.stem.grid
    for key, value in weights.items():
        if key.replace(PEFT, "").endswith(POSITIONS) and value.ndim == 3 and value.shape[1] != 1 + height * width:
            raise UserError(
                f"{name}: {key} has {value.shape[1] - 1} positions, the model's {height} x {width} grid "
                f"{height * width}; set image_size to the file's, or start from it by init_from, which resamples them"
            )


def _merge(weights: dict, lora: LoRA, name: str) -> dict:
    """peft's weights as the plain transformer's: the updates added into the kernels, the names without the wrapping."""
    merged = {}
    pattern = re.compile(r"(.*)\.lora_([AB])\.default\.weight")
    for key, value in weights.items():
        if pattern.fullmatch(key):
            continue
        module, leaf = key.rpartition(".")[::2]
        if module.endswith(".base_layer"):
            module = module.removesuffix(".base_layer")
            if leaf == "weight":
                value = value + _update(weights, module, value.shape, lora, name)
        merged[f"{module}.{leaf}".replace(PEFT, "")] = value
    bases = {key.rpartition(".base_layer.")[0] for key in weights if ".base_layer." in key}
    stray = [key for key in weights if (match := pattern.fullmatch(key)) and match[1] not in bases]
    if stray or not bases:
        what = f"{stray[0]} updates nothing" if stray else "no low-rank updates are in the file"
        raise UserError(f"{name}: {what}; give a file trained with LoRA")
    return merged


def _update(weights: dict, module: str, shape: tuple[int, ...], lora: LoRA, name: str) -> np.ndarray:
    keys = [f"{module}.lora_{part}.default.weight" for part in "AB"]
    for key, wanted in zip(keys, [(lora.rank, shape[1]), (shape[0], lora.rank)], strict=True):
        if key not in weights:
            raise UserError(f"{name}: key {key} is missing; give a complete file")
        if weights[key].shape != wanted:
            raise UserError(
                f"{name}: {key} has shape {weights[key].shape}, not {wanted}; give the LoRA rank of the file"
            )
    a, b = (weights[key].astype(np.float32) for key in keys)
    return np.float32(lora.alpha / lora.rank) * (b @ a)
