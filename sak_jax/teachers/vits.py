"""The plain vision transformers among the teachers: augreg ViT, DINOv2, CLIP and relatives, and DINOv3."""

import dataclasses

import numpy as np
from flax import nnx

from sak_jax.convert import timm
from sak_jax.models import resize
from sak_jax.models.vit import ViT, ViTConfig
from sak_jax.teachers.entry import CLIP, IMAGENET, TAPS, Family, Teacher

SIZES = {
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
    "huge": {"width": 1280, "depth": 32, "heads": 16},
    "giant": {"width": 1536, "depth": 40, "heads": 24},
}


def create(config: ViTConfig, dtype, rngs: nnx.Rngs) -> ViT:
    """A vision transformer that gives its maps at the taps."""
    return ViT(config, dtype=dtype, rngs=rngs)


def fit(state: nnx.State, config: ViTConfig, new: ViTConfig) -> nnx.State:
    """Position embeddings resized bicubically with antialias (timm's rule for loading weights at another size)."""
    if "position_embedding" not in state or config.grid == new.grid:
        return state
    variable = state["position_embedding"]
    positions = resize.resize_positions(
        variable.get_value(), config.grid, new.grid, prefix=int(config.class_token), antialias=True
    )
    flat = dict(nnx.to_flat_state(state))
    return nnx.from_flat_state(flat | {("position_embedding",): variable.replace(np.asarray(positions))})


PLAIN = Family(create, fit)


def config(size: str, patch: int, image: int, **options) -> ViTConfig:
    """The config of one of the usual sizes."""
    sizes = SIZES[size]
    return ViTConfig(**sizes, patch=patch, taps=TAPS[sizes["depth"]], image_size=(image, image), **options)


def _augreg() -> list[Teacher]:
    names = {
        "small": ("small", 16, 384),
        "base": ("base", 16, 384),
        "large": ("large", 16, 384),
        "huge": ("huge", 14, 224),
    }
    return [
        Teacher(
            name=f"vit_{size}",
            family=PLAIN,
            config=config(size, patch, image),
            source=f"timm/vit_{size}_patch{patch}_{image}."
            + ("orig_in21k" if size == "huge" else "augreg_in21k_ft_in1k"),
            licence="Apache-2.0",
            normalisation=((0.5,) * 3, (0.5,) * 3),
            formats=(timm.VIT,),
        )
        for size, patch, image in names.values()
    ]


def _dinov2() -> list[Teacher]:
    teachers = []
    for size in ("small", "base", "large", "giant"):
        options = {"mlp": "swiglu", "mlp_hidden": 4096} if size == "giant" else {}
        plain = config(size, 14, 518, layer_scale=True, **options)
        for registers in (0, 4):
            teachers.append(
                Teacher(
                    name=f"dinov2_{size}" + ("_registers" if registers else ""),
                    family=PLAIN,
                    config=dataclasses.replace(plain, registers=registers),
                    source=f"timm/vit_{size}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m",
                    licence="Apache-2.0",
                    normalisation=IMAGENET,
                    formats=(timm.VIT,),
                )
            )
    return teachers


CLIP_OPTIONS = {"norm_before": True, "patch_bias": False, "eps": 1e-5}


def _clip() -> list[Teacher]:
    return [
        Teacher(
            name=f"clip_{size}",
            family=PLAIN,
            config=config(size, patch, image, **CLIP_OPTIONS),
            source=f"timm/vit_{size}_patch{patch}_clip_{image}.laion2b_ft_in12k_in1k",
            licence="Apache-2.0",
            normalisation=normalisation,
            formats=(timm.VIT,),
        )
        for size, patch, image, normalisation in (("base", 16, 384, CLIP), ("large", 14, 336, ((0.5,) * 3, (0.5,) * 3)))
    ]


TEACHERS = [*_augreg(), *_dinov2(), *_clip()]
