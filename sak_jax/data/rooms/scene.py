"""Sampling a `rooms` scene: the room, its furniture, the camera and the lights.

World frame: metres, x and y along the floor, z up; the room fills [0, width] x [0, length] x [0, height].
Everything but the room itself is made of three primitives (`BOX`, `CYLINDER`, `ELLIPSOID`), each the unit solid scaled
by half extents, turned about the vertical and moved to its centre.
"""

import dataclasses
import math

import numpy as np

from sak_jax.data.rooms.furniture import BOX, CLASSES, CYLINDER, FURNITURE, Draw, Part, furniture

TEXTURES = ("plain", "checker", "stripes", "wood", "blotches")
FLOOR, CEILING, FIRST_WALL, FIRST_OBJECT = 0, 1, 2, 6
"""Instance ids of the structure (four walls), then the first id of an object."""

# Columns of `Scene.primitives`.
KIND, CENTRE, HALF, YAW, INSTANCE, CLASS, PART, MATERIAL, CASTS = 0, slice(1, 4), slice(4, 7), 7, 8, 9, 10, 11, 12

_FREQUENT = (*FURNITURE, "person", "plant", "bed", "table", "chair", "sofa", "sofa", "cabinet", "cabinet")
_HUES = {"plant": 0.32, "floor": 0.08, "door": 0.09, "table": 0.08, "cabinet": 0.09}


@dataclasses.dataclass(frozen=True)
class Scene:
    """One scene, independent of the size at which it is rendered.

    Attributes:
      room: width, length, height in metres.
      structure: material indices of floor, ceiling and the four walls (x = 0, x = width, y = 0, y = length).
      primitives: float64 [n, 13]; see the column names of this module.
      materials: float64 [m, 9]: two albedos, texture, frequency per metre, emission.
      camera: position x, y, z; yaw, pitch, roll in radians.
      slope: tangent of half the vertical field of view.
      lights: float64 [l, 6]: position, colour.
      ambient, exposure, noise: light from everywhere, brightness aimed at, deviation of the sensor noise.
    """

    room: tuple[float, float, float]
    structure: tuple[int, ...]
    primitives: np.ndarray
    materials: np.ndarray
    camera: tuple[float, float, float, float, float, float]
    slope: float
    lights: np.ndarray
    ambient: float
    exposure: float
    noise: float


def _albedo(draw: Draw, name: str) -> tuple[float, float, float]:
    """A random colour; the class shifts it a little, never so far that colour tells the class."""
    hue = draw.uniform(0.0, 1.0)
    if name in _HUES and draw.chance(0.4):
        hue = _HUES[name] + draw.uniform(-0.05, 0.05)
    saturation = draw.uniform(0.0, 0.75)
    value = draw.uniform(0.15, 0.9)
    if name in ("ceiling", "wall"):
        saturation *= 0.6
        value = 0.35 + 0.6 * value
    return tuple(value * (1.0 - saturation * (0.5 - 0.5 * math.cos(2 * math.pi * (hue - k / 3)))) for k in range(3))


class _Builder:
    """Collects primitives and materials."""

    def __init__(self, draw: Draw):
        self.draw = draw
        self.primitives: list[tuple[float, ...]] = []
        self.materials: list[tuple[float, ...]] = []
        self.instances = FIRST_OBJECT

    def material(self, name: str, emission: float = 0.0, texture: int | None = None) -> int:
        draw = self.draw
        first = _albedo(draw, name)
        contrast = draw.uniform(0.3, 0.85)
        second = tuple(contrast * value for value in first) if draw.chance(0.7) else _albedo(draw, name)
        if texture is None:
            texture = 0 if draw.chance(0.4) else draw.integer(1, len(TEXTURES))
        self.materials.append((*first, *second, texture, math.exp(draw.uniform(0.2, 2.0)), emission))
        return len(self.materials) - 1

    def add(self, name: str, parts: list[Part], x: float, y: float, z: float, yaw: float, casts: bool = True) -> None:
        """Puts an object made of `parts` (in its own frame) at (x, y, z), turned by `yaw`."""
        slots = {}
        cosine, sine = math.cos(yaw), math.sin(yaw)
        for part in parts:
            if part.slot not in slots:
                slots[part.slot] = self.material(name, part.emission)
            px, py, pz = part.centre
            self.primitives.append(
                (part.kind, x + cosine * px - sine * py, y + sine * px + cosine * py, z + pz, *part.half)
                + (yaw + part.yaw, self.instances, CLASSES.index(name), part.label, slots[part.slot], casts)
            )
        self.instances += 1


