"""Write a checkpoint of ours as a PyTorch state dict that the published code loads, and as safetensors.

    python tools/export_pytorch.py --checkpoint=DIR --output=sak.pth

DIR is a workdir or one checkpoint in it. `--output=sak.safetensors` writes that file alone and needs no PyTorch.
"""

import argparse
import sys

from sak_jax.errors import UserError


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a workdir or one checkpoint in it")
    parser.add_argument("--output", required=True, help=".pth (writes .safetensors beside it) or .safetensors")
    parser.add_argument("--merge_lora", action="store_true", help="add low-rank updates into the kernels")
    options = parser.parse_args()
    from sak_jax.convert import published

    try:
        written = published.export_student(options.checkpoint, options.output, merge=options.merge_lora)
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"wrote {' and '.join(map(str, written))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
