"""The student: a teacher-agnostic stem, adapter paths, routers and decode heads."""

import dataclasses
import typing
from collections.abc import Collection
from functools import partial

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from sak_jax.methods.distillation import state
from sak_jax.methods.sak import adapters, routers
from sak_jax.nn import heads, layers, placement, remat
from sak_jax.nn.vit import ViT, ViTConfig

STEMS = {
    "tiny": {"width": 96, "depth": 8, "heads": 3, "patch": 8},
    "small": {"width": 384, "depth": 12, "heads": 6, "patch": 16},
    "base": {"width": 768, "depth": 12, "heads": 12, "patch": 16},
    "large": {"width": 1024, "depth": 24, "heads": 16, "patch": 16},
}
"""Stems by name: the published three (SAK, section 4.1) and one that trains in minutes on a laptop."""

LEVELS = 4


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """What a student is made of.

    Attributes:
      stem: the vision transformer; its taps end the levels, which have equally many blocks.
      teachers: (name, width) of each teacher in the order of the experts; empty for a student without teachers.
      tasks: (name, channels) of each task; empty in stage 1.
      aligners: names of the teachers whose features pass a linear map to the teacher's width.
      router: `mor`, or `none` for the plain sum of all experts.
      noisy_gating: whether routers learn a noise deviation and training draws noise.
      paths: whether each teacher has a path of adapters. Without, the stem itself is compared with all teachers, each
        through a norm and an aligner of its own, and heads see the stem alone ("many-to-one").
      trunk: of the decode heads: `own`, or `shared`: one linear map of the levels for all tasks.
      down_ratio: adapters have width / down_ratio channels inside.
      standardise: how teacher features are standardised, a key of `distillation.statistics`.
      dtype: of the computation; parameters are float32.
      remat: what training keeps for the backward pass, see `remat.checkpoint`: `named` (fast, little memory), `none`,
        `dots`, `blocks` or `full` (slowest, least memory). True and False are `blocks` and `none`.
    """

    stem: ViTConfig
    teachers: tuple[tuple[str, int], ...]
    tasks: tuple[tuple[str, int], ...]
    aligners: tuple[str, ...] = ()
    router: str = "mor"
    noisy_gating: bool = True
    paths: bool = True
    trunk: str = "own"
    down_ratio: int = 4
    standardise: str = "none"
    dtype: str = "float32"
    remat: str | bool = "named"


