"""Print the table of teachers in docs/teachers.md.

    python tools/list_teachers.py [--image_size=448,576]

Parameters are those the features need (no heads, no text towers). GFLOPs count matrix products, two a multiply-add, for
one image of that size as the committee feeds it (SAM: padded to 1024 x 1024).
"""

import re
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from sak_jax import cli
from sak_jax.engine import flops
from sak_jax.teachers import registry

FULL_SIZE = {
    *("vit_base", "dinov2_base", "clip_base", "siglip_base", "openaiclip_base", "theia_base"),
    *("dinov3_base", "cradio3_base", "sam_base", "swin_base"),
}
"""Whose features the tests compare with the reference at full size."""

SMALLEST, LARGEST = 224, 4096
"""Sides of images; Swin takes no smaller ones."""


def row(name: str, size: tuple[int, int]) -> str:
    """A line of the table."""
    teacher = registry.get(name)
    config = teacher.for_size(size)
    module = registry.abstract(teacher, config)
    parameters = sum(x.size for x in jax.tree.leaves(nnx.state(registry.abstract(teacher, teacher.with_norm(False)))))
    images = jax.ShapeDtypeStruct((1, *config.image_size, 3), jnp.float32)
    work = flops.count(lambda module, images: module(images), module, images)
    cells = [
        f"`{name}`",
        f"{parameters / 1e6:,.1f}",
        f"{work / 1e9:,.0f}",
        " ".join(str(width) for width in dict.fromkeys(teacher.widths)),
        "with the package" if teacher.packaged else f"`{teacher.source}`",
        teacher.licence,
        "features" if name in FULL_SIZE else "its own probes" if teacher.packaged else "shapes and options",
    ]
    return f"| {' | '.join(cells)} |"


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--image_size", default="448,576", metavar="HEIGHT,WIDTH")
    given = parser.parse_args(argv).image_size
    found = re.fullmatch(r"([0-9]{1,5}),([0-9]{1,5})", given)
    if not found or not all(SMALLEST <= int(side) <= LARGEST for side in found.groups()):
        parser.error(f"--image_size={given} is not HEIGHT,WIDTH of {SMALLEST} to {LARGEST} pixels")
    size = int(found[1]), int(found[2])
    print("| teacher | parameters, M | GFLOPs | width | weights | licence | verified |")
    print("|---|---|---|---|---|---|---|")
    for name in registry.TEACHERS:
        print(row(name, size), flush=True)


if __name__ == "__main__":
    sys.exit(main())
