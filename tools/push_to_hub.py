"""Share a trained student: on the Hugging Face Hub, or as a folder that holds the same.

    python tools/push_to_hub.py --checkpoint=DIR --repository=OWNER/NAME [--private] [--half]
    python tools/push_to_hub.py --checkpoint=DIR --output=FOLDER [--half] [--force]

Either gets `model.safetensors`, `config.json` (the recipe) and `README.md`, a model card with scores, teachers and
their licences, hardware, versions and the command. `sak_jax.from_pretrained("OWNER/NAME")`, or of the folder, loads it.
--half stores weights in float16. The Hub wants you to be logged in: `hf auth login`.
"""

import sys
from collections.abc import Sequence

from sak_jax import cli


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a workdir or one checkpoint in it")
    parser.add_argument("--repository", metavar="OWNER/NAME", help="of the Hugging Face Hub")
    parser.add_argument("--output", metavar="FOLDER", help="a folder instead")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--half", action="store_true", help="store the weights in float16")
    parser.add_argument("--best", action="store_true", help="of a workdir the checkpoint with the highest score")
    parser.add_argument("--force", action="store_true", help="replace files of the folder")
    options = parser.parse_args(argv)
    if bool(options.repository) == bool(options.output):
        parser.error("give either --repository or --output")
    from sak_jax import hub

    student = hub.load(options.checkpoint, best=options.best)
    if options.output:
        folder = hub.save_pretrained(student, options.output, half=options.half, force=options.force)
        print(f"wrote {folder}")
    else:
        print(hub.push_to_hub(student, options.repository, private=options.private, half=options.half))


if __name__ == "__main__":
    sys.exit(main())
