"""Samples a second in both stages: on one core beside plain decoding with OpenCV, and in batches on all of them.

python tools/benchmark_data.py [--data=nyud|pascal_context|imagenet --root=DIR] [--samples=40]

Without a root it writes rooms in the layouts of NYUD-v2 and PASCAL-Context to a temporary folder; stage 1 then reads
the JPEG files of the latter, which are grained until they are as large as photographs'. Plain decoding leaves out
MATLAB files, which OpenCV does not read. "prepared" is the loading of the same samples from ArrayRecord. Times a sample
are of the processor, so that other work on the machine matters little; batches are timed by the clock.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from etils import epath
from PIL import Image

from sak_jax import cli, processes
from sak_jax.data import Source, create_source, files, pipeline, prepare, transforms
from sak_jax.data.rooms import layouts
from sak_jax.errors import UserError

TASKS = {
    "nyud": ("semseg", "depth", "normals", "edge"),
    "pascal_context": ("semseg", "human_parts", "sal", "normals", "edge"),
    "imagenet": (),
    "folder": (),
}
SIZES = {"nyud": (448, 576), "pascal_context": (512, 512), "imagenet": (384, 384), "folder": (384, 384)}
ROUNDS = 5
BATCH = 16
SECONDS = 4.0
GRAIN = 12
"""Standard deviation in grey levels: gives JPEG files of some 110 kB. ImageNet's have 115 kB on average."""


