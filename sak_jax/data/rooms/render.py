"""Ray casting of a `rooms` scene with numpy, in float32: image and exact labels.

A pixel's ray is `origin + t * direction` with the direction's component along the optical axis equal to 1, so that
`t` is the z-depth. Rays and primitives are tested only inside the primitive's bounding rectangle on the image, and
shadow rays only inside the cone from the light around the primitive's bounding sphere.
"""

import math

import numpy as np
from jaxtyping import Float, UInt8

from sak_jax.data.rooms import scene as layout
from sak_jax.data.rooms.furniture import BOX, CLASSES, CYLINDER

_FAR = np.float32(1e9)
_FIRST_FURNITURE = CLASSES.index("bed")


def _interval(kind: int, ox: float, oy: float, oz: float, dx, dy, dz):
    """Where rays enter and leave the unit solid of a kind; entry > exit (or NaN) for a miss.

    Every solid here is convex, and a cylinder is an infinite tube cut by a slab.
    """
    if kind == BOX:
        inverse_x, inverse_y, inverse_z = 1 / dx, 1 / dy, 1 / dz
        middle_x, middle_y, middle_z = -ox * inverse_x, -oy * inverse_y, -oz * inverse_z
        reach_x, reach_y, reach_z = np.abs(inverse_x), np.abs(inverse_y), np.abs(inverse_z)
        enter = np.maximum(np.maximum(middle_x - reach_x, middle_y - reach_y), middle_z - reach_z)
        leave = np.minimum(np.minimum(middle_x + reach_x, middle_y + reach_y), middle_z + reach_z)
        return enter, leave
    a = dx * dx + dy * dy
    b = ox * dx + oy * dy
    c = ox * ox + oy * oy - 1
    if kind != CYLINDER:
        a, b, c = a + dz * dz, b + oz * dz, c + oz * oz
    root = np.sqrt(b * b - a * c)
    enter, leave = (-b - root) / a, (-b + root) / a
    if kind == CYLINDER:
        inverse = 1 / dz
        middle, reach = -oz * inverse, np.abs(inverse)
        enter, leave = np.maximum(enter, middle - reach), np.minimum(leave, middle + reach)
    return enter, leave


class _Solid:
    """A primitive's numbers as plain floats, and the ray test in its own unit frame."""

    def __init__(self, row: list[float]):
        self.kind = int(row[layout.KIND])
        self.x, self.y, self.z = row[layout.CENTRE]
        self.hx, self.hy, self.hz = row[layout.HALF]
        self.cosine, self.sine = math.cos(row[layout.YAW]), math.sin(row[layout.YAW])
        if self.kind == BOX:
            self.radius = math.hypot(self.hx, self.hy, self.hz)
        elif self.kind == CYLINDER:
            self.radius = math.hypot(max(self.hx, self.hy), self.hz)
        else:
            self.radius = max(self.hx, self.hy, self.hz)

    def interval(self, origin, dx, dy, dz):
        x, y, z = origin[0] - self.x, origin[1] - self.y, origin[2] - self.z
        c, s = self.cosine, self.sine
        cx, sx, cy, sy, iz = c / self.hx, s / self.hx, c / self.hy, s / self.hy, 1 / self.hz
        return _interval(
            self.kind, cx * x + sx * y, cy * y - sy * x, iz * z, cx * dx + sx * dy, cy * dy - sy * dx, iz * dz
        )


def camera_axes(camera) -> np.ndarray:
    """The rows right, down and forward, in the world, of a camera (x, y, z, yaw, pitch, roll): float64 [3, 3]."""
    yaw, pitch, roll = camera[3:]
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    return np.stack([np.cos(roll) * right + np.sin(roll) * down, np.cos(roll) * down - np.sin(roll) * right, forward])


