"""The plain vision transformers among the teachers: augreg ViT, DINOv2, CLIP and relatives, and DINOv3."""

import dataclasses

import numpy as np
from flax import nnx

from sak_jax.nn import resize
from sak_jax.nn.vit import ViT, ViTConfig
from sak_jax.teachers.entry import CLIP, HALF, IMAGENET, TAPS, Family, Teacher
from sak_jax.weights import names_authors, names_huggingface, names_timm

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
    """Position embeddings resized bicubically: with antialias (timm's rule for loading weights at another size), or
    where the config has an offset as DINOv2's own code does.
    """
    if "position_embedding" not in state or config.grid == new.grid:
        return state
    variable = state["position_embedding"]
    positions = resize.resize_positions(
        variable.get_value(),
        config.grid,
        new.grid,
        prefix=int(config.class_token),
        antialias=not new.position_offset,
        offset=new.position_offset,
    )
    flat = dict(nnx.to_flat_state(state))
    return nnx.from_flat_state(flat | {("position_embedding",): variable.replace(np.asarray(positions))})


PLAIN = Family(create, fit, norm="norm")


def config(size: str, patch: int, image: int, **options) -> ViTConfig:
    """The config of one of the usual sizes, with the final norm."""
    sizes = SIZES[size]
    taps = TAPS[sizes["depth"]]
    return ViTConfig(**sizes, patch=patch, taps=taps, image_size=(image, image), **{"norm": True} | options)


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
            normalisation=HALF,
            formats=(names_authors.AUGREG, names_timm.VIT),
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
                    formats=(names_huggingface.DINOV2, names_authors.DINOV2, names_timm.VIT),
                )
            )
    return teachers


def _clip() -> list[Teacher]:
    quick = {"activation": "quick_gelu"}
    names = {
        "clip_base": ("base", 16, 384, {}, "timm/vit_base_patch16_clip_384.laion2b_ft_in12k_in1k", "Apache-2.0"),
        "clip_large": ("large", 14, 336, {}, "timm/vit_large_patch14_clip_336.laion2b_ft_in12k_in1k", "Apache-2.0"),
        "openaiclip_base": ("base", 16, 224, quick, "timm/vit_base_patch16_clip_224.openai", "MIT"),
        "openaiclip_large": ("large", 14, 336, quick, "timm/vit_large_patch14_clip_336.openai", "MIT"),
        "openclip_base": ("base", 16, 224, {}, "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", "MIT"),
        "openclip_large": ("large", 14, 224, {}, "laion/CLIP-ViT-L-14-laion2B-s32B-b82K", "MIT"),
        "dfnclip_base": ("base", 16, 224, quick, "apple/DFN2B-CLIP-ViT-B-16", "Apple ASCL"),
        "dfnclip_large": ("large", 14, 224, quick, "apple/DFN2B-CLIP-ViT-L-14", "Apple ASCL"),
        "dfnclip_huge": ("huge", 14, 378, quick, "apple/DFN5B-CLIP-ViT-H-14-378", "Apple ASCL"),
    }
    options = {"norm_before": True, "patch_bias": False, "eps": 1e-5}
    return [
        Teacher(
            name=name,
            family=PLAIN,
            config=config(size, patch, image, **options, **more),
            source=source,
            licence=licence,
            normalisation=HALF if name in ("clip_large", "openclip_large") else CLIP,
            formats=(names_timm.VIT, names_authors.OPEN_CLIP, names_huggingface.CLIP),
            file="model.safetensors" if source.startswith("timm/") else "open_clip_pytorch_model.bin",
        )
        for name, (size, patch, image, more, source, licence) in names.items()
    ]


def _dinov3() -> list[Teacher]:
    gated = {"mlp": "swiglu"}
    sizes = {
        "small": (384, 12, 6, "vits16", {}),
        "base": (768, 12, 12, "vitb16", {}),
        "large": (1024, 24, 16, "vitl16", {}),
        "huge_plus": (1280, 32, 20, "vith16plus", gated | {"mlp_hidden": 5120}),
        "7b": (4096, 40, 32, "vit7b16", gated | {"mlp_hidden": 8192, "qkv_bias": False}),
    }
    return [
        Teacher(
            name=f"dinov3_{size}",
            family=PLAIN,
            config=ViTConfig(
                width, depth, heads, 16, TAPS[depth], (256, 256), eps=1e-5, registers=4, layer_scale=True, rotary=100.0,
                norm=True, **options,
            ),
            source=f"facebook/dinov3-{file}-pretrain-lvd1689m",
            licence="DINOv3 License",
            normalisation=IMAGENET,
            formats=(names_huggingface.DINOV3, names_authors.DINOV3, names_timm.DINOV3_WITH_BIASES, names_timm.DINOV3),
            file="model.safetensors.index.json" if size == "7b" else "model.safetensors",
        )
        for size, (width, depth, heads, file, options) in sizes.items()
    ]  # fmt: skip


