"""From predictions and label maps to thin boundaries: suppression of non-maxima, thinning, and the truth.

The boundary metric compares sets of one-pixel-wide curves; this module makes them. Matching and scoring are in
`matching` and `score`. Everything is NumPy and SciPy on the host.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Integer, UInt8
from scipy import ndimage

from sak_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a soft prediction becomes a thinned soft map.

    Attributes:
      smooth: radius of the triangle filter put on the prediction; 0 for none.
      reach: pixels, to either side across the edge, that a pixel must not be weaker than.
    """

    smooth: int
    reach: int


PROTOCOLS = {"sak": Protocol(smooth=1, reach=4), "invpt": Protocol(smooth=0, reach=1)}
"""The two protocols in use. Scores under one are not comparable with scores under the other."""

_TOLERANCE = 1.01  # a neighbour must be 1 % stronger to suppress a pixel
_BORDER = 5  # outermost rows and columns that are faded out


def protocol_named(name: str) -> Protocol:
    """The protocol of that name; `UserError` for a name that is not in `PROTOCOLS`."""
    if name not in PROTOCOLS:
        raise UserError(f"there is no boundary protocol {name!r}; take one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _triangle_filter(image: np.ndarray, radius: int) -> np.ndarray:
    """Separable triangle filter with symmetric padding: [1 2 1]/4, [1 2 3 2 1]/9, ..."""
    kernel = np.concatenate([np.arange(1, radius + 2), np.arange(radius, 0, -1)]) / (radius + 1) ** 2
    return ndimage.correlate1d(ndimage.correlate1d(image, kernel, axis=0), kernel, axis=1)  # "reflect": symmetric


def _orientation(strength: np.ndarray) -> np.ndarray:
    """Direction across the edge, in radians in [0, pi), from second derivatives of the smoothed strength."""
    smooth = _triangle_filter(strength, 4)
    dy, dx = np.gradient(smooth)
    dxy, dxx = np.gradient(dx)
    dyy = np.gradient(dy, axis=0)
    return np.mod(np.arctan(dyy * np.sign(-dxy) / (dxx + 1e-5)), np.pi)


def suppress_non_maxima(prediction: UInt8[np.ndarray, "h w"], protocol: str) -> UInt8[np.ndarray, "h w"]:
    """Keeps the pixels of a soft boundary map that are the strongest across their edge.

    Args:
      prediction: boundary probability, 0..255 for 0..1.
      protocol: a key of `PROTOCOLS`.

    Returns:
      The strength (0..255) of the kept pixels, smoothed and faded at the border as the protocol says; 0 elsewhere.

    Matches the suppression of the Structured Edge Detection toolbox (Dollar and Zitnick, 2015) with a factor of 1.01
    and a border of 5.
    """
    settings = protocol_named(protocol)
    height, width = prediction.shape
    strength = prediction / 255
    if settings.smooth:
        strength = _triangle_filter(strength, settings.smooth)
    orientation = _orientation(strength)

    y, x = np.nonzero(strength)
    flat = strength.ravel()
    value = strength[y, x]
    limit = value * _TOLERANCE
    x_step, y_step = np.cos(orientation[y, x]), np.sin(orientation[y, x])
    kept = np.arange(len(y))
    # Nearest neighbours first: they decide most pixels, and the decided ones are not looked at again.
    for distance in sorted(set(range(-settings.reach, settings.reach + 1)) - {0}, key=abs):
        # Just under the last pixel, so that the pixel to the right of a floored position is always inside.
        at_x = np.clip(x[kept] + distance * x_step[kept], 0, width - 1.001)
        at_y = np.clip(y[kept] + distance * y_step[kept], 0, height - 1.001)
        left, top = at_x.astype(np.intp), at_y.astype(np.intp)
        to_right, down = at_x - left, at_y - top
        corner = top * width + left
        upper = flat[corner] * (1 - to_right) + flat[corner + 1] * to_right
        lower = flat[corner + width] * (1 - to_right) + flat[corner + width + 1] * to_right
        kept = kept[upper * (1 - down) + lower * down <= limit[kept]]

    thinned = np.zeros_like(strength)
    thinned[y[kept], x[kept]] = value[kept]
    fade = np.arange(_BORDER) / _BORDER
    rows, columns = min(_BORDER, height // 2), min(_BORDER, width // 2)
    thinned[:rows] *= fade[:rows, None]
    thinned[height - rows :] *= fade[:rows][::-1, None]
    thinned[:, :columns] *= fade[:columns]
    thinned[:, width - columns :] *= fade[:columns][::-1]
    # Halves are frequent, [1 2 1]/4 makes them of integers: float64 and the filter's order of axes, rows before
    # columns, decide how they round, and are those of the toolbox.
    return np.floor(thinned * 255 + 0.5).astype(np.uint8)


# The eight neighbours of a pixel clockwise from north, as (row, column); neighbour i is bit i of a pixel's code.
_NEIGHBOURS = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))


