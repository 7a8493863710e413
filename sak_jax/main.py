"""The command line: `python -m sak_jax.main --config=configs/rooms.py [--workdir=DIR] [--mode=train|evaluate]`."""

import signal
import sys
import time
from collections.abc import Sequence

from sak_jax.command import end

if __name__ == "__main__":  # Before the imports, which take seconds: Ctrl-C is one line from the start.
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)

from sak_jax import cli  # noqa: E402


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs a recipe."""
    from sak_jax.engine.stop import Stop

    started = time.monotonic()
    with Stop().listening() as stop:
        cli.show_progress()
        parser = cli.Parser(__doc__)
        parser.add_argument("--workdir", metavar="DIR", help="where the run lies (default: runs/NAME)")
        parser.add_argument("--mode", default="train", choices=("train", "evaluate"), help="evaluate: do that only")
        parser.add_argument("--best", action="store_true", help="evaluate the checkpoint with the highest score")
        options, config = parser.parse_recipe(argv)
        if options.best and options.mode != "evaluate":
            parser.error("--best goes with --mode=evaluate")
        workdir = cli.workdir(options)
        from sak_jax import run  # After parsing: a mistyped flag is told before JAX is imported.

        run.start_jax(config)
        run.run(config, workdir, run.Options(options.mode, options.best), stop, started)


if __name__ == "__main__":
    sys.exit(main())