def _rectangles(scene, axes, focal: float, height: int, width: int) -> np.ndarray:
    """Bounding rectangles [n, 4] (top, bottom, left, right) of the primitives on the image; empty when behind."""
    rows = scene.primitives
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    local = rows[:, None, layout.HALF] * signs
    c, s = np.cos(rows[:, layout.YAW])[:, None], np.sin(rows[:, layout.YAW])[:, None]
    turned = np.stack([c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1], local[..., 2]], -1)
    corners = (turned + rows[:, None, layout.CENTRE] - np.array(scene.camera[:3])) @ axes.T
    depth = corners[..., 2]
    safe = np.maximum(depth, 1e-3)
    u = corners[..., 0] / safe * focal + width / 2
    v = corners[..., 1] / safe * focal + height / 2
    box = np.stack([v.min(1) - 1, v.max(1) + 1, u.min(1) - 1, u.max(1) + 1], 1)
    box[depth.min(1) < 0.05] = (0, height, 0, width)
    box[depth.max(1) < 0.05] = 0
    limit = np.array([height, height, width, width])
    return np.clip(box, 0, limit).round().astype(int)


def trace(scene: layout.Scene, height: int, width: int) -> dict[str, np.ndarray]:
    """Casts one ray a pixel.

    Returns:
      `depth` float32 [H, W] metres; `point` and `normal` float32 [H, W, 3] in the world; `local` float32 [H, W, 3], the
      point in its object's frame; `instance`, `label`, `part`, `material` integers [H, W].
    """
    axes = camera_axes(scene.camera)
    origin = scene.camera[:3]
    focal = height / 2 / scene.slope
    x = ((np.arange(width) + 0.5 - width / 2) / focal).astype(np.float32)
    y = ((np.arange(height) + 0.5 - height / 2) / focal).astype(np.float32)[:, None]
    directions = [float(axes[0, k]) * x + float(axes[1, k]) * y + float(axes[2, k]) for k in range(3)]

    # The room, seen from inside: the nearest of the planes the ray moves towards.
    exits = []
    for k in range(3):
        ahead = np.where(directions[k] > 0, np.float32(scene.room[k] - origin[k]), np.float32(-origin[k]))
        exits.append(np.where(directions[k] == 0, _FAR, ahead / directions[k]))
    depth = np.minimum(np.minimum(exits[0], exits[1]), exits[2])
    axis = np.where(depth == exits[2], 2, np.where(depth == exits[1], 1, 0))
    positive = np.where(axis == 2, directions[2] > 0, np.where(axis == 1, directions[1] > 0, directions[0] > 0))
    face = axis * 2 + positive  # walls x = 0, x = width, y = 0, y = length; floor; ceiling
    hit = np.full((height, width), -1)

    for index, (row, (top, bottom, left, right)) in enumerate(
        zip(scene.primitives.tolist(), _rectangles(scene, axes, focal, height, width).tolist(), strict=True)
    ):
        if top >= bottom or left >= right:
            continue
        window = (slice(top, bottom), slice(left, right))
        enter, leave = _Solid(row).interval(origin, *(d[window] for d in directions))
        nearer = (enter < leave) & (enter > 0) & (enter < depth[window])
        np.copyto(depth[window], enter, where=nearer)
        hit[window][nearer] = index
    return _surfaces(scene, origin, directions, depth, hit, face)


