"""Stage 1: a student learns the committee's features on ImageNet-1k, without labels.

python -m sak_jax.main --config=configs/imagenet.py --config.data.root=DIR

Other sizes: `--config=configs/imagenet.py:stem=small,teachers=base --workdir=runs/imagenet_small`. Published pairs of
stem and teachers are base and base, small and base, base and large, large and large; any other pair will do.
`preset=frontier` has DINOv3 in the committee, native normalisations and SAM's padding left out; `committee=dinov2` or
`committee=dinov2+siglip+sam_huge` names other teachers.

`DIR` holds `train.tar`, `ILSVRC2012_img_train.tar`, the folders `train/CLASS/`, or what `tools/prepare_data.py` wrote.
Teachers come from `tools/convert_teacher.py`; the stem starts from an augreg checkpoint (`config.model.stem_init`).
To try it without weights: `--config.teachers.random=True`. 128 images a step over all devices, for 300 270 steps.
"""

from sak_jax.methods.sak import recipes


def get_config(text: str = ""):
    """The recipe; its arguments are stem, teachers, preset and committee."""
    config = recipes.distill(recipes.arguments(text))
    config.data.name = "imagenet"
    return config
