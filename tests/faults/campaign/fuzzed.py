"""Files of every kind with bytes changed: a value or one line, never anything else."""

import io
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import faults_of_data
import faults_of_weights
import numpy as np
import safetensors.numpy
from mutation import damaged
from PIL import Image


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def pictures() -> Iterator[tuple[str, bytes]]:
    grey, colours = Image.fromarray(faults_of_data.CLASSES_MAP.astype(np.uint8)), Image.fromarray(faults_of_data.IMAGE)
    for kind in ("PNG", "TIFF", "BMP", "PPM"):
        yield kind.lower(), saved(lambda file, kind=kind: grey.save(file, kind))
    yield "png", saved(lambda file: Image.fromarray(faults_of_data.DEPTH.astype(np.uint16)).save(file, "PNG"))
    yield "jpg", saved(lambda file: colours.save(file, "JPEG"))
    yield "png", saved(lambda file: colours.convert("P").save(file, "PNG"))
    yield "webp", saved(lambda file: colours.save(file, "WEBP"))
    yield "npy", saved(lambda file: np.save(file, faults_of_data.DEPTH / 1000))
    yield "npz", saved(lambda file: np.savez_compressed(file, faults_of_data.DEPTH / 1000))


def weights() -> Iterator[tuple[str, bytes]]:
    import torch

    held = faults_of_weights.WEIGHTS
    yield "safetensors", safetensors.numpy.save(held)
    yield "npz", saved(lambda file: np.savez(file, **held))
    yield "pth", saved(lambda file: torch.save({"model": faults_of_weights.tensors(torch)}, file))
    yield "index.json", json.dumps({"weight_map": dict.fromkeys(held, "a.safetensors")}).encode()


def as_image(work: Path, ending: str, content: bytes) -> None:
    root = faults_of_data.folder(work, ())
    (root / "images" / f"a.{ending}").write_bytes(content)
    faults_of_data.is_refused(lambda: faults_of_data.samples(root, None))


def as_label(encoding: str) -> Callable[[Path, str, bytes], None]:
    def attempt(work: Path, ending: str, content: bytes) -> None:
        root = faults_of_data.folder(work, ("a",))
        (root / "labels" / f"a.{ending}").write_bytes(content)
        faults_of_data.is_refused(lambda: faults_of_data.samples(root, "it", encoding, ending=ending))

    return attempt


def as_weights(work: Path, ending: str, content: bytes) -> None:
    faults_of_weights.safe(faults_of_weights.WEIGHTS)(work / "a.safetensors")
    (work / f"x.{ending}").write_bytes(content)
    faults_of_data.is_refused(lambda: faults_of_weights.read(work / f"x.{ending}"))


def as_mat(work: Path, ending: str, content: bytes) -> None:
    from sak_jax import data

    root = work / "voc"
    source = faults_of_data.prepared() / "pascal_context"
    import shutil

    shutil.copytree(source, root)
    sorted(root.rglob("*.mat"))[0].write_bytes(content)
    values = {"name": "pascal_context", "root": str(root), "on_error": "raise", "resize": False}

    def read() -> None:
        held = data.create_source(values, "train", ("semseg", "human_parts"), faults_of_data.SIZE)
        [held[index] for index in range(len(held))]

    faults_of_data.is_refused(read)


def as_metrics(work: Path, ending: str, content: bytes) -> None:
    (work / "metrics.jsonl").write_bytes(content)
    from etils import epath

    try:
        from sak_jax.engine import logs
    except ImportError:
        from sak_jax import logs
    logs.read(epath.Path(work / "metrics.jsonl"))


def as_record(work: Path, ending: str, content: bytes) -> None:
    import shutil

    root = shutil.copytree(faults_of_data.prepared() / "both" / "nyud", work / "nyud")
    next(root.rglob(f"*{ending}*")).write_bytes(content)
    from sak_jax import data

    values = {"name": "nyud", "root": str(work), "on_error": "raise", "resize": False}

    def read() -> None:
        held = data.create_source(values, "train", ("semseg",), faults_of_data.SIZE)
        [held[index] for index in range(len(held))]

    faults_of_data.is_refused(read)


def trials(count: int) -> Iterator:
    """So many, each kind as often as the others."""
    encodings = ("index", "binary", "fraction", "rgb_normals", "metres", "millimetres")
    seeds = [(as_image, "image", ending, content) for ending, content in pictures() if not ending.startswith("np")]
    seeds += [
        (as_label(encoding), f"label, {encoding}", *picture)
        for encoding, picture in zip(itertools.cycle(encodings), list(pictures()) * 2, strict=False)
    ]
    seeds += [(as_weights, "weights", *held) for held in weights()]
    data = faults_of_data.prepared()
    mats = sorted((data / "pascal_context").rglob("*.mat"))
    seeds += [(as_mat, "mat", "mat", mats[0].read_bytes())] * 2
    lines = b'{"step": 1, "split": "distill", "values": {"loss": 1.5}}\n' * 3
    seeds += [(as_metrics, "metrics", "jsonl", lines)]
    for ending in ("train.array_record", "dataset_info.json", "features.json"):
        held = next((data / "both" / "nyud").rglob(f"*{ending}*")).read_bytes()
        seeds += [(as_record, "record", ending, held)]
    for number in range(count):
        attempt, name, ending, content = seeds[number % len(seeds)]
        changed = damaged(content, random.Random(number))
        title = f"{number}: {name}, {ending}"
        yield title, lambda work, attempt=attempt, ending=ending, changed=changed: attempt(work, ending, changed)