def _surfaces(scene, origin, directions, depth, hit, face) -> dict[str, np.ndarray]:
    """Points, normals and ids of what the rays hit."""
    point = np.stack([np.float32(origin[k]) + depth * directions[k] for k in range(3)], -1)
    local = point.copy()
    sign = np.float32([1, -1, 1, -1, 1, -1])
    inward = np.zeros((6, 3), np.float32)
    inward[np.arange(6), np.arange(6) // 2] = sign
    normal = inward[face]
    structure = np.array([2, 3, 4, 5, layout.FLOOR, layout.CEILING])
    instance = structure[face]
    labels = np.array([CLASSES.index("wall")] * 4 + [CLASSES.index("floor"), CLASSES.index("ceiling")])
    label = labels[face]
    part = np.zeros_like(label)
    floor, ceiling, *walls = scene.structure
    material = np.array([*walls, floor, ceiling])[face]

    rows, columns = np.nonzero(hit >= 0)
    index = hit[rows, columns]
    table = scene.primitives[index].astype(np.float32)
    offset = point[rows, columns] - table[:, layout.CENTRE]
    c, s = np.cos(table[:, layout.YAW]), np.sin(table[:, layout.YAW])
    ray = np.stack([d[rows, columns] for d in directions], -1)
    own = np.stack([c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0], offset[:, 2]], -1)
    ray = np.stack([c * ray[:, 0] + s * ray[:, 1], c * ray[:, 1] - s * ray[:, 0], ray[:, 2]], -1)
    half = table[:, layout.HALF]
    unit = own / half
    kind = table[:, layout.KIND]
    # Only faces turned to the ray count: at an edge rounding could else choose one that cannot be seen.
    seen = np.where(unit * ray < 0, np.abs(unit), 0)
    outward = unit / half
    tube = kind == CYLINDER
    cap = tube & (seen[:, 2] ** 2 > unit[:, 0] ** 2 + unit[:, 1] ** 2)
    outward[tube, 2] = 0
    flat = (kind == BOX) | cap
    faces = np.where(cap, 2, seen.argmax(1))
    outward[flat] = 0
    outward[flat, faces[flat]] = np.sign(unit[flat, faces[flat]])
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    outward = np.stack(
        [c * outward[:, 0] - s * outward[:, 1], s * outward[:, 0] + c * outward[:, 1], outward[:, 2]], -1
    )
    normal[rows, columns] = outward
    local[rows, columns] = own
    instance[rows, columns] = table[:, layout.INSTANCE]
    label[rows, columns] = table[:, layout.CLASS]
    part[rows, columns] = table[:, layout.PART]
    material[rows, columns] = table[:, layout.MATERIAL]
    return dict(
        depth=depth,
        point=point,
        normal=normal,
        local=local,
        instance=instance,
        label=label,
        part=part,
        material=material,
    )


def _pattern(texture: int, frequency, p):
    """The share of the second albedo, 0..1, at points p [n, 3] of a solid texture."""
    x, y, z = p[:, 0] * frequency, p[:, 1] * frequency, p[:, 2] * frequency
    name = layout.TEXTURES[texture]
    if name == "checker":
        # Shifted, so that faces through the origin of the frame do not flicker between two cells.
        return ((np.floor(x + 0.31) + np.floor(y + 0.31) + np.floor(z + 0.31)) % 2).astype(np.float32)
    if name == "stripes":
        return (np.sin(4 * (x + z)) > 0).astype(np.float32)
    if name == "wood":
        return 0.5 + 0.5 * np.sin(9 * y + 1.5 * np.sin(0.7 * x + 2 * np.sin(0.9 * z)) + 0.6 * np.sin(5 * x))
    blotch = np.sin(1.7 * x + 2 * np.sin(1.1 * y)) * np.sin(1.9 * y + 2 * np.sin(1.3 * z)) + np.sin(2.3 * z + x)
    return np.clip(0.5 + 0.6 * blotch, 0, 1)


def _albedo(scene, surfaces) -> tuple[np.ndarray, np.ndarray]:
    """Albedo [H, W, 3] and emission [H, W]."""
    table = scene.materials.astype(np.float32)[surfaces["material"]]
    share = np.zeros(table.shape[:2], np.float32)
    texture = table[..., 6].astype(int)
    for number in range(1, len(layout.TEXTURES)):
        rows, columns = np.nonzero(texture == number)
        if len(rows):
            frequency = table[rows, columns, 7]
            share[rows, columns] = _pattern(number, frequency, surfaces["local"][rows, columns])
    return table[..., :3] + share[..., None] * (table[..., 3:6] - table[..., :3]), table[..., 8]


