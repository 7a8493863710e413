"""TFDS builders that turn the original files into sharded ArrayRecord; needs no TensorFlow.

A run that was interrupted continues with the first shard that is not finished.
"""

import concurrent.futures
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath
from tqdm import tqdm

from sak_jax.data import arrayrecord
from sak_jax.data.prepared import Preparation
from sak_jax.data.sets import imagenet, nyud, pascal_context
from sak_jax.data.source import FileSource, join
from sak_jax.errors import UserError
from sak_jax.paths import check_remote, is_remote

_THREADS = 8


class _Shards(tfds.core.ShardBasedBuilder):
    """Writes each split of a data set in shards of so many samples, in order."""

    VERSION = tfds.core.Version("1.0.0")
    TASKS: tuple[str, ...] = ()
    IMAGE_FORMAT = "jpeg"
    # TFDS looks here for checksums of downloads. There are none, and its search needs a package it does not require.
    code_path = None

    def __init__(
        self, *, sources: Mapping[str, FileSource], samples_per_shard: int, on_error: str, partial: epath.Path, **kwargs
    ):
        self._sources = sources
        self._samples_per_shard = samples_per_shard
        self._on_error = on_error
        self._partial = partial
        self.problems: list[str] = []
        super().__init__(file_format=tfds.core.FileFormat.ARRAY_RECORD, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, features=arrayrecord.features(self.TASKS, self.IMAGE_FORMAT))

    def _example_writer(self) -> tfds.core.writer.ExampleWriter:
        return _Kept(self._partial)

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable[[], Iterator]]]:
        del dl_manager
        progress = tqdm(total=sum(len(source) for source in self._sources.values()), unit="image")
        shards = {}
        for split, source in self._sources.items():
            starts = range(0, len(source), self._samples_per_shard)
            names = [f"{self.name}-{split}.array_record-{i:05d}-of-{len(starts):05d}" for i in range(len(starts))]
            shards[split] = [
                _Shard(self, source, range(start, min(start + self._samples_per_shard, len(source))), name, progress)
                for start, name in zip(starts, names, strict=True)
            ]
        return shards

    def _download_and_prepare(self, *args, **kwargs) -> None:
        super()._download_and_prepare(*args, **kwargs)
        empty = [split for split in self._sources if not self.info.splits[split].num_examples]
        if empty:  # Raised before TFDS gives the folder its name.
            raise UserError(f"no sample of the split {empty[0]!r} can be read: {join(self.problems)}")

    def example(self, source: FileSource, index: int) -> dict[str, object] | str:
        """The example of a sample, or what is wrong with it."""
        try:
            example = arrayrecord.encode(source.read(index), source.image_bytes(index))
            if "human_parts" in self.TASKS:
                example["shows_people"] = source.shows_people(index)
        except UserError as error:
            return str(error)
        pictures = {name: io.BytesIO(value) for name, value in example.items() if isinstance(value, bytes)}
        return example | pictures


class _Shard:
    """Calling it gives the (key, example) pairs of one shard; placeholders if the shard is finished already."""

    def __init__(self, builder: _Shards, source: FileSource, indices: range, name: str, progress: tqdm):
        self._builder, self._source, self._indices, self._name = builder, source, indices, name
        self._progress = progress

    def __call__(self) -> Iterator[tuple[int, dict | None]]:
        done = self._builder._partial / self._name
        if done.is_file():
            self._progress.update(len(self._indices))
            for index in range(array_record_module.ArrayRecordReader(os.fspath(done)).num_records()):
                yield index, None
            return
        problems = []
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            examples = pool.map(lambda index: self._builder.example(self._source, index), self._indices)
            for index, example in zip(self._indices, examples, strict=True):
                self._progress.update()
                if isinstance(example, str):
                    problems.append(example)
                else:
                    yield index, example
        self._builder.problems += problems
        if problems and self._builder._on_error == "raise":
            raise UserError(f"{join(problems)}; mend the files, or leave the samples out with --on_error=skip")


