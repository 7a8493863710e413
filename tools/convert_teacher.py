"""Convert a teacher's weights: timm, Hugging Face, OpenCLIP, the authors' own, or augreg's .npz -> ours.

    python tools/convert_teacher.py NAME [--input=FILE] --output=DIR

NAME is one of docs/teachers.md. Without --input the weights are downloaded from the Hugging Face hub. DIR gets
NAME.safetensors and NAME.json, which says what it is; give the folder to a recipe as --config.teachers.dir=DIR, or in
the environment variable SAK_JAX_TEACHERS.
"""

import sys
from collections.abc import Sequence

from sak_jax import cli


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("name", metavar="NAME", help="the teacher, as docs/teachers.md calls it")
    parser.add_argument("--input", metavar="FILE", help="a local .safetensors, .bin, .pth, .pt or .npz file")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder of converted weights")
    arguments = parser.parse_args(argv)
    from sak_jax.teachers.conversion import convert_teacher  # After parsing: a mistyped flag is told at once.

    print(f"wrote {convert_teacher(arguments.name, arguments.output, arguments.input)}")


if __name__ == "__main__":
    sys.exit(main())