def _camera(draw: Draw, room: tuple[float, float, float]) -> tuple[tuple[float, ...], float]:
    """A camera near a wall that looks across the room, and the tangent of half its vertical field of view."""
    width, length, height = room
    x, y = draw.uniform(0.12, 0.88) * width, draw.uniform(0.12, 0.88) * length
    side = draw.integer(0, 4)
    near = draw.uniform(0.3, 0.7)
    x, y = ((near, y), (width - near, y), (x, near), (x, length - near))[side]
    z = draw.uniform(1.1, min(1.9, height - 0.4))
    target_x, target_y = draw.uniform(0.35, 0.65) * width, draw.uniform(0.35, 0.65) * length
    yaw = math.atan2(target_y - y, target_x - x) + draw.uniform(-0.2, 0.2)
    pitch = -draw.uniform(-0.04, 0.38)
    return (x, y, z, yaw, pitch, draw.uniform(-0.04, 0.04)), math.tan(math.radians(draw.uniform(44, 62)) / 2)


def _decorate_walls(build: _Builder, room: tuple[float, float, float]) -> None:
    """Windows, doors and pictures: thin boxes on the walls that do not overlap."""
    draw = build.draw
    width, length, height = room
    for wall in range(4):
        extent = length if wall < 2 else width
        taken: list[tuple[float, float]] = []
        for _ in range(draw.integer(1, 5)):
            name = draw.pick(("window", "door", "picture", "picture", "window"))
            if name == "door":
                half_u, half_v = draw.uniform(0.38, 0.5), draw.uniform(0.98, 1.05)
                middle = half_v
            elif name == "window":
                half_u, half_v = draw.uniform(0.35, 0.9), draw.uniform(0.35, 0.65)
                middle = draw.uniform(1.35, 1.6)
            else:
                half_u, half_v = draw.uniform(0.18, 0.55), draw.uniform(0.15, 0.4)
                middle = draw.uniform(1.4, 1.75)
            if extent < 2 * half_u + 0.3:
                continue
            u = draw.uniform(half_u + 0.1, extent - half_u - 0.1)
            if any(abs(u - other) < half_u + half + 0.08 for other, half in taken):
                continue
            taken.append((u, half_u))
            # In the object's frame x runs along the wall and y points into the room.
            parts = _opening(draw, name, half_u, half_v)
            position = ((0.0, u), (width, u), (u, 0.0), (u, length))[wall]
            turn = (-0.5, 0.5, 0.0, 1.0)[wall] * math.pi
            build.add(name, parts, *position, min(middle, height - half_v - 0.1), turn, casts=False)


def _opening(draw: Draw, name: str, half_u: float, half_v: float) -> list[Part]:
    frame = draw.uniform(0.03, 0.07)
    parts = [Part(BOX, (0.0, 0.015, 0.0), (half_u, 0.015, half_v), 0)]
    if name == "window":
        glow = draw.uniform(0.4, 2.2)
        panes = draw.integer(1, 4)
        pane = (half_u - frame) / panes
        for k in range(panes):
            offset = -half_u + frame + pane * (2 * k + 1)
            parts.append(
                Part(BOX, (offset, 0.016, 0.0), (pane - 0.35 * frame, 0.016, half_v - frame), 1, emission=glow)
            )
    elif name == "door":
        for sign in (-1, 1):
            parts.append(Part(BOX, (0.0, 0.02, sign * 0.47 * half_v), (half_u - 2 * frame, 0.02, 0.38 * half_v), 1))
        knob = draw.pick((-1.0, 1.0)) * (half_u - 0.08)
        parts.append(Part(CYLINDER, (knob, 0.045, 0.0), (0.025, 0.025, 0.04), 2))
    else:
        parts.append(Part(BOX, (0.0, 0.02, 0.0), (half_u - frame, 0.02, half_v - frame), 1))
    return parts


