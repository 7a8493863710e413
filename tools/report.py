"""Write the report of a run, or of several side by side, as one HTML file that opens from disk.

    python tools/report.py WORKDIR [WORKDIR ..] --output=FILE.html

A run need not have finished: what is there is shown. Nothing is computed; pictures and routing are those that the run
itself wrote with its results.
"""

import sys
from collections.abc import Sequence

from sak_jax import cli


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("workdirs", nargs="+", metavar="WORKDIR")
    parser.add_argument("--output", required=True, metavar="FILE.html")
    parser.add_argument("--force", action="store_true", help="replace an output that is there")
    options = parser.parse_args(argv)
    from sak_jax import paths
    from sak_jax.errors import UserError
    from sak_jax.report import page, record

    if not options.output.endswith((".html", ".htm")):
        raise UserError(f"--output={options.output}: the name must end in .html")
    output = paths.check_output(options.output, force=options.force)
    runs = record.named_apart([(workdir, record.collect(workdir)) for workdir in options.workdirs])
    try:
        page.write(output, runs)
    except OSError as error:
        raise UserError(f"--output={output} can't be written ({paths.reason(error, output)})") from error
    print(f"wrote {output}")


if __name__ == "__main__":
    sys.exit(main())
