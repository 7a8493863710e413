"""Samples as TFDS examples in ArrayRecord files: how they are encoded, and the data source that reads them back.

Nothing is lost: `decode(encode(sample))` equals the sample bit for bit. Reading needs no TensorFlow.
"""

import bisect
import itertools
import os
from collections.abc import Sequence

import cv2
import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from etils import epath

from sak_jax.data import cache, files, labels
from sak_jax.data.source import FileSource, check_samples
from sak_jax.errors import UserError
from sak_jax.tasks import kind_of


def features(tasks: Sequence[str], image_format: str) -> tfds.features.FeaturesDict:
    """The features of examples with the given labels; `image_format` is "png" or "jpeg"."""
    kinds = {"id": tfds.features.Text(), "image": tfds.features.Image(encoding_format=image_format)}
    for task in tasks:
        kind = kind_of(task)
        if kind.stored_channels:
            kinds[task] = tfds.features.Image(shape=(None, None, kind.stored_channels), encoding_format="png")
        else:
            shape, raw = (None, None, *kind.vector), tfds.features.Encoding.BYTES
            kinds[task] = tfds.features.Tensor(shape=shape, dtype=kind.dtypes[0], encoding=raw)
    if "human_parts" in tasks:
        kinds["shows_people"] = tfds.features.Scalar(np.bool_)
    return tfds.features.FeaturesDict(kinds)


def encode(sample: dict[str, np.ndarray], image: bytes) -> dict[str, object]:
    """A sample as an example.

    Boundaries are stored in steps of 1/255, normals in steps of 2/255 with their validity in a fourth channel.

    Args:
      sample: image, id and labels.
      image: the image's file.

    Raises:
      UserError: the labels do not fit what is stored, so that reading would not give them back.
    """
    example = {"id": sample["id"], "image": image}
    for task, label in sample.items():
        if task in ("id", "image"):
            continue
        stored = kind_of(task).to_stored(label)
        example[task] = _png(stored) if kind_of(task).stored_channels else stored
    decoded = decode(example, tuple(key for key in sample if key not in ("id", "image")), sample["id"])
    for key, value in sample.items():
        if not np.array_equal(decoded[key], value):
            raise UserError(f"{key} of {sample['id']} cannot be stored without loss")
    return example