@functools.cache
def _thinning_tables() -> tuple[np.ndarray, np.ndarray]:
    """For either sub-iteration of Guo and Hall's thinning, whether a pixel of each neighbour code goes."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1 == 1
    n, ne, e, se, s, sw, w, nw = bits.T
    crossings = (
        (~n & (ne | e)).astype(int) + (~e & (se | s)) + (~s & (sw | w)) + (~w & (nw | n))
    )  # separate runs of neighbours: 1 means that the pixel joins nothing together
    pairs = np.minimum(
        (nw | n).astype(int) + (ne | e) + (se | s) + (sw | w),
        (n | ne).astype(int) + (e | se) + (s | sw) + (w | nw),
    )  # 1 is the end of a curve, above 3 the inside of a region
    removable = (crossings == 1) & (pairs >= 2) & (pairs <= 3)
    return removable & ~((n | ne | ~se) & e), removable & ~((s | sw | ~nw) & w)


class Thinner:
    """Thins many binary maps of one size, given as lists of pixels.

    Works on the foreground pixels alone and keeps every pixel's neighbour code up to date, so that a pass costs one
    table look-up a pixel: thin maps take well under a millisecond.
    """

    def __init__(self, height: int, width: int):
        self._stride = width + 2
        self._width = width
        self._present = np.zeros((height + 2) * (width + 2), np.uint8)
        self._codes = np.zeros_like(self._present)
        self._offsets = [row * self._stride + column for row, column in _NEIGHBOURS]

    def __call__(self, pixels: Integer[np.ndarray, "n"]) -> Integer[np.ndarray, "m"]:
        """Thins the map whose foreground is `pixels` (row * width + column) and returns what is left, in order.

        Guo and Hall's algorithm (1989, A1), repeated until nothing changes; pixels outside the image are background.
        """
        pixels = pixels + pixels // self._width * 2 + self._stride + 1  # into the image padded by one pixel
        present, codes = self._present, self._codes
        present[pixels] = 1
        code = np.zeros(len(pixels), np.uint8)
        for bit, offset in enumerate(self._offsets):
            code |= present[pixels + offset] << np.uint8(bit)
        codes[pixels] = code
        present[pixels] = 0  # as it was found, for the next map

        changed = True
        while changed:
            changed = False
            for table in _thinning_tables():
                gone = table[codes[pixels]]
                if not gone.any():
                    continue
                changed = True
                removed, pixels = pixels[gone], pixels[~gone]
                for bit, offset in enumerate(self._offsets):
                    codes[removed - offset] &= np.uint8(255 ^ (1 << bit))
        rows, columns = np.divmod(pixels, self._stride)
        return (rows - 1) * self._width + columns - 1


def thin(boundary: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Guo-Hall thinning to convergence; the same as MATLAB's `bwmorph(..., "thin", Inf)`."""
    thinned = np.zeros(boundary.shape, bool)
    thinned.ravel()[Thinner(*boundary.shape)(np.flatnonzero(boundary))] = True
    return thinned


def boundary_of_labels(labels: np.ndarray) -> Bool[np.ndarray, "h w"]:
    """The thinned boundary between the regions of a label map.

    A pixel is on the boundary if its right, lower or lower-right neighbour has another label; the last row and column
    compare within themselves. The result is then thinned.

    Args:
      labels: [h, w] of any dtype that compares by equality. A binary boundary map is a label map too: the published
        evaluation of NYUD-v2 sends its truth through this step, which outlines each curve before thinning it.

    Matches the BSDS benchmark's seg2bmap at full size.
    """
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return thin(edge)
