"""Tasks that name a class at every pixel: semantic segmentation and human parts."""

from collections.abc import Mapping

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from sak_jax.errors import UserError
from sak_jax.tasks.kind import IGNORE, Kind, Picture, Task, mark_ignored, masked_sums
from sak_jax.tasks.metric import Metric


class MeanIoU(Metric):
    """Mean over classes of intersection / union in percent, both pooled over the data set (SAK, section 4.1).

    As many classes as the prediction has channels. A class that neither labels nor predictions ever hold scores 0 and
    counts, as in the authors' evaluation; on the full data sets there is none.
    """

    name = "mIoU"
    higher_is_better = True

    def batch(
        self, prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w"], mask: Bool[Array, " b"]
    ) -> dict[str, Array]:
        """Pixels a class, int32 `[c]`: predicted and labelled so, predicted, labelled."""
        valid = (label != IGNORE) & mask[:, None, None]
        classes = jnp.arange(prediction.shape[-1])
        predicted = (jnp.argmax(prediction, axis=-1)[..., None] == classes) & valid[..., None]
        labelled = (label.astype(jnp.int32)[..., None] == classes) & valid[..., None]
        pixels = (0, 1, 2)
        return {
            "intersection": jnp.sum(predicted & labelled, axis=pixels),
            "predicted": jnp.sum(predicted, axis=pixels),
            "labelled": jnp.sum(labelled, axis=pixels),
        }

    def result(self, totals: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The mean IoU in percent."""
        union = totals["predicted"] + totals["labelled"] - totals["intersection"]
        return {"mIoU": float(np.mean(totals["intersection"] / np.maximum(union, 1)) * 100)}


class Classes(Kind):
    """Labels are class indices, uint8 0 .. channels - 1; the prediction is the logits of a softmax.

    Options: `names`, the classes' names, and `palette`, their colours `(red, green, blue)` in pictures; one a channel.
    """

    name = "classes"
    options = {"names": (), "palette": ()}
    metrics = {"mIoU": MeanIoU}
    dtypes = (np.uint8,)
    encodings = ("index", "index_from_1", "binary")
    stored_channels = 1

    def check_task(self, task: Task) -> None:
        """At most 255 channels; names and colours, where there are any, one a channel."""
        if task.channels > IGNORE:
            raise UserError(f"tasks.{task.name}.channels is {task.channels}; labels are bytes, of which 255 is void")
        for option in ("names", "palette"):
            given = task.option(option)
            if given and len(given) != task.channels:
                raise UserError(f"tasks.{task.name}.{option} has {len(given)} entries for {task.channels} channels")
        for colour in task.option("palette"):
            if np.shape(colour) != (3,) or not all(isinstance(level, int) and 0 <= level <= 255 for level in colour):
                raise UserError(f"tasks.{task.name}.palette holds {colour!r}; a colour is three integers in 0..255")

    def loss_sums(
        self, task: Task, prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w"]
    ) -> dict[str, Array]:
        """Sums of the softmax cross entropy over valid pixels; mean: sum / count of valid pixels (SAK, section 4.1)."""
        return masked_sums(negative_log_likelihood(prediction, label), label != IGNORE)

    def check_values(self, task: Task, label: np.ndarray, where: str) -> None:
        """A class for every pixel, or 255."""
        if cv2.countNonZero(cv2.inRange(label, task.channels, IGNORE - 1)):
            unknown = label[(label >= task.channels) & (label != IGNORE)].max()
            raise UserError(
                f"{where} has the label {unknown} of task {task.name!r}, whose channels are "
                f"for 0..{task.channels - 1}; 255 is void: set config.tasks.{task.name}.channels, or mend the labels"
            )

    def random_label(self, task: Task, size: tuple[int, int], rng: np.random.Generator) -> UInt8[np.ndarray, "h w"]:
        """Classes drawn uniformly."""
        return rng.integers(0, task.channels, size).astype(np.uint8)

    def draw_prediction(
        self, task: Task, prediction: Float[np.ndarray, "h w c"], label: UInt8[np.ndarray, "h w"] | None = None
    ) -> Picture:
        """The likeliest class's colour."""
        return self._colours(task)[np.argmax(prediction, -1)]

    def draw_label(self, task: Task, label: UInt8[np.ndarray, "h w"]) -> Picture:
        """The class's colour."""
        return mark_ignored(self._colours(task)[label], label)

    def _colours(self, task: Task) -> UInt8[np.ndarray, "256 3"]:
        colours = palette(256)
        if task.option("palette"):
            colours[: task.channels] = task.option("palette")
        return colours

    def decode(self, task: Task, prediction: Float[np.ndarray, "*b h w c"]) -> dict[str, np.ndarray]:
        """`classes` uint8 `[*b, h, w]`, the likeliest; `probabilities` float32 `[*b, h, w, c]`."""
        return {
            "classes": np.argmax(prediction, axis=-1).astype(np.uint8),
            "probabilities": softmax(prediction),
        }


class HumanParts(Classes):
    """Classes of which 0 is background; an image that shows no part at all is ignored whole (PASCAL-Context)."""

    name = "human_parts"

    def ignore(self, task: Task, label: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """All 255 where there is nothing but 0 and 255."""
        if not ((label != 0) & (label != IGNORE)).any():
            label[...] = IGNORE
        return label


def negative_log_likelihood(
    prediction: Float[Array, "b h w c"], label: Shaped[Array, "b h w"]
) -> Float[Array, "b h w"]:
    """-log softmax at the label's class, float32; 0 for a label that is no class."""
    # Picked by comparison: its gradient is a product, where a gather's would be a scatter. 255 picks nothing.
    log_probability = jax.nn.log_softmax(prediction.astype(jnp.float32), axis=-1)
    classes = jnp.arange(prediction.shape[-1])
    chosen = label.astype(jnp.int32)[..., None] == classes
    return -jnp.sum(jnp.where(chosen, log_probability, 0.0), axis=-1)


def softmax(logits: Float[np.ndarray, "*b c"]) -> Float[np.ndarray, "*b c"]:
    """Probabilities over the last axis, float32, in NumPy."""
    logits = np.asarray(logits, np.float32)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def palette(classes: int) -> UInt8[np.ndarray, "classes 3"]:
    """Colours that tell neighbouring class indices apart (PASCAL VOC's bit interleaving)."""
    index = np.arange(classes)
    colours = np.zeros((classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (((index >> channel) & 1) << (7 - bit)).astype(np.uint8)
        index >>= 3
    return colours
