"""The furniture of `rooms`: each kind as a list of boxes, upright cylinders and ellipsoids in its own frame.

In an object's frame x runs along its width, its back is at -y (towards the wall) and z = 0 is what it stands on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CLASSES = (
    *("floor", "wall", "ceiling", "window", "door", "picture"),
    *("bed", "table", "chair", "sofa", "cabinet", "lamp", "person", "plant"),
)
"""Semantic classes of `rooms`; the index is the label."""

PARTS = ("background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs")
"""Human parts; the index is the label, as in PASCAL-Context (method: section 4)."""

BOX, CYLINDER, ELLIPSOID = 0, 1, 2

FURNITURE = {
    "bed": 0.9, "table": 0.2, "chair": 0.2, "sofa": 0.75, "cabinet": 0.95, "lamp": 0.3, "person": 0.0, "plant": 0.4,
}  # fmt: skip
"""What stands on the floor, with the probability that it stands with its back to a wall."""


class Part(NamedTuple):
    """One primitive of an object. `slot` numbers the object's materials, `label` its human part."""

    kind: int
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    slot: int
    label: int = 0
    yaw: float = 0.0
    emission: float = 0.0


class Draw:
    """Scalar draws as plain Python numbers: faster than `rng.uniform`, and they keep float32 arrays float32."""

    def __init__(self, rng: np.random.Generator):
        self._random = rng.random

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self._random()

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high)."""
        return low + int((high - low) * self._random())

    def pick(self, options: Sequence):
        """One of the options, all alike."""
        return options[int(len(options) * self._random())]


def _legs(width: float, depth: float, height: float, thick: float, round_: bool, slot: int) -> list[Part]:
    kind = CYLINDER if round_ else BOX
    x, y = width / 2 - thick, depth / 2 - thick
    half = (thick, thick, height / 2)
    return [Part(kind, (sx * x, sy * y, height / 2), half, slot) for sx in (-1, 1) for sy in (-1, 1)]


def _slab(x, y, low, high, width, depth, slot, label=0, emission=0.0) -> Part:
    """A box from height `low` to `high` around (x, y)."""
    half = (width / 2, depth / 2, (high - low) / 2)
    return Part(BOX, (x, y, (low + high) / 2), half, slot, label, emission=emission)


def _bed(draw):
    width, depth, height = draw.uniform(0.9, 1.8), draw.uniform(1.9, 2.15), draw.uniform(0.38, 0.6)
    head = height + draw.uniform(0.1, 0.6)
    parts = [
        _slab(0, 0, 0.08, 0.55 * height, width, depth, 0),
        _slab(0, 0.03, 0.55 * height, height, 0.96 * width, depth - 0.08, 1),
        _slab(0, 0.2 * depth, height, height + 0.03, width, 0.6 * depth, 2),
        _slab(0, -depth / 2 + 0.02, 0, head, width + 0.02, 0.06, 0),
    ]
    pillows = 2 if width > 1.3 else 1
    for k in range(pillows):
        x = (k - (pillows - 1) / 2) * width / 2
        parts.append(Part(ELLIPSOID, (x, -depth / 2 + 0.3, height + 0.05), (0.4 * width / pillows, 0.2, 0.1), 3))
    return (width, depth), 0.0, parts


def _table(draw):
    width, depth, height = draw.uniform(0.7, 1.7), draw.uniform(0.6, 1.0), draw.uniform(0.42, 0.8)
    if draw.chance(0.35):
        radius = depth / 2
        parts = [
            Part(CYLINDER, (0, 0, height - 0.02), (radius, radius, 0.02), 0),
            Part(CYLINDER, (0, 0, height / 2), (0.05, 0.05, height / 2 - 0.02), 1),
            Part(CYLINDER, (0, 0, 0.02), (0.6 * radius, 0.6 * radius, 0.02), 1),
        ]
        return (depth, depth), height, parts
    thick = draw.uniform(0.02, 0.05)
    parts = [_slab(0, 0, height - 0.05, height, width, depth, 0)]
    return (width, depth), height, parts + _legs(width, depth, height - 0.05, thick, draw.chance(0.4), 1)


def _chair(draw):
    width, depth, seat = draw.uniform(0.4, 0.52), draw.uniform(0.4, 0.5), draw.uniform(0.42, 0.5)
    back = seat + draw.uniform(0.35, 0.55)
    parts = [_slab(0, 0, seat - 0.05, seat, width, depth, 0)]
    if draw.chance(0.5):
        parts.append(_slab(0, -depth / 2 + 0.02, seat, back, width, 0.04, 1))
    else:
        for x in (-1, 0, 1):
            parts.append(_slab(x * (width / 2 - 0.03), -depth / 2 + 0.02, seat, back, 0.05, 0.04, 1))
        parts.append(_slab(0, -depth / 2 + 0.02, back - 0.1, back, width, 0.045, 1))
    return (width, depth), 0.0, parts + _legs(width, depth, seat - 0.05, 0.02, draw.chance(0.5), 1)


def _sofa(draw):
    width, depth = draw.uniform(0.9, 2.2), draw.uniform(0.75, 0.95)
    seat, back, arm = draw.uniform(0.36, 0.45), draw.uniform(0.7, 0.95), draw.uniform(0.12, 0.22)
    parts = [
        _slab(0, 0, 0.06, seat - 0.1, width, depth, 0),
        _slab(0, -depth / 2 + 0.11, seat - 0.1, back, width, 0.22, 0),
    ]
    for sign in (-1, 1):
        parts.append(_slab(sign * (width / 2 - arm / 2), 0.02, seat - 0.1, seat + 0.18, arm, depth - 0.04, 0))
    cushions = max(1, round(width / 0.75))
    pitch = (width - 2 * arm) / cushions
    for k in range(cushions):
        x = -width / 2 + arm + pitch * (k + 0.5)
        parts.append(_slab(x, 0.1, seat - 0.1, seat, pitch - 0.02, depth - 0.24, 1))
    if draw.chance(0.5):
        x = draw.uniform(-0.3, 0.3) * width
        parts.append(Part(ELLIPSOID, (x, -depth / 2 + 0.3, seat + 0.16), (0.2, 0.1, 0.18), 2))
    return (width, depth), 0.0, parts


def _cabinet(draw):
    width, depth, height = draw.uniform(0.5, 1.6), draw.uniform(0.35, 0.6), draw.uniform(0.6, 2.1)
    parts = [_slab(0, -0.01, 0, height, width, depth - 0.02, 0)]
    rows, columns = draw.integer(1, 4), draw.integer(1, 3)
    for row in range(rows):
        for column in range(columns):
            x = (column - (columns - 1) / 2) * width / columns
            low, high = height * row / rows + 0.03, height * (row + 1) / rows - 0.03
            parts.append(_slab(x, depth / 2 - 0.015, low, high, width / columns - 0.05, 0.03, 1))
    return (width, depth), height if height < 1.2 else 0.0, parts


def _lamp(draw):
    height, shade = draw.uniform(1.2, 1.8), draw.uniform(0.14, 0.24)
    glow = draw.uniform(0.2, 1.2) if draw.chance(0.6) else 0.0
    kind = ELLIPSOID if draw.chance(0.3) else CYLINDER
    parts = [
        Part(CYLINDER, (0, 0, 0.02), (0.15, 0.15, 0.02), 0),
        Part(CYLINDER, (0, 0, height / 2), (0.018, 0.018, height / 2), 0),
        Part(kind, (0, 0, height), (shade, shade, draw.uniform(0.12, 0.2)), 1, emission=glow),
    ]
    return (2 * shade, 2 * shade), 0.0, parts


def _small_lamp(draw):
    height, shade = draw.uniform(0.25, 0.45), draw.uniform(0.09, 0.15)
    glow = draw.uniform(0.2, 1.2) if draw.chance(0.6) else 0.0
    parts = [
        Part(CYLINDER, (0, 0, 0.015), (0.07, 0.07, 0.015), 0),
        Part(CYLINDER, (0, 0, height / 2), (0.02, 0.02, height / 2), 0),
        Part(CYLINDER, (0, 0, height), (shade, shade, draw.uniform(0.08, 0.13)), 1, emission=glow),
    ]
    return (2 * shade, 2 * shade), 0.0, parts


def _pendant(draw):
    """Hangs from z = 0."""
    drop, shade = draw.uniform(0.25, 0.6), draw.uniform(0.12, 0.25)
    kind = ELLIPSOID if draw.chance(0.5) else CYLINDER
    parts = [
        Part(CYLINDER, (0, 0, -drop / 2), (0.012, 0.012, drop / 2), 0),
        Part(kind, (0, 0, -drop), (shade, shade, draw.uniform(0.08, 0.2)), 1, emission=draw.uniform(0.4, 1.5)),
    ]
    return (0.1, 0.1), 0.0, parts


def _person(draw):
    height = draw.uniform(1.5, 1.9)
    k = height / 1.75
    hip, neck, wide = 0.86 * k, 1.45 * k, draw.uniform(0.16, 0.22) * k
    parts = [
        Part(ELLIPSOID, (0, 0, height - 0.12 * k), (0.08 * k, 0.1 * k, 0.125 * k), 0, 1),
        Part(ELLIPSOID, (0, -0.02, height - 0.07 * k), (0.09 * k, 0.1 * k, 0.09 * k), 3, 1),
        Part(CYLINDER, (0, 0, 1.49 * k), (0.05 * k, 0.05 * k, 0.07 * k), 0, 2),
        Part(CYLINDER, (0, 0, (hip + neck) / 2), (wide, 0.12 * k, (neck - hip) / 2), 1, 2),
    ]
    stride = draw.uniform(-0.1, 0.1)
    for side in (-1, 1):
        arm, leg = side * (wide + 0.05 * k), side * 0.5 * wide
        parts.append(Part(CYLINDER, (arm, 0, neck - 0.16 * k), (0.05 * k, 0.05 * k, 0.16 * k), 1, 3))
        if draw.chance(0.4):  # forearm held forward
            parts.append(Part(BOX, (arm, 0.17 * k, neck - 0.33 * k), (0.04 * k, 0.2 * k, 0.04 * k), 0, 4))
        else:
            parts.append(Part(CYLINDER, (arm, 0, neck - 0.5 * k), (0.04 * k, 0.045 * k, 0.2 * k), 0, 4))
        y = side * stride
        parts.append(Part(CYLINDER, (leg, y, 0.66 * k), (0.08 * k, 0.09 * k, 0.22 * k), 2, 5))
        parts.append(Part(CYLINDER, (leg, y, 0.23 * k), (0.06 * k, 0.07 * k, 0.23 * k), 2, 6))
        parts.append(Part(ELLIPSOID, (leg, y + 0.06 * k, 0.045 * k), (0.05 * k, 0.13 * k, 0.045 * k), 3, 6))
    return (0.6, 0.5), 0.0, parts


def _plant(draw, small=False):
    scale = draw.uniform(0.25, 0.4) if small else draw.uniform(0.7, 1.3)
    pot = draw.uniform(0.1, 0.16) * (0.5 + 0.5 * scale)
    trunk = 0.55 * scale
    parts = [
        Part(CYLINDER, (0, 0, 0.16 * scale), (pot, pot, 0.16 * scale), 0),
        Part(CYLINDER, (0, 0, 0.3 * scale + trunk / 2), (0.02 * scale, 0.02 * scale, trunk / 2), 1),
    ]
    for _ in range(draw.integer(4, 8)):
        centre = tuple(draw.uniform(-0.17, 0.17) * scale for _ in range(2))
        half = tuple(draw.uniform(low, 0.22) * scale for low in (0.06, 0.06, 0.08))
        parts.append(Part(ELLIPSOID, (*centre, draw.uniform(0.5, 1.05) * scale), half, 2, yaw=draw.uniform(0, 3.1)))
    return (0.7 * scale, 0.7 * scale), 0.0, parts


_MAKERS = {
    "bed": _bed,
    "table": _table,
    "chair": _chair,
    "sofa": _sofa,
    "cabinet": _cabinet,
    "lamp": _lamp,
    "person": _person,
    "plant": _plant,
    "small lamp": _small_lamp,
    "small plant": lambda draw: _plant(draw, small=True),
    "pendant": _pendant,
}


def furniture(draw: Draw, name: str) -> tuple[tuple[float, float], float, list[Part]]:
    """Draws an object of a kind: its footprint (width, depth), the height of a free top (0 for none), its parts."""
    return _MAKERS[name](draw)
