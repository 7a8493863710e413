"""Boundary scores (odsF, oisF, AP) of a folder of predictions, the BSDS benchmark without MATLAB.

    python tools/evaluate_boundaries.py --predictions=DIR --labels=DIR --max_distance=0.011 --protocol=sak

Predictions are 8-bit grey `{id}.png`. The label of each is `{id}.png`, a boundary map (non-zero is boundary), or
`{id}.npy`, a label map whose regions' boundaries are the truth. See `sak_jax.boundary.score` for what is computed.
"""

import argparse
import functools
import json
import struct
import sys
import time
import zlib
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from sak_jax import cli, paths
from sak_jax.boundary import score
from sak_jax.errors import UserError

_UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--predictions", required=True, metavar="DIR", help="folder of {id}.png, 0..255 for 0..1")
    parser.add_argument("--labels", required=True, metavar="DIR", help="folder of {id}.png or {id}.npy")
    parser.add_argument(
        "--max_distance",
        required=True,
        type=float,
        metavar="FRACTION",
        help="reach of a match as a fraction of the image's diagonal: 0.011 for NYUD-v2, 0.0075 for PASCAL-Context",
    )
    parser.add_argument(
        "--protocol", required=True, choices=list(score.PROTOCOLS), help="their scores are not comparable"
    )
    parser.add_argument(
        "--truth",
        default="boundary",
        choices=list(score.TRUTHS),
        help="what becomes of a {id}.png: 'boundary' (default) thins it; 'label_map' takes it for a label map, which "
        "outlines each curve first, as published scores on NYUD-v2 do; {id}.npy is a label map always",
    )
    parser.add_argument("--output", metavar="FILE.json", help="where the scores and the counts per threshold are put")
    parser.add_argument("--force", action="store_true", help="overwrite an --output that exists")
    parser.add_argument("--workers", type=cli.count, help="processes (default: one for each processor it may use)")
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.max_distance <= 1:
        raise UserError(f"--max_distance={arguments.max_distance} is not a fraction of the diagonal; give 0.011 or so")
    return arguments


def _by_name(flag: str, folder: str, endings: Sequence[str]) -> dict[str, epath.Path]:
    """The folder's files of these endings, in capitals or not, by their names without; hidden ones are left out."""
    path = epath.Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"{flag}={folder} is not a folder; give the one that holds the {flag[2:]}")
    files: dict[str, epath.Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in endings and not file.name.startswith("."):
            if file.stem in files:
                raise UserError(f"{file} and {files[file.stem].name} are both of one image; remove one of them")
            files[file.stem] = file
    return files


def _pair_up(predictions: str, labels: str) -> list[tuple[epath.Path, epath.Path]]:
    """(prediction, label) of every image, by name; a label without a prediction is reported and left out."""
    predicted = _by_name("--predictions", predictions, (".png",))
    labelled = _by_name("--labels", labels, (".png", ".npy"))
    if not predicted:
        raise UserError(f"--predictions={predictions} holds no PNG file; it should hold one for each image")
    missing = [path for name, path in predicted.items() if name not in labelled]
    if missing:
        more = f" ({len(missing) - 1} more lack one too)" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]} has no label {missing[0].stem}.png or {missing[0].stem}.npy in {labels}{more}")
    unpredicted = sorted(labelled.keys() - predicted.keys())
    if unpredicted:
        print(
            f"note: {len(unpredicted)} labels have no prediction and do not count, {labelled[unpredicted[0]]} first",
            file=sys.stderr,
        )
    return [(path, labelled[name]) for name, path in predicted.items()]


def _read(path: epath.Path, kind: str) -> np.ndarray:
    """A two-dimensional array from a PNG or NPY file."""
    try:
        with path.open("rb") as file:
            if path.suffix.lower() == ".npy":
                array = np.lib.format.read_array(file, allow_pickle=False)
            else:
                with Image.open(file) as image:
                    array = np.asarray(image)
    except _UNREADABLE as error:
        reason = str(error).replace(str(path), "").splitlines() or [type(error).__name__]
        raise UserError(f"{path} cannot be read ({reason[0]}); write this {kind} again") from error
    if array.ndim != 2:
        raise UserError(f"{path} has the shape {array.shape}; a {kind} is one map, height x width, without colours")
    return array


def _evaluate_files(
    paths: tuple[epath.Path, epath.Path], *, max_distance: float, protocol: str, truth: str
) -> np.ndarray:
    prediction_path, label_path = paths
    prediction, label = _read(prediction_path, "prediction"), _read(label_path, "label")
    if prediction.dtype != np.uint8:
        raise UserError(f"{prediction_path} holds {prediction.dtype}; save predictions as 8-bit grey, 0..255 for 0..1")
    if prediction.shape != label.shape:
        sizes = ["{} x {}".format(*array.shape) for array in (prediction, label)]
        raise UserError(f"{prediction_path} is {sizes[0]} but its label {label_path} is {sizes[1]}; sizes must agree")
    if min(prediction.shape) < 2:
        raise UserError(f"{prediction_path} is less than 2 pixels high or wide; there is no boundary to score")
    if label_path.suffix.lower() == ".npy":
        thin_truth = score.boundary_of_labels(label)
    else:
        thin_truth = score.truth_of_boundary(label != 0, truth)
    return score.evaluate_image(prediction, thin_truth, max_distance, protocol)


def _evaluate_all(pairs: list, evaluate, workers: int | None) -> dict[str, np.ndarray]:
    """What `score.scores` takes, over all images."""
    with score.WorkerPool(workers) as pool:
        images = pool.map(evaluate, [(pair,) for pair in pairs])
        return score.total(tqdm(images, total=len(pairs), unit="image", disable=None))


def run(argv: Sequence[str] | None = None) -> None:
    """Evaluates, prints the scores and writes `--output`; `UserError` for whatever the user can mend."""
    arguments = _arguments(argv)
    output = None if arguments.output is None else paths.check_output(arguments.output, force=arguments.force)
    pairs = _pair_up(arguments.predictions, arguments.labels)
    settings = {
        "protocol": arguments.protocol,
        "max_distance": arguments.max_distance,
        "truth": arguments.truth,
    }
    start = time.monotonic()
    total = _evaluate_all(pairs, functools.partial(_evaluate_files, **settings), arguments.workers)
    if not total["counts"][0, 1]:
        raise UserError(f"--labels={arguments.labels}: not one boundary pixel in {len(pairs)} labels; are they right?")
    scores = score.scores(**total)
    line = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    print(f"{line}  ({len(pairs)} images, {time.monotonic() - start:.1f} s)")
    sys.stdout.flush()
    if output is not None:
        content = scores | settings
        content |= {"images": len(pairs), "thresholds": score.THRESHOLDS.tolist()}
        content |= {"count_columns": score.COUNTS, "counts": total["counts"].tolist()}
        try:
            paths.write_text(output, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"--output={output} cannot be written ({error.strerror or error})") from error


main = cli.exit_status(run)

if __name__ == "__main__":
    sys.exit(main())