def _place(draw: Draw, name: str, size: tuple[float, float], room, camera, taken) -> tuple[float, float, float] | None:
    """A free spot for a footprint of `size`: x, y and yaw, or None. Most spots lie in the camera's view."""
    width, length, _ = room
    against_wall = draw.chance(FURNITURE[name])
    for _ in range(10):
        if against_wall:
            wall = draw.integer(0, 4)
            yaw = (-0.5, 0.5, 0.0, 1.0)[wall] * math.pi
        else:
            yaw = draw.uniform(-math.pi, math.pi)
        cosine, sine = abs(math.cos(yaw)), abs(math.sin(yaw))
        half_x = 0.5 * (cosine * size[0] + sine * size[1]) + 0.04
        half_y = 0.5 * (sine * size[0] + cosine * size[1]) + 0.04
        if 2 * half_x > width - 0.2 or 2 * half_y > length - 0.2:
            continue
        x = draw.uniform(half_x + 0.08, width - half_x - 0.08)
        y = draw.uniform(half_y + 0.08, length - half_y - 0.08)
        if against_wall:
            x, y = ((half_x + 0.06, y), (width - half_x - 0.06, y), (x, half_y + 0.06), (x, length - half_y - 0.06))[
                wall
            ]
        away_x, away_y = x - camera[0], y - camera[1]
        bearing = math.remainder(math.atan2(away_y, away_x) - camera[3], 2 * math.pi)
        if abs(bearing) > 0.5 and draw.chance(0.75):
            continue
        if abs(away_x) < half_x + 0.55 and abs(away_y) < half_y + 0.55:
            continue
        if math.hypot(away_x, away_y) < 1.1 + 0.5 * max(half_x, half_y):
            continue
        if any(abs(x - a) < half_x + c and abs(y - b) < half_y + d for a, b, c, d in taken):
            continue
        taken.append((x, y, half_x, half_y))
        return x, y, yaw
    return None


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draws one scene."""
    draw = Draw(rng)
    room = (draw.uniform(3.2, 6.5), draw.uniform(3.2, 6.5), draw.uniform(2.4, 3.1))
    build = _Builder(draw)
    floor = build.material("floor")
    ceiling = build.material("ceiling", texture=0 if draw.chance(0.7) else 4)
    wall = build.material("wall", texture=0 if draw.chance(0.5) else None)
    walls = [build.material("wall") if draw.chance(0.2) else wall for _ in range(4)]
    camera, slope = _camera(draw, room)
    _decorate_walls(build, room)

    taken: list[tuple[float, float, float, float]] = []
    wanted = draw.integer(5, 10)
    for _ in range(wanted + 5):
        if len(taken) >= wanted:
            break
        name = draw.pick(_FREQUENT)
        size, top, parts = furniture(draw, name)
        spot = _place(draw, name, size, room, camera, taken)
        if spot is None:
            continue
        build.add(name, parts, spot[0], spot[1], 0.0, spot[2])
        if top and draw.chance(0.4):
            small = draw.pick(("small lamp", "small plant"))
            _, _, parts = furniture(draw, small)
            build.add(small.split()[1], parts, spot[0], spot[1], top, draw.uniform(0, 6.28))

    lights = []
    for k in range(draw.integer(1, 3)):
        x, y = draw.uniform(0.25, 0.75) * room[0], draw.uniform(0.25, 0.75) * room[1]
        z = room[2] - draw.uniform(0.15, 0.5)
        power, warmth = draw.uniform(0.6, 1.3), draw.uniform(0.6, 1.0)
        lights.append((x, y, z, power, power * (0.5 + 0.5 * warmth), power * warmth))
        if k == 0 and draw.chance(0.6):
            _, _, parts = furniture(draw, "pendant")
            build.add("lamp", parts, x, y, room[2], 0.0, casts=False)
    return Scene(
        room,
        (floor, ceiling, *walls),
        np.array(build.primitives),
        np.array(build.materials),
        camera,
        slope,
        np.array(lights),
        draw.uniform(0.25, 0.55),
        draw.uniform(0.3, 0.6),
        draw.uniform(0.003, 0.02),
    )
