"""Turns the original files of a data set into ArrayRecord, to be read faster and from anywhere.

python tools/prepare_data.py nyud|pascal_context|imagenet --source=DIR --output=DIR

Then train with --config.data.root=DIR. Run again after an interruption it continues.
"""

import sys
from collections.abc import Sequence

from sak_jax import cli
from sak_jax.data import prepare


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("dataset", choices=prepare.BUILDERS)
    parser.add_argument("--source", required=True, help="the folder of the original files")
    parser.add_argument("--output", required=True, help="the folder to write to, local or gs://")
    parser.add_argument("--splits", help="default train,val; imagenet: train")
    parser.add_argument(
        "--on_error", choices=("raise", "skip"), default="raise", help="skip: leave damaged samples out"
    )
    parser.add_argument("--samples_per_shard", type=int, default=0, help="default: shards of some 150 MB")
    flags = parser.parse_args(argv)
    splits = tuple(flags.splits.split(",")) if flags.splits else ()
    counts, problems = prepare.prepare(
        flags.dataset, flags.source, flags.output, splits, flags.on_error, flags.samples_per_shard
    )
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"wrote {', '.join(f'{count} {split}' for split, count in counts.items())} samples to {flags.output}")


if __name__ == "__main__":
    sys.exit(main())
