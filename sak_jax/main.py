"""The command line: `python -m sak_jax.main --config=configs/rooms.py [--workdir=DIR] [--mode=train|evaluate]`."""

import logging
import sys
import time
from collections.abc import Sequence

from etils import epath

from sak_jax import cli, paths


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs a recipe."""
    started = time.monotonic()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("sak_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns of what is as it should be.
    parser = cli.Parser(__doc__)
    parser.add_argument("--workdir", metavar="DIR", help="where the run lies (default: runs/NAME)")
    parser.add_argument("--mode", default="train", choices=("train", "evaluate"), help="evaluate: do that only")
    options, config = parser.parse_recipe(argv)
    workdir = epath.Path(options.workdir or f"runs/{cli.recipe_name(options.config)}").expanduser()
    paths.check_remote(workdir, config.init_from, config.teachers.dir)
    from sak_jax import run  # After parsing: a mistyped flag is told before JAX is imported.

    run.start_jax(config)
    run.run(config, workdir, options.mode, started)


if __name__ == "__main__":
    sys.exit(main())
