"""Convert a teacher's weights: timm, Hugging Face, OpenCLIP, the authors' own, or augreg's .npz -> ours.

    python tools/convert_teacher.py NAME [--input=FILE] --output=DIR

NAME is one of docs/teachers.md. Without --input the weights are downloaded from the Hugging Face hub. DIR gets
NAME.safetensors and NAME.json, which says what it is; give the folder to a recipe as --config.teachers.dir=DIR, or in
the environment variable SAK_JAX_TEACHERS.
"""

import argparse
import sys

from sak_jax.errors import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message} (--help lists the flags)")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", help="the teacher, as docs/teachers.md calls it")
    parser.add_argument("--input", metavar="FILE", help="a local .safetensors, .bin, .pth, .pt or .npz file")
    parser.add_argument("--output", metavar="DIR", required=True, help="folder of converted weights")
    try:
        arguments = parser.parse_args(argv)
        from sak_jax.convert.teachers import convert_teacher  # After parsing: a mistyped flag is told at once.

        written = convert_teacher(arguments.name, arguments.output, arguments.input)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"wrote {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
