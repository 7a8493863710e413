"""Convert a teacher's weights: timm, Hugging Face, OpenCLIP, the authors' own, or augreg's .npz -> ours.

    python tools/convert_teacher.py NAME [--input=FILE] [--output=DIR] [--weights=WHICH] [--force]

NAME is one of docs/teachers.md. Without --input the weights are downloaded from the Hugging Face hub. DIR gets
NAME.safetensors and NAME.json, which says what it is; without --output it is where recipes look: $SAK_JAX_TEACHERS, or
~/.cache/sak_jax/teachers. Give another folder to a recipe as --config.teachers.dir=DIR.

NAME may also be stem_small, stem_base or stem_large: the augreg checkpoint that a student's stem starts from is
downloaded and checked, into ~/.cache/sak_jax/stems.

A training run's file may hold several weights: --weights=ema, --weights=teacher.backbone says which are meant.
"""

import sys
from collections.abc import Sequence

from sak_jax import cli


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("name", metavar="NAME", help="the teacher, as docs/teachers.md calls it, or stem_SIZE")
    parser.add_argument("--input", metavar="FILE", help="a local .safetensors, .bin, .pth, .pt or .npz file")
    parser.add_argument("--output", metavar="DIR", default="", help="folder of converted weights")
    parser.add_argument("--weights", metavar="WHICH", default="", help="of a file that holds several: ema, teacher, ..")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    arguments = parser.parse_args(argv)
    from sak_jax.teachers import conversion, stems  # After parsing: a mistyped flag is told at once.

    kind, _, size = arguments.name.partition("_")
    if kind == "stem" and size in stems.FILES:
        if arguments.weights:
            parser.error(f"--weights={arguments.weights}: the file of a stem holds one set of weights")
        written = stems.fetch(size, arguments.output, arguments.input, force=arguments.force)
    else:
        written = conversion.convert_teacher(
            arguments.name, arguments.output, arguments.input, weights=arguments.weights, force=arguments.force
        )
    print(f"wrote {written}")


if __name__ == "__main__":
    sys.exit(main())