def _siglip() -> list[Teacher]:
    shape = {"width": 1152, "depth": 27, "heads": 16, "mlp_hidden": 4304}
    sizes = {"base": SIZES["base"], "large": SIZES["large"], "so400m": shape}
    models = {
        "siglip_base": ("base", 16, 512, "google/siglip-base-patch16-512"),
        "siglip_large": ("large", 16, 384, "google/siglip-large-patch16-384"),
        "siglip_so400m": ("so400m", 14, 384, "google/siglip-so400m-patch14-384"),
        "siglip2_base": ("base", 16, 512, "google/siglip2-base-patch16-512"),
        "siglip2_large": ("large", 16, 512, "google/siglip2-large-patch16-512"),
        "siglip2_so400m": ("so400m", 14, 384, "google/siglip2-so400m-patch14-384"),
    }
    return [
        Teacher(
            name=name,
            family=PLAIN,
            config=ViTConfig(
                **sizes[size],
                patch=patch,
                taps=TAPS[sizes[size]["depth"]],
                image_size=(image, image),
                class_token=False,
                activation="gelu_tanh",
                norm=True,
            ),
            source=source,
            licence="Apache-2.0",
            normalisation=HALF,
            formats=(names_huggingface.SIGLIP, names_timm.VIT),
        )
        for name, (size, patch, image, source) in models.items()
    ]


def _theia() -> list[Teacher]:
    return [
        Teacher(
            name=f"theia_{size}",
            family=PLAIN,
            config=config(size, 16, 224, eps=1e-12),
            source=f"theaiinstitute/theia-{size}-patch16-224-cdiv",
            licence="The AI Institute License",
            normalisation=IMAGENET,
            formats=(names_huggingface.THEIA,),
        )
        for size in ("small", "base")
    ]


def fit_radio(state: nnx.State, config: ViTConfig, new: ViTConfig) -> nnx.State:
    """RADIO's rule: the grid resized to a square of the longer side, bilinearly without antialias, then cropped."""
    if config.grid == new.grid:
        return state
    side = max(new.grid)
    rows, columns = (resize.bilinear_matrix(n, side) for n in config.grid)
    variable = state["position_embedding"]
    grid = np.asarray(variable.get_value()).reshape(*config.grid, config.width)
    grid = np.einsum("yh,xw,hwd->yxd", rows[: new.grid[0]], columns[: new.grid[1]], grid, optimize=True)
    flat = dict(nnx.to_flat_state(state))
    value = grid.reshape(1, -1, config.width).astype(np.float32)
    return nnx.from_flat_state(flat | {("position_embedding",): variable.replace(value)})


def _radio() -> list[Teacher]:
    options = {"class_token": False, "registers": 8, "patch_bias": False, "norm": False}
    models = {
        "radio_base": ("base", {}, "nvidia/RADIO-B", "NVIDIA Source Code License-NC"),
        "radio_large": ("large", {}, "nvidia/RADIO-L", "NVIDIA Source Code License-NC"),
        "cradio3_base": ("base", {"layer_scale": True}, "nvidia/C-RADIOv3-B", "NVIDIA Open Model License"),
        "cradio3_large": ("large", {"layer_scale": True}, "nvidia/C-RADIOv3-L", "NVIDIA Open Model License"),
        "cradio3_huge": ("huge", {}, "nvidia/C-RADIOv3-H", "NVIDIA Open Model License"),
    }
    return [
        Teacher(
            name=name,
            family=Family(create, fit_radio),
            config=config(size, 16, 2048, **options, **more),
            source=source,
            licence=licence,
            normalisation=CLIP,
            formats=tuple(names_huggingface.RADIO),
        )
        for name, (size, more, source, licence) in models.items()
    ]


def _mast3r() -> Teacher:
    """The encoder of MASt3R: CroCo's transformer with rotary positions, without class token."""
    return Teacher(
        name="mast3r_large",
        family=PLAIN,
        config=config("large", 16, 512, class_token=False, rotary=100.0, rotary_counts=True),
        source="naver/MASt3R_ViTLarge_BaseDecoder_512_catmlpdpt_metric",
        licence="CC BY-NC-SA 4.0",
        normalisation=HALF,
        formats=(names_authors.MAST3R,),
    )


def _multihmr() -> Teacher:
    """The encoder of Multi-HMR: DINOv2's transformer without registers, fine-tuned at 672 x 672."""
    return Teacher(
        name="multihmr_large",
        family=PLAIN,
        config=config("large", 14, 518, layer_scale=True, position_offset=0.1),
        source="https://download.europe.naverlabs.com/ComputerVision/MultiHMR/multiHMR_672_L.pt",
        licence="CC BY-NC-SA 4.0",
        normalisation=IMAGENET,
        formats=(names_authors.MULTIHMR,),
    )


TEACHERS = [*_augreg(), *_dinov2(), *_dinov3(), *_clip(), *_siglip(), *_theia(), *_radio(), _mast3r(), _multihmr()]
