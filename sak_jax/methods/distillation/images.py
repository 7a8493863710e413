"""The images of distillation: one data set, or several in groups, without labels."""

import logging

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from sak_jax import data
from sak_jax.data import Source, mixture, pipeline
from sak_jax.data.transforms import Transform
from sak_jax.errors import UserError
from sak_jax.methods import multitask
from sak_jax.methods.distillation import keys

logger = logging.getLogger(__name__)


def open_batches(config: ConfigDict, transform: Transform) -> pipeline.Batches:
    """This process's endless training batches: `image`, and with `distill.mix` each image's `group`.

    Raises:
      UserError: the data is not as it should be.
    """
    settings, rows = keys.distill_data(config), keys.mix(config)
    if rows:
        opened = open_sets(rows, tuple(config.image_size), leave_out=config.distill.mix.missing == "leave_out")
        groups = {name: row["group"] for name, row in rows.items()}
        source = mixture.sources(opened, groups, balance=config.distill.mix.balance)
    else:
        source = data.create_source(settings, "train", (), tuple(config.image_size))
    return pipeline.train_batches(source, transform, config.batch_size, config.seed, **multitask.reading(settings))


def open_sets(rows: dict[str, dict], image_size: tuple[int, int], *, leave_out: bool) -> dict[str, Source]:
    """The data sets of a mixture by name.

    Args:
      rows: values of `data.create_source` by name.
      image_size: (height, width) that samples will be brought to.
      leave_out: sets with a root that is not there are left out, which is logged, instead of refused.

    Raises:
      UserError: a data set can't be read, or all are left out.
    """
    lacking = {name: row["root"] for name, row in rows.items() if leave_out and _lacks(row["root"])}
    if lacking:
        listed = ", ".join(f"{name} ({root})" for name, root in lacking.items())
        if len(lacking) == len(rows):
            raise UserError(f"distill.mix.sets: none of the folders is there: {listed}; set one root at least")
        logger.warning("%d of %d data sets are left out, as they are not there: %s", len(lacking), len(rows), listed)
    return {name: data.create_source(row, "train", (), image_size) for name, row in rows.items() if name not in lacking}


def _lacks(root: str) -> bool:
    return bool(root) and not epath.Path(root).expanduser().exists()


def inputs(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a global batch."""
    # DUNE's augmentation blurs and inverts colours without rounding them.
    dtype = jnp.float32 if config.distill.get("augment") == "dune" else jnp.uint8
    batch = {"image": jax.ShapeDtypeStruct((config.batch_size, *config.image_size, 3), dtype)}
    if keys.mix(config):
        batch["group"] = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    return batch