class _Kept(tfds.core.writer.ExampleWriter):
    """Writes shards into a folder that survives an interruption, and copies them from there."""

    def __init__(self, folder: epath.Path):
        super().__init__(file_format=tfds.core.FileFormat.ARRAY_RECORD)
        self._folder = folder

    def write(self, path: os.PathLike | str, examples: Iterable[tuple[int, bytes]]) -> None:
        """Writes one shard, or takes it from the folder."""
        kept = self._folder / epath.Path(path).name
        if not kept.is_file():
            temporary = kept.with_suffix(".unfinished")
            temporary.unlink(missing_ok=True)
            super().write(os.fspath(temporary), examples)
            temporary.rename(kept)
        try:
            os.link(kept, path)
        except OSError:  # another file system, or gs://
            kept.copy(path, overwrite=True)


def _builder(preparation: Preparation) -> type[_Shards]:
    """TFDS's kind of builder: a class for each data set."""
    fields = {
        "name": preparation.name,
        "TASKS": preparation.tasks,
        "IMAGE_FORMAT": preparation.image_format,
        "VERSION": tfds.core.Version(preparation.version),
        "RELEASE_NOTES": dict(preparation.release_notes),
        "__doc__": f"{preparation.name} as ArrayRecord.",
        "__module__": __name__,
    }
    return type(preparation.dataset.__name__, (_Shards,), fields)


BUILDERS = {module.PREPARATION.name: module.PREPARATION for module in (nyud, pascal_context, imagenet)}
"""What can be prepared, by name."""
_CLASSES = {name: _builder(preparation) for name, preparation in BUILDERS.items()}


def prepare(
    name: str,
    source: os.PathLike | str,
    output: os.PathLike | str,
    splits: tuple[str, ...] = (),
    on_error: str = "raise",
    samples_per_shard: int = 0,
) -> tuple[dict[str, int], list[str]]:
    """Writes the splits of a data set under `output/<name>/<version>`; finished work is not done again.

    Args:
      name: a key of `BUILDERS`.
      source: the folder of original files.
      output: a folder, local or `gs://`.
      splits: those wanted; by default train and val, of ImageNet train.
      on_error: "raise" what is wrong with a shard's samples together, or "skip" those samples.
      samples_per_shard: 0 for shards of some 150 MB.

    Returns:
      The number of samples by split, counted in what was written, and what was wrong with the samples left out.

    Raises:
      UserError: anything wrong with the original files; counts that do not agree; an output that cannot be written.
    """
    if samples_per_shard < 0:
        raise UserError(f"--samples_per_shard={samples_per_shard} must be positive, or 0 for shards of some 150 MB")
    check_remote(source, output)
    output = os.path.expanduser(output)
    preparation = BUILDERS[name]
    splits = splits or preparation.splits
    sources = {split: preparation.dataset(source, split, preparation.tasks, on_error=on_error) for split in splits}
    missed = [problem for found in sources.values() for problem in found.skipped.values()]
    ids = "\n".join(f"{split} {len(found)} {found.ids[0]} {found.ids[-1]}" for split, found in sources.items())
    samples_per_shard = samples_per_shard or preparation.samples_per_shard
    key = f"{epath.Path(source).resolve()} {preparation.version} {samples_per_shard} {on_error} {ids}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    partial = epath.Path(tempfile.gettempdir() if is_remote(output) else output) / f".unfinished-{name}-{digest}"
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--output={output}: cannot be written ({reason}); give another place") from error

    tfds.disable_progress_bar()
    builder = _CLASSES[name](
        sources=sources, samples_per_shard=samples_per_shard, on_error=on_error, partial=partial, data_dir=output
    )
    builder.problems += missed
    try:
        builder.download_and_prepare(download_dir=os.fspath(partial))
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error}); run again to continue") from error
    found = {split: builder.info.splits[split].num_examples for split in splits if split in builder.info.splits}
    counted = {split: len(arrayrecord.Prepared(builder.data_dir, split)) for split in found}
    expected = {split: len(found) for split, found in sources.items()}
    left_out = sum(expected.values()) - sum(counted.values()) + len(missed)
    if counted != found or set(counted) != set(expected) or left_out and on_error == "raise":
        raise UserError(
            f"{builder.data_dir}: holds {counted}, of {expected} in {source}; remove the folder and prepare it again"
        )
    shutil.rmtree(partial, ignore_errors=True)
    return counted, builder.problems