def _png(array: np.ndarray) -> bytes:
    # Smaller than by default, and decoded in half the time.
    return cv2.imencode(".png", array, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()


def decode(example: dict[str, object], tasks: Sequence[str], name: str) -> dict[str, object]:
    """The sample of an example; `name` is for errors."""
    sample_id = example.get("id", example.get("file_name", name))
    sample = {
        "id": sample_id.decode() if isinstance(sample_id, bytes) else sample_id,
        "image": files.decode_image(example["image"], name),
    }
    return sample | decode_labels(example, tasks, name)


def decode_labels(example: dict[str, object], tasks: Sequence[str], name: str) -> dict[str, np.ndarray]:
    """The labels of an example; `name` is for errors."""
    found = {}
    for task in tasks:
        kind, stored = kind_of(task), example[task]
        if kind.stored_channels == 1:
            stored = labels.decode("levels", stored, name)
        elif kind.stored_channels:
            stored = files.decode_by_opencv(stored, cv2.IMREAD_UNCHANGED)
            if stored is None or stored.dtype != np.uint8 or stored.shape[2:] != (kind.stored_channels,):
                raise UserError(
                    f"{name}: the labels of {task} are not a whole PNG file of {kind.stored_channels} channels: "
                    "prepare the data again"
                )
        found[task] = kind.from_stored(stored)
    return found


class Prepared(FileSource):
    """A Grain random access data source of what `tools/prepare_data.py` wrote, or TFDS as "array_record".

    Args:
      directory: the folder with `dataset_info.json`.
      split: "train" or "val" (TFDS's "validation").
      tasks: labels wanted.
      on_error: "raise", or "skip" damaged samples.

    Raises:
      UserError: no such split or labels, another file format, files that are missing, truncated or short of samples.
    """

    def __init__(
        self,
        directory: os.PathLike | str,
        split: str,
        tasks: Sequence[str] = (),
        on_error: str = "raise",
    ):
        self._directory = directory
        self._examples, self._stamps = None, {}
        info = _builder(directory).info
        self._split = "validation" if split == "val" and "val" not in info.splits else split
        if self._split not in info.splits:
            raise UserError(f"{directory}: has no split {split!r}; it has {', '.join(info.splits)}")
        if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            raise UserError(
                f"{directory}: is stored as {info.file_format.value}, not as array_record; prepare it again"
            )
        missing = [task for task in (*tasks, "image") if task not in info.features]
        if missing:
            raise UserError(f"{directory}: has no labels for {missing[0]!r}; it has {', '.join(info.features)}")
        self._encoded = [name for name, kind in info.features.items() if isinstance(kind, tfds.features.Image)]
        self._shards, self._lengths = _shards(info, self._split, directory)
        self._ends = list(itertools.accumulate(self._lengths))
        super().__init__(f"{directory} {split}", range(sum(self._lengths)), tasks, on_error)
        damaged = check_samples(range(len(self._shards)), self._check_shard)
        self.drop({record: damaged[shard] for shard in damaged for record in self._records(shard)})
        if self.tasks == ("human_parts",):
            self.ids = [record for record in self.ids if self._read(record)["shows_people"]]

    def _records(self, shard: int) -> range:
        return range(self._ends[shard] - self._lengths[shard], self._ends[shard])

    def _check_shard(self, shard: int) -> str | None:
        path, length = self._shards[shard], self._lengths[shard]
        if not epath.Path(path).is_file():
            return f"{path} is missing"
        try:
            found = array_record_module.ArrayRecordReader(path).num_records()
        except (RuntimeError, ValueError, OSError) as error:
            return f"{path}: is not a whole ArrayRecord file ({str(error).splitlines()[0]})"
        return None if found == length else f"{path}: holds {found} samples instead of {length}"

    def name_of(self, record: int) -> str:
        """Shard and number of a record, for messages."""
        return f"{self._shards[bisect.bisect_right(self._ends, record)]}, record {record}"

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_examples": None, "_stamps": {}}

    def _read(self, record: int) -> dict[str, object]:
        try:
            if self._examples is None:
                # Pictures stay encoded: `decode` treats them as the files they were, with the same result.
                decoders = {name: tfds.decode.SkipDecoding() for name in self._encoded}
                self._examples = _builder(self._directory).as_data_source(split=self._split, decoders=decoders)
            return self._examples[record]
        except UserError:
            raise
        except Exception as error:  # Readers of records, protocol buffers and arrays stumble in their own ways.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self.name_of(record)}: cannot be read ({reason})") from error

    def stamp(self, index: int) -> str:
        """As `FileSource.stamp`: that of the shard."""
        shard = self._shards[bisect.bisect_right(self._ends, self.ids[index])]
        if shard not in self._stamps:
            self._stamps[shard] = cache.stamp(shard)
        return self._stamps[shard]

    def file(self, sample_id: int, key: str) -> str:
        """As `FileSource.file`."""
        return f"{key} of {self.name_of(sample_id)}"

    def inspect(self, index: int) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
        """As `FileSource.inspect`."""
        record = self.ids[index]
        example, name = self._read(record), self.name_of(record)
        size = files.size_of(example["image"], name)
        return size, decode_labels(example, self.tasks, name)

    def _load(self, index: int) -> dict[str, object]:
        record = self.ids[index]
        return decode(self._read(record), self.tasks, self.name_of(record))


def _builder(directory: os.PathLike | str) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder_from_directory(directory)
    except Exception as error:  # TFDS raises whatever damaged metadata make it stumble over.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{directory}: its metadata cannot be read ({reason}); prepare it again") from error


def _shards(info: tfds.core.DatasetInfo, split: str, directory: os.PathLike | str) -> tuple[list[str], list[int]]:
    """Paths and lengths of a split's shards."""
    try:
        found = [os.fspath(path) for path in info.splits[split].filepaths]
        lengths = [int(length) for length in info.splits[split].shard_lengths]
    except Exception as error:  # As in `_builder`.
        raise UserError(f"{directory}: its metadata name no shards ({error}); prepare it again") from error
    if len(found) != len(lengths) or min(lengths, default=0) < 0 or not sum(lengths):
        raise UserError(
            f"{directory}: its metadata name {len(found)} shards of {sum(lengths)} samples; prepare it again"
        )
    return found, lengths
