"""Write a checkpoint of ours as a PyTorch state dict that the published code loads, and as safetensors.

    python tools/export_pytorch.py --checkpoint=DIR --output=sak.pth

DIR is a workdir or one checkpoint in it. `--output=sak.safetensors` writes that file alone and needs no PyTorch.
"""

import sys
from collections.abc import Sequence

from sak_jax import cli


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a workdir or one checkpoint in it")
    parser.add_argument("--output", required=True, help=".pth (writes .safetensors beside it) or .safetensors")
    parser.add_argument("--merge_lora", action="store_true", help="add low-rank updates into the kernels")
    parser.add_argument("--force", action="store_true", help="replace files that are there")
    options = parser.parse_args(argv)
    from sak_jax.methods import published  # After parsing: a mistyped flag is told before JAX is imported.

    written = published.of_checkpoint(options.checkpoint).export_student(
        options.checkpoint, options.output, merge=options.merge_lora, force=options.force
    )
    print(f"wrote {' and '.join(map(str, written))}")


if __name__ == "__main__":
    sys.exit(main())