@typing.no_type_check  # A tree of anything, as far as JAX is concerned: of shapes under `jax.eval_shape`.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a student gives for a batch of images.

    Attributes:
      predictions: each task's raw head output at image size, float32 `[b, H, W, channels]`.
      aligned: each teacher's features as distillation compares them, one `[b, h, w, C_teacher]` a level.
      routing: each task's weights `[b, levels, experts]` (experts: stem, teachers); empty without routers. In training
        with noisy gating the mean over positions.
    """

    predictions: dict[str, Float[Array, "b H W channels"]]
    aligned: dict[str, tuple[Float[Array, "b _ _ _"], ...]]
    routing: dict[str, Float[Array, "b levels experts"]]


class Student(nnx.Module):
    """Stem, teacher-specific adapter paths, routers and heads (SAK, section 3).

    The four levels are alike, so they are one scan (see `_written_out`): blocks and adapters first, then at the tap
    norms, aligners and routers. Stacked parameters: stem blocks `[depth]`, adapters `[depth, teachers]`, output norms
    `[levels, teachers]`, aligners `[levels]`, routers `[levels, tasks]`, heads `[tasks]`.
    """

    def __init__(self, config: StudentConfig, *, rngs: nnx.Rngs):
        stem, dtype = config.stem, jnp.dtype(config.dtype)
        width, teachers, tasks = stem.width, len(config.teachers), len(config.tasks)
        if stem.taps != tuple(range(stem.depth // LEVELS - 1, stem.depth, stem.depth // LEVELS)):
            raise ValueError(f"the stem's taps {stem.taps} must end {LEVELS} levels of equally many blocks")
        self.stem = ViT(stem, dtype=dtype, rngs=rngs)

        def norm(rngs):
            return nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)

        def aligner(target, rngs):
            return layers.Linear(width, target, dtype=dtype, kernel_init=layers.truncated_normal, rngs=rngs)

        def router(rngs):
            return routers.MixtureOfRepresentations(
                width, 1 + teachers * config.paths, noisy_gating=config.noisy_gating, dtype=dtype, rngs=rngs
            )

        paths = (teachers, stem.depth, width, config.down_ratio)
        routed = tasks and config.router == "mor"
        self.adapters = adapters.AdapterPaths(*paths, dtype=dtype, rngs=rngs) if teachers and config.paths else None
        self.output_norms = layers.stack(norm, [LEVELS, teachers], rngs) if teachers else None
        self.aligners = nnx.Dict(
            {
                name: layers.stack(partial(aligner, target), [LEVELS], rngs)
                for name, target in config.teachers
                if name in config.aligners
            }
        )
        self.routers = layers.stack(router, [LEVELS, tasks], rngs) if routed else None
        policy = remat.policy(config.remat)
        options = {"dtype": dtype, "policy": policy, "shared": config.trunk == "shared"}
        head = partial(heads.DecodeHeads, width, LEVELS, dict(config.tasks), **options)
        self.heads = head(rngs=rngs) if tasks else None
        levels = [f"level{level}" for level in range(LEVELS)]
        widths = {name: dict.fromkeys(levels, target) for name, target in config.teachers}
        self.statistics = state.create(config.standardise, widths)
        self.config = config

    @property
    def patch(self) -> int:
        """What the sides of its images are multiples of."""
        return self.config.stem.patch

    def __call__(
        self,
        images: Float[Array, "b H W 3"],
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
        outputs: Collection[str] = ("predictions", "aligned", "routing"),
    ) -> Outputs:
        """Predictions, aligned features and routing weights.

        Args:
          images: ImageNet-normalised.
          train: batch statistics from the batch (and updated in place), noisy gating on.
          rngs: a `noise` stream; wanted in training with noisy gating.
          outputs: what is computed; the fields of the others are empty. `("predictions",)` needs no aligners.
        """
        config = self.config
        grid = images.shape[1] // config.stem.patch, images.shape[2] // config.stem.patch
        routed = self.routers is not None and not {"predictions", "routing"}.isdisjoint(outputs)
        noisy = train and routed and config.noisy_gating
        x = placement.pin(self.stem.embed(images))
        residuals = ()
        if self.adapters is not None:
            residuals = adapters.adapt(self.adapters.entry, [x] * len(config.teachers))
        per_level = lambda p: p.reshape(LEVELS, -1, *p.shape[1:])  # noqa: E731
        levels = {
            "blocks": jax.tree.map(per_level, self.stem.blocks),
            "adapters": jax.tree.map(per_level, self.adapters.blocks) if self.adapters is not None else None,
            "norms": self.output_norms,
            "aligners": dict(self.aligners.items()) if "aligned" in outputs else {},
            "routers": self.routers if routed else None,
            "key": jax.random.split(rngs.noise(), LEVELS) if noisy else None,
        }
        level = partial(self._level, outputs=outputs)
        _, taps = layers.run_in_turn(level, (x, residuals), levels, unroll=_written_out())
        # Each as {name: one entry a level}.
        aligned, mixed, routing = (
            {name: [tap[part][name] for tap in taps] for name in taps[0][part]} for part in range(3)
        )
        to_map = partial(rearrange, pattern="b (h w) d -> b h w d", h=grid[0], w=grid[1])
        to_maps = lambda tokens: {name: tuple(map(to_map, each)) for name, each in tokens.items()}  # noqa: E731
        return Outputs(
            predictions=self.heads(to_maps(mixed), images.shape[1:3], train) if mixed else {},
            aligned=to_maps(aligned),
            routing={
                task: jnp.concatenate([each[:, None] for each in weights], axis=1) for task, weights in routing.items()
            },
        )

    def _level(self, carry, level, *, outputs):
        """A level's blocks and adapters, then its tap: (tokens, residuals) -> the same, and what the tap gives."""

        def block(carry, parts):
            (x, residuals), (block, path) = carry, placement.whole(parts)
            x = remat.keep(block(x), "block")
            if path is not None:
                residuals = adapters.adapt(path, [r + x for r in residuals])
            return (x, residuals), None

        block = remat.checkpoint(block, self.config.remat)
        carry, _ = jax.lax.scan(block, carry, (level.pop("blocks"), level.pop("adapters")))
        tap = partial(self._tap, outputs=outputs)
        tap = remat.checkpoint(tap, self.config.remat, block=False, scanned=not _written_out())
        return carry, tap(carry, level)

    def _tap(self, carry, level, *, outputs):
        """The aligned features `{teacher: [b, n, d]}`, and each task's mixed tokens and routing weights."""
        prefix = self.config.stem.prefix
        norms, aligners, own_routers = placement.whole((level["norms"], level["aligners"], level["routers"]))
        stem, *residuals = (x[:, prefix:] for x in (carry[0], *carry[1]))
        if not self.config.paths:
            residuals = [stem] * len(self.config.teachers)
        features = [layers.take(norms, index)(x) for index, x in enumerate(residuals)]
        aligned, mixed, routing = {}, {}, {}
        if "aligned" in outputs:
            for (name, _), feature in zip(self.config.teachers, features, strict=True):
                aligner = aligners.get(name)
                aligned[name] = feature if aligner is None else aligner(feature)
        experts, noise = [stem, *features] if self.config.paths else [stem], None
        if level["key"] is not None:
            noise = jax.random.normal(level["key"], (len(self.config.tasks), *stem.shape[:2], len(experts)))
        for index, (task, _) in enumerate(self.config.tasks):
            if own_routers is None:
                if "predictions" in outputs:
                    mixed[task] = sum(experts)
                continue
            weights = layers.take(own_routers, index)(stem, None if noise is None else noise[index])
            if "predictions" in outputs:
                mixed[task] = routers.mix(weights, experts)
            if "routing" in outputs:
                routing[task] = jnp.mean(weights, axis=1)
        return aligned, mixed, routing


def _written_out() -> bool:
    """Whether the levels stand one after another in the program, instead of in a scan.

    On a GPU copying what the backward pass needs in and out of stacks twice, for blocks and levels, costs a seventh of
    the training step; elsewhere compiling four times as much costs more than it gains.
    """
    return placement.platform() == "gpu"


def merge_lora(student: Student) -> Student:
    """A student without low-rank updates that computes the same: they are added into the kernels."""
    config = dataclasses.replace(student.config, stem=dataclasses.replace(student.config.stem, lora=None))
    plain = nnx.eval_shape(lambda: Student(config, rngs=nnx.Rngs(0)))
    state = dict(nnx.to_flat_state(nnx.state(student)))
    merged = {}
    for path, value in nnx.to_flat_state(nnx.state(plain)):
        merged[path] = state[path]
        if (*path[:-1], "lora_a") in state:
            a, b = state[*path[:-1], "lora_a"][...], state[*path[:-1], "lora_b"][...]
            if path[-1] == "kernel":
                scale = student.config.stem.lora.alpha / student.config.stem.lora.rank
                merged[path] = value.replace(state[path][...] + scale * a @ b)
    nnx.update(plain, nnx.from_flat_state(merged))
    return plain
