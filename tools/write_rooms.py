"""Writes the procedural data set `rooms` as files in the layout of a published data set.

python tools/write_rooms.py nyud|pascal_context --output=DIR [--train=20 --val=10 --height=425 --width=560 --seed=0]
"""

import sys
from collections.abc import Sequence

from sak_jax import cli
from sak_jax.data.rooms import layouts

LAYOUTS = {
    "nyud": (layouts.write_nyud, (425, 560)),
    "pascal_context": (layouts.write_pascal_context, (375, 500)),
}


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("layout", choices=LAYOUTS)
    parser.add_argument("--output", required=True, help="a folder that does not exist yet, or is empty")
    parser.add_argument("--train", type=int, default=20, help="training images (default %(default)s)")
    parser.add_argument("--val", type=int, default=10, help="validation images (default %(default)s)")
    parser.add_argument("--height", type=int, help="of the images, in pixels (default: the original data set's)")
    parser.add_argument("--width", type=int, help="of the images, in pixels (default: the original data set's)")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(argv)
    write, (height, width) = LAYOUTS[flags.layout]
    size = (height if flags.height is None else flags.height, width if flags.width is None else flags.width)
    write(flags.output, flags.train, flags.val, size=size, seed=flags.seed)
    print(f"wrote {flags.train} training and {flags.val} validation images to {flags.output}")


if __name__ == "__main__":
    sys.exit(main())