def plain_decoding(paths: Sequence[epath.Path]) -> None:
    """Decodes pictures with OpenCV, and loads arrays; MATLAB files are left out."""
    for path in paths:
        if path.suffix == ".npy":
            np.load(path)
        elif path.suffix != ".mat":
            cv2.imdecode(np.frombuffer(files.read_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)


def milliseconds(function: Callable[[int], object], count: int) -> float:
    """The processor time of one call: the mean over samples of the best of some rounds."""
    times = np.empty((ROUNDS, count))
    for round_times in times:
        for index in range(count):
            start = time.process_time()
            function(index)
            round_times[index] = time.process_time() - start
    return 1e3 * times.min(axis=0).mean()


def add_grain(paths: Sequence[epath.Path]) -> None:
    """Writes JPEG files anew with noise, as rooms are smoother than photographs: those would take longer to decode."""
    rng = np.random.default_rng(0)
    for path in paths:
        image = files.decode_image(files.read_bytes(path), str(path))
        grained = image + rng.normal(0, GRAIN, (*image.shape[:2], 1))
        Image.fromarray(np.clip(grained, 0, 255).astype(np.uint8)).save(path, quality=95)


def prepared_source(name: str, root: epath.Path, tasks: Sequence[str], size: tuple[int, int]):
    """The same samples, written to ArrayRecord beside the folder `root`."""
    output = root.parent / f"prepared_{name}"
    with contextlib.redirect_stdout(sys.stderr):  # For what TFDS prints.
        prepare.prepare(name, root, output, ("train",))
    return create_source({"name": name, "root": output}, "train", tasks, size)


def opened(name: str, data: dict) -> tuple[Source, transforms.Transform]:
    """The training samples and what a stage makes of them."""
    tasks, size = TASKS[name], SIZES[name]
    transform = transforms.multitask_transform(size, tasks) if tasks else transforms.distill_transform(size)
    return create_source(data, "train", tasks, size), transform


def measure(
    name: str, data: dict, source: Source, transform: transforms.Transform, samples: int, prepare_too: bool
) -> str:
    """A line of the table."""
    tasks, size = TASKS[name], SIZES[name]
    count = min(samples, len(source))
    held = [source[index] for index in range(count)]
    transforming = milliseconds(lambda index: transform(held[index], np.random.default_rng(index)), count)
    loading = milliseconds(lambda index: source[index], count)
    if hasattr(source, "paths"):
        paths = [source.paths(source.ids[index]) for index in range(count)]
        images = [files.read_bytes(each["image"]) for each in paths]
        decoding = milliseconds(lambda index: plain_decoding(list(paths[index].values())), count)
    else:
        images = [source.image_bytes(index) for index in range(count)] if hasattr(source, "image_bytes") else []
        if not images:
            raise UserError(
                f"{data['root']}: benchmark the original files, there is nothing to compare ArrayRecord with"
            )
        decoding = milliseconds(lambda index: cv2.imdecode(np.frombuffer(images[index], np.uint8), 1), count)
    rate = 1e3 / (loading + transforming)
    prepared = ""
    if prepare_too and tasks:
        read = prepared_source(name, data["root"], tasks, size)
        prepared = f"{milliseconds(lambda index: read[index], count):.2f}"
    stage = f"stage {2 if tasks else 1} {name}"
    kilobytes = np.mean([len(image) for image in images]) / 1e3
    return (
        f"{stage:24} {kilobytes:10.0f} {decoding:9.2f} {loading:9.2f} {prepared:>9} {transforming:11.2f} {rate:15.1f} "
        f"{100 * transforming / decoding:17.0f} %"
    )


class Many:
    """The same samples again and again, as many as ImageNet's: Grain's shuffle takes 0.8 ms a sample for a handful."""

    def __init__(self, source):
        self.source = source

    def __len__(self) -> int:
        return 1_281_167

    def __getitem__(self, index: int) -> dict:
        return self.source[index % len(self.source)]


def batches(name: str, source: Source, transform: transforms.Transform) -> str:
    """A line of the second table: how fast batches come with one thread, two, four and so on to one a processor."""
    source = Many(source)
    rates = []
    for threads in sorted({*(2**power for power in range(10) if 2**power < processes.cpus()), processes.cpus()}):
        iterator = pipeline.train_batches(source, transform, BATCH, seed=0, threads=threads)
        batch = [next(iterator) for _ in range(4)][-1]  # What was made ahead while nobody looked counts for nothing.
        start, count = time.perf_counter(), 0
        while time.perf_counter() < start + SECONDS:
            next(iterator)
            count += 1
        rates.append(f"{threads}: {BATCH * count / (time.perf_counter() - start):.1f}")
        iterator.close()
    megabytes = sum(value.nbytes for value in batch.values()) / 1e6
    return f"stage {2 if TASKS[name] else 1} {name:16} {megabytes:10.1f}   {', '.join(rates)}"


def recipes(flags: argparse.Namespace, folder: epath.Path) -> Iterator[tuple[str, dict]]:
    """Names and `config.data` of what is to be measured; writes it first if no root was given."""
    if flags.root:
        yield flags.data, {"name": flags.data, "root": flags.root}
        return
    if flags.data in (None, "nyud"):
        layouts.write_nyud(folder / "nyud", flags.samples, 1)
        yield "nyud", {"name": "nyud", "root": folder / "nyud"}
    if flags.data != "nyud":
        root = folder / "pascal_context"
        layouts.write_pascal_context(root, flags.samples, 1, size=(375, 500))
        add_grain(sorted((root / "JPEGImages").glob("*.jpg")))
        if flags.data != "imagenet":
            yield "pascal_context", {"name": "pascal_context", "root": root}
        if flags.data != "pascal_context":
            yield "folder", {"name": "folder", "root": root, "train": {"images": "JPEGImages/*.jpg"}}


@cli.exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command line."""
    parser = cli.Parser(__doc__)
    parser.add_argument("--data", choices=("nyud", "pascal_context", "imagenet"), help="default: all")
    parser.add_argument("--root", help="the folder of original files (default: rooms, written to a temporary folder)")
    parser.add_argument("--samples", type=cli.count, default=40)
    flags = parser.parse_args(argv)
    if flags.root and not flags.data:
        parser.error("--root needs --data")
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        chosen = [(name, data, *opened(name, data)) for name, data in recipes(flags, epath.Path(folder))]
        lines = [measure(*each, flags.samples, prepare_too=not flags.root) for each in chosen]
        clocked = [batches(name, source, transform) for name, _, source, transform in chosen]
    columns = "kB/image  decoding   loading  prepared  transforms  samples/s/core  transforms/decoding"
    print(f"{'milliseconds a sample':26} {columns}")
    print("\n".join(lines))
    print(f"\n{f'batches of {BATCH}':24} MB a batch   images/s by threads")
    print("\n".join(clocked))


if __name__ == "__main__":
    sys.exit(main())
