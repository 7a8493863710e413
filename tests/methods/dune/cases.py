"""The reference cases of DUNE and UNIC: files, names, and how far a value may lie from them."""

import functools
import json
from pathlib import Path

import numpy as np

from tests.reference.formula_weights import formula_input

REFERENCE = Path(__file__).parents[2] / "reference"
TYPES = {
    "dino2reg_vitlarge_14": ("cls", "patch"),
    "mast3r_vitlarge_16": ("patch",),
    "multihmr_vitlarge_14_672": ("patch",),
}
"""The teachers in the reference's order, and the tokens of each that are followed."""


@functools.cache
def shapes(case: str) -> dict[str, list[int]]:
    """{state-dict key: shape} of a case."""
    return json.loads((REFERENCE / "shapes_dune.json").read_text())[case]


@functools.cache
def reference(name: str) -> dict[str, np.ndarray]:
    """The arrays of a reference file."""
    with np.load(REFERENCE / f"{name}.npz") as file:
        return dict(file)


def deviations(found, wanted) -> float:
    """The largest difference over the standard deviation of what is wanted."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / wanted.std())


def images(name: str, batch: int, size: tuple[int, int]) -> np.ndarray:
    """The reference's images, channels last."""
    return formula_input(name, (batch, 3, *size)).transpose(0, 2, 3, 1)