def _light(solids, light: list[float], point, normal) -> np.ndarray:
    """Lambert factor times distance fall-off, 0 in shadow: float32 [n] for points and normals [n, 3]."""
    position = light[:3]
    towards = point - np.float32(position)
    distance = np.sqrt(np.einsum("nk,nk->n", towards, towards))
    lambert = -np.einsum("nk,nk->n", towards, normal) / distance
    facing = np.flatnonzero(lambert > 0)
    rays, reach = np.ascontiguousarray(towards[facing].T), distance[facing]
    # The ray ends on a surface; what it meets within a millimetre or so of its end is that surface.
    end = 1 - 2e-3 / reach
    lit = np.ones(len(facing), bool)
    x, y, z = rays / reach
    for solid in solids:
        cx, cy, cz = solid.x - position[0], solid.y - position[1], solid.z - position[2]
        # A light within the bounding sphere has no cone: every ray is tested.
        span = cx * cx + cy * cy + cz * cz - solid.radius**2
        # Written out, because a threaded BLAS product of this shape costs far more than it does.
        inside = np.flatnonzero(lit & (cx * x + cy * y + cz * z > math.sqrt(span)) if span > 0 else lit)
        if len(inside):
            enter, leave = solid.interval(position, *rays[:, inside])
            lit[inside[(enter < leave) & (enter < end[inside]) & (leave > 0)]] = False
    bright = facing[lit]
    light_in = np.zeros_like(lambert)
    light_in[bright] = lambert[bright] / (1 + (distance[bright] / 2.5) ** 2)
    return light_in


def shade(scene: layout.Scene, surfaces: dict[str, np.ndarray], rng: np.random.Generator) -> UInt8[np.ndarray, "H W 3"]:
    """Colours: Lambert shading with shadows, ambient light, glowing things, exposure, gamma and sensor noise."""
    height, width = surfaces["depth"].shape
    point, normal = surfaces["point"].reshape(-1, 3), surfaces["normal"].reshape(-1, 3)
    albedo, emission = _albedo(scene, surfaces)
    solids = [_Solid(row) for row in scene.primitives.tolist() if row[layout.CASTS]]
    ambient = np.float32(scene.ambient)
    energy = (ambient * (0.75 + 0.25 * normal[:, 2:])).repeat(3, 1)
    for light in scene.lights.tolist():
        energy += _light(solids, light, point, normal)[:, None] * np.float32(light[3:]) * 2
    colour = albedo * energy.reshape(height, width, 3) + emission[..., None] * (0.4 + 0.6 * albedo)
    gain = np.float32(scene.exposure) / colour.mean()
    colour = (1 - np.exp(-gain * colour)) ** np.float32(1 / 2.2)
    colour += np.float32(scene.noise) * rng.standard_normal(colour.shape, np.float32)
    return (np.clip(colour, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)


def camera_normals(scene: layout.Scene, normal: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """World normals in the camera's frame: x right, y up, z towards the camera."""
    axes = camera_axes(scene.camera) * [[1], [-1], [-1]]
    return np.einsum("hwk,ck->hwc", normal, axes.astype(np.float32))


def boundaries(instance: np.ndarray) -> Float[np.ndarray, "H W"]:
    """1 where a pixel's instance differs from that of its right or lower neighbour, else 0."""
    edge = np.zeros(instance.shape, np.float32)
    edge[:, :-1][instance[:, 1:] != instance[:, :-1]] = 1
    edge[:-1][instance[1:] != instance[:-1]] = 1
    return edge


def salient(instance: np.ndarray, label: np.ndarray) -> UInt8[np.ndarray, "H W"]:
    """The mask of the main object: the piece of furniture (or person) with most pixels, central ones counting more."""
    height, width = instance.shape
    x = (np.arange(width) + 0.5) / width - 0.5
    y = ((np.arange(height) + 0.5) / height - 0.5)[:, None]
    weight = np.exp(-8 * (x * x + y * y)) * (label >= _FIRST_FURNITURE)
    score = np.bincount(instance.ravel(), weight.ravel())
    if score.max() == 0:
        return np.zeros(instance.shape, np.uint8)
    return (instance == score.argmax()).astype(np.uint8)
