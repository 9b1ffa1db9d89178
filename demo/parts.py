"""Lay out a street as coloured polygons in front of a camera.

World coordinates are metres: x to the right, y up from the ground, z ahead. The camera
looks along z from above the middle of the road, so everything runs to one vanishing
point. Sizes in pixels depend on the height of the frame only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[Any]  # shape (n, 2), pixels
Color = npt.NDArray[np.float64] | tuple[float, float, float]  # RGB, 0 to 255
Details = list[tuple[Points, Color]]

_BLACK: Final = (25, 25, 28)
_GLASS: Final = (55, 70, 88)
_SKIN: Final = (205, 160, 130)
_EYE: Final = 1.9  # metres above the ground
_FAR: Final = 200.0


@dataclass(frozen=True)
class Part:
    """A labelled polygon before clipping, with its appearance."""

    label: str
    outline: Points
    color: Color
    depth: float  # drawing order: the largest first
    details: Details  # flat shapes on top, seen inside the outline only
    shade: float  # brightness at the lower end minus that at the upper end


@dataclass
class Street:
    """A scene under construction: a camera looking along z, and the parts so far."""

    rng: np.random.Generator
    height: int
    width: int
    parts: list[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        self.horizon = self.height * rng.uniform(0.38, 0.46)
        self.vanish_x = self.width * rng.uniform(0.38, 0.62)
        self.focal = 1.6 * self.height
        self.sunny_side = rng.choice((-1, 1))
        self.road = rng.uniform(3.6, 4.4)  # half its width
        self.walk = rng.uniform(2.4, 3.6)
        self.on_road: Details = []

    def project(self, points: npt.ArrayLike) -> Points:
        """Project world points to pixels, (..., 3) to (..., 2)."""
        x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
        scale = self.focal / z
        return np.stack(
            [self.vanish_x + x * scale, self.horizon + (_EYE - y) * scale], -1
        )

    def upright(self, x: float, z: float) -> Callable[[npt.ArrayLike], Points]:
        """Return the projection of a plane that faces the camera, metres to pixels."""
        return lambda flat: self.project(
            [(x + right, up, z) for right, up in np.asarray(flat)]
        )

    def color(self, *choices: Color, spread: float = 12) -> npt.NDArray[np.float64]:
        """Return one of the colours, varied in brightness and a little in hue."""
        chosen = np.asarray(choices[self.rng.integers(len(choices))], float)
        change = self.rng.normal(0, spread) + self.rng.normal(0, spread / 2, 3)
        return np.clip(chosen + change, 0, 255)

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return bool(self.rng.random() < probability)

    def add(
        self,
        label: str,
        outline: Points,
        color: Color,
        depth: float,
        details: Details | None = None,
        shade: float = 0,
    ) -> None:
        """Add a polygon, given in pixels."""
        self.parts.append(Part(label, outline, color, depth, details or [], shade))


def _disc(x: float, y: float, rx: float, ry: float | None = None) -> Points:
    """Return the outline of an ellipse."""
    return _arc(x, y, rx, rx if ry is None else ry, 0, 345)


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float) -> Points:
    """Return points on an ellipse, every 15 degrees from start to stop."""
    angle = np.radians(np.arange(start, stop + 1, 15))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], -1)


def _box(left: float, low: float, right: float, high: float) -> Points:
    """Return a rectangle, from its lower left corner over the upper left one."""
    return np.array([(left, low), (left, high), (right, high), (right, low)], float)


def _bar(start: tuple[float, float], stop: tuple[float, float], thick: float) -> Points:
    """Return a thick line as a rectangle."""
    a, b = np.array(start), np.array(stop)
    across = np.array([a[1] - b[1], b[0] - a[0]]) / np.hypot(*(b - a)) * thick / 2
    return np.array([a + across, b + across, b - across, a - across])


def _draw_background(street: Street) -> None:
    """Draw sky with clouds, a far skyline, and the ground up to the horizon."""
    rng, height, width = street.rng, street.height, street.width
    frame = _box(0, 0, width - 1, height - 1)
    clouds: Details = []
    for _ in range(rng.integers(2, 6)):
        cloud = rng.uniform((0, 0), (width, 0.9 * street.horizon))
        white = street.color((240, 240, 242), spread=6)
        for _ in range(5):
            x, y = cloud + rng.normal(0, (0.1, 0.015)) * height
            rx, ry = rng.uniform(0.05, 0.12) * height, rng.uniform(0.015, 0.04) * height
            clouds.append((_disc(x, y, rx, ry), white))
    sky = street.color((110, 165, 225), (165, 195, 225), (190, 198, 208))
    street.add('sky', frame, sky, 5 * _FAR, clouds, shade=80)

    x = np.linspace(-1, width, 25)
    top = street.horizon - height * rng.uniform(0.02, 0.11, 25)
    if street.chance(0.5):  # roofs: steps in place of slopes
        label, tint = 'building', street.color((150, 150, 160), (165, 150, 140))
        x, top = np.repeat(x, 2)[1:], np.repeat(top, 2)[:-1]
    else:
        label, tint = 'vegetation', street.color((95, 125, 95))
    skyline = np.stack([x, top], -1)
    ends = [(width, street.horizon + 2), (-1, street.horizon + 2)]
    street.add(label, np.vstack([skyline, ends]), tint, 4 * _FAR)

    ground = _box(0, street.horizon, width - 1, height - 1)
    grass = street.color((150, 165, 70), (165, 160, 85), (130, 165, 70))
    street.add('terrain', ground, grass, 3 * _FAR, shade=-15)


def _draw_pavement(street: Street) -> None:
    """Draw two sidewalks and a road with its markings."""
    kerb, outer = street.road, street.road + street.walk

    def strip(left: float, right: float, near: float, far: float) -> Points:
        corners = [(left, near), (left, far), (right, far), (right, near)]
        return street.project([(x, 0, z) for x, z in corners])

    slab = street.color((185, 170, 165), (175, 172, 172), (190, 175, 155))
    for side in (-1, 1):
        joints: Details = [
            (strip(side * kerb, side * outer, z, z * 1.02), slab * 0.78)
            for z in np.arange(2, 40, 1.5)
        ]
        joints.append((strip(side * kerb, side * (kerb + 0.25), 1, _FAR), slab * 1.15))
        edges = strip(side * kerb, side * outer, 1, _FAR)
        street.add('sidewalk', edges, slab, 2.5 * _FAR, joints, shade=15)

    paint = street.color((225, 225, 220), spread=8)
    marks = street.on_road
    phase = street.rng.uniform(0, 4)
    marks += [(strip(-0.09, 0.09, z, z + 2), paint) for z in np.arange(2 + phase, 60, 5)]
    if street.chance(0.5):
        for x in (-kerb + 0.4, kerb - 0.4):
            marks.append((strip(x - 0.07, x + 0.07, 1, 80), paint))
    if street.chance(0.3):
        z = street.rng.uniform(6, 12)
        marks += [
            (strip(x, x + 0.5, z, z + 2.5), paint)
            for x in np.arange(-kerb + 0.5, kerb - 0.5, 1)
        ]
    asphalt = street.color((95, 95, 100), (80, 82, 88), (112, 108, 106))
    surface = strip(-kerb, kerb, 1, _FAR)
    street.add('road', surface, asphalt, 2 * _FAR, marks, shade=-12)


def _draw_side(street: Street, side: int) -> None:
    """Draw houses, fenced gardens and gaps along one side, from far to near."""
    rng = street.rng
    verge = rng.uniform(4.0, 8.0) if street.chance(0.85) else 0.0
    x = side * (street.road + street.walk + verge)
    far = 70.0
    while far > 4:
        near = max(far - rng.uniform(8, 15), 2.0)
        kind = rng.choice(('house', 'garden', 'gap'), p=(0.45, 0.48, 0.07))
        if kind == 'house':
            _draw_house(street, side, x, near, far)
        elif kind == 'garden':
            _draw_fence(street, x, near, far)
            for _ in range(rng.integers(2, 5)):
                z = rng.uniform(near, far) + 2
                # Behind the fence, though some of it is farther away.
                depth = far + 0.1 + 0.01 * z
                _draw_tree(street, x + side * rng.uniform(1.5, 5), z, depth)
        far = near - 0.01
    if street.chance(0.5):
        for z in np.arange(rng.uniform(8, 13), 40, rng.uniform(9, 16)):
            # On the grass or, where there is none, at the sidewalk's far edge.
            offset = street.walk + (verge / 2 if verge else -0.8)
            _draw_tree(street, side * (street.road + offset), z, z)


def _draw_house(street: Street, side: int, x: float, near: float, far: float) -> None:
    """Draw a house with its front along the street and its gable to the camera."""
    rng, deep = street.rng, 12.0
    high = rng.uniform(6, 17)
    wall = street.color(
        (200, 175, 140), (165, 95, 75), (150, 140, 130), (215, 205, 190), (190, 140, 95)
    )
    glass = street.color(_GLASS, (85, 95, 110), (120, 140, 160))
    bright = 1.08 if side == street.sunny_side else 0.86

    def front(flat: Points) -> Points:
        return street.project([(x, up, near + along) for along, up in flat])

    def gable(flat: Points) -> Points:
        return street.project([(x + side * along, up, near) for along, up in flat])

    details: Details = []
    for place, length, light in (
        (front, far - near, bright),
        (gable, deep, 1.9 - bright),
    ):
        details.append((place(_box(0, 0, length, high)), wall * light))
        details.append((place(_box(0, high - 0.7, length, high)), wall * light * 0.6))
        details.append((place(_box(0, 0, length, 0.6)), wall * light * 0.75))
        for floor in np.arange(1.1, high - 2, 2.9):
            for bay in np.arange(0.7, length - 1.5, 2.5):
                frame = _box(bay - 0.12, floor - 0.12, bay + 1.42, floor + 1.72)
                lit = 1.5 if street.chance(0.15) else 1.0
                details.append((place(frame), wall * light * 1.25))
                pane = _box(bay, floor, bay + 1.3, floor + 1.6)
                details.append((place(pane), np.minimum(glass * lit, 255)))
    street_front = front(_box(0, 0, far - near, high))
    street_gable = gable(_box(0, 0, deep, high))
    # Far edge, roof line, gable, foot of the near corner.
    outline = [
        *street_front[[3, 2, 1]],
        *street_gable[[2, 3]],
        street_front[0],
    ]
    street.add('building', np.array(outline), wall, far, details)


def _draw_fence(street: Street, x: float, near: float, far: float) -> None:
    high = street.rng.uniform(1.9, 2.4)
    wood = street.color((180, 105, 50), (165, 90, 50), (195, 120, 65))

    def plane(flat: Points) -> Points:
        return street.project([(x, up, z) for z, up in flat])

    details: Details = [
        (plane(_box(z, 0, z + 0.14, high)), wood * 0.45)
        for z in np.arange(near, far, 0.6)
    ]
    for up in (0.3, high - 0.4):
        details.append((plane(_box(near, up, far, up + 0.15)), wood * 1.2))
    street.add('fence', plane(_box(near, 0, far, high)), wood, far, details)


def _draw_tree(street: Street, x: float, z: float, depth: float) -> None:
    rng, at = street.rng, street.upright(x, z)
    radius = rng.uniform(1.2, 2.1)
    middle = radius + rng.uniform(0.8, 2.0)
    trunk = _box(-0.16, 0, 0.16, middle)
    bark = street.color((85, 65, 45))
    street.add('vegetation', at(trunk), bark, depth + 0.005)
    leaves = street.color((60, 105, 45), (80, 115, 45), (50, 90, 50))
    crown = _disc(0, middle, radius, radius * rng.uniform(0.9, 1.25))
    crown = (crown - (0, middle)) * rng.uniform(0.85, 1.12, (len(crown), 1))
    blobs: Details = []
    for _ in range(22):
        spot = rng.normal((0, middle), radius / 2)
        size = radius * rng.uniform(0.1, 0.3)
        # Lighter above, darker below: the sun is up.
        light = 1 + 0.3 * (spot[1] - middle) / radius + rng.normal(0, 0.15)
        blobs.append((at(_disc(spot[0], spot[1], size)), np.clip(leaves * light, 0, 255)))
    street.add('vegetation', at(crown + (0, middle)), leaves, depth, blobs, -25)


def _draw_pole(street: Street, x: float, z: float, load: str) -> None:
    """Draw a pole with a traffic sign, a traffic light or a lamp."""
    rng, at = street.rng, street.upright(x, z)
    # Poles are drawn thicker than real ones: never below 1/32 of the frame's height.
    half = max(0.17, z * street.height / street.focal / 64)
    high = {'sign': 3.0, 'light': 3.2, 'lamp': 5.5}[load] + rng.uniform(-0.2, 0.4)
    steel = street.color((140, 145, 150), (120, 125, 128), spread=8)
    shine: Details = [
        (at(_box(-half, 0, -half / 3, high)), steel * 0.6),
        (at(_box(half / 3, 0, half, high)), steel * 1.3),
    ]
    street.add('pole', at(_box(-half, 0, half, high)), steel, z, shine)
    if load == 'lamp':
        arm = _box(0, high - half, -np.sign(x) * 1.5, high + half)
        street.add('pole', at(arm), steel, z - 0.01)
    elif load == 'light':
        case = _box(-0.42, high - 1.3, 0.42, high + 0.7)
        on = rng.integers(3)
        lamps: Details = []
        for i, tint in enumerate(((245, 50, 40), (250, 190, 40), (50, 235, 110))):
            lamp = _disc(0, high + 0.36 - 0.66 * i, 0.27)
            lamps.append((at(lamp), np.array(tint) * (1.0 if i == on else 0.3)))
        street.add('traffic light', at(case), street.color(_BLACK), z - 0.02, lamps)
    else:
        _draw_sign(street, at, high - 0.1, z)


def _draw_sign(
    street: Street, at: Callable[[npt.ArrayLike], Points], up: float, z: float
) -> None:
    red, blue, white = (205, 30, 35), (25, 80, 190), (240, 240, 240)
    shape = street.rng.integers(4)
    size = street.rng.uniform(0.6, 0.72)
    if shape == 0:  # an order: white in a red ring
        face, inner = _disc(0, up, size), _disc(0, up, size * 0.65)
        colors = (red, white)
    elif shape == 1:  # a warning: white in a red triangle
        points = np.array([(-1.15, -0.8), (1.15, -0.8), (0, 1.2)]) * size
        face, inner = points + (0, up), points * 0.55 + (0, up)
        colors = (red, white)
    elif shape == 2:  # a priority road: yellow in a white diamond
        points = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)]) * size * 1.2
        face, inner = points + (0, up), points * 0.7 + (0, up)
        colors = (white, (250, 200, 30))
    else:  # a hint: a white mark on a blue plate
        face = _box(-size, up - size, size, up + size)
        inner = _bar((-0.2, up - 0.25), (0.15, up + 0.3), 0.25)
        colors = (blue, white)
    mark: Details = [(at(inner), street.color(colors[1], spread=6))]
    street.add('traffic sign', at(face), street.color(colors[0]), z - 0.02, mark)


def _draw_vehicle(street: Street, label: str, x: float, z: float) -> None:
    """Draw a car or a bus from behind or, on the left, from the front."""
    rng, oncoming = street.rng, x < 0
    if label == 'car':
        wide, high, length = 1.85, rng.uniform(1.45, 1.7), 4.2
        belt, slope, narrow = 0.58 * high, 0.5, 0.22
        body = street.color(
            (180, 25, 30), (30, 60, 150), (205, 208, 212), (45, 48, 55), (120, 125, 132)
        )
    else:
        wide, high, length = 2.6, rng.uniform(3.0, 3.3), 9.0
        belt, slope, narrow = 0.42 * high, 0.0, 0.03
        body = street.color((240, 190, 20), (235, 165, 30), (225, 205, 60))
    half, top = wide / 2, wide / 2 - narrow
    near_roof, far_roof = z + slope, z + length * (1 if label == 'bus' else 0.75)
    corners = [(0, half, z), (0, half, z + length), (belt, half, z)]
    corners += [(belt, half, z + length), (high, top, near_roof), (high, top, far_roof)]
    solid = [(x + s * w, y, d) for y, w, d in corners for s in (-1, 1)]
    outline = cv2.convexHull(street.project(solid).astype(np.float32))[:, 0]

    glass = street.color(_GLASS, spread=8)
    flank = x - np.sign(x) * half  # the side which can be seen
    roof = x - np.sign(x) * top
    details: Details = []

    def on_flank(flat: npt.ArrayLike, side_x: float = flank) -> Points:
        return street.project([(side_x, y, z + along) for along, y in np.array(flat)])

    cuts = np.linspace(0.6, length * 0.9, 3 if label == 'car' else 7)
    for start, stop in zip(cuts[:-1], cuts[1:]):
        low = on_flank([(start, belt), (stop - 0.15, belt)])
        up = [(start + slope / 2, 0.93 * high), (stop - 0.15 - slope, 0.93 * high)]
        details.append((np.vstack([low, on_flank(up, roof)[::-1]]), glass))
    for along in (0.18 * length, 0.8 * length):
        details.append((on_flank(_disc(along, 0.34, 0.36)), _BLACK))
        details.append((on_flank(_disc(along, 0.34, 0.17)), (150, 150, 155)))

    def on_back(flat: npt.ArrayLike, depth: float = z) -> Points:
        return street.project([(x + right, y, depth) for right, y in np.array(flat)])

    back = on_back(_box(-half, 0.15, half, belt))
    upper = on_back([(top, high), (-top, high)], near_roof)
    cabin = np.vstack([on_back([(-half, belt), (half, belt)]), upper])
    middle = cabin.mean(0)
    details.append((back, body))
    details.append((cabin, body))
    details.append(((cabin - middle) * (0.85, 0.75) + middle, glass * 1.15))
    details.append((on_back(_box(-half, 0, half, 0.25)), _BLACK))
    lamp = (250, 245, 215) if oncoming else (225, 20, 20)
    for s in (-1, 1):
        inner, outer = s * 0.6 * half, s * 0.95 * half
        details.append((on_back(_box(inner, belt - 0.3, outer, belt - 0.1)), lamp))
        details.append((on_back(_box(s * 0.5 * half, 0, outer, 0.3)), (10, 10, 12)))
    details.append((on_back(_box(-0.26, 0.4, 0.26, 0.54)), (225, 225, 220)))
    street.add(label, outline, body * 0.78, z, details)

    shadow = _box(x - half - 0.2, z - 0.4, x + half + 0.2, z + length)
    ground = [(across, 0, ahead) for across, ahead in shadow]
    street.on_road.append((street.project(ground), (40, 40, 44)))


def _draw_person(street: Street, x: float, z: float) -> None:
    rng, plane = street.rng, street.upright(x, z)

    def at(flat: npt.ArrayLike) -> Points:
        return plane(1.12 * np.asarray(flat))  # a little larger than life

    left, right = rng.uniform(0.0, 0.28, 2)  # how far each foot is set out
    half = [(0.15, 1.72), (0.17, 1.56), (0.1, 1.46), (0.3, 1.42), (0.38, 0.95)]
    half += [(0.34, 0.75), (0.24, 0.8)]
    outline = [(0, 1.8), *half, (0.26 + right, 0), (0.06 + right, 0), (0, 0.65)]
    outline += [(-0.06 - left, 0), (-0.26 - left, 0)]
    outline += [(-across, up) for across, up in reversed(half)]
    coat = street.color((200, 45, 140), (170, 50, 165), (215, 60, 125))
    trousers = street.color((60, 45, 95), (75, 50, 70), spread=8)
    hair = street.color((40, 28, 20), (110, 75, 40), spread=8)
    details: Details = [
        (at(_box(-0.6, 0, 0.6, 0.78)), trousers),
        (at(_box(-0.3, 1.5, 0.3, 1.9)), hair),
        (at(_disc(0, 1.6, 0.13)), street.color(_SKIN, (140, 95, 70))),
    ]
    street.add('person', at(outline), coat, z, details)


def _draw_bicycle(street: Street, x: float, z: float, ridden: bool) -> None:
    """Draw a bicycle from its side, with a rider if it is ridden."""
    facing = street.rng.choice((-1, 1)) * street.rng.uniform(0.8, 1.0)
    plane = street.upright(x, z)

    def at(flat: npt.ArrayLike) -> Points:
        return plane(np.asarray(flat) * (facing, 1))

    rear, front = (-0.55, 0.38), (0.55, 0.38)
    outline = [*_arc(*rear, 0.4, 0.4, 60, 300), (0, 0.2)]
    outline += [*_arc(*front, 0.4, 0.4, 240, 450), (0.55, 1.12), (0.3, 1.12)]
    outline += [(0.28, 0.85), (-0.1, 0.85), (-0.12, 1.02), (-0.36, 1.02)]
    frame = street.color((20, 150, 160), (15, 130, 120), (40, 170, 190))
    tyre = street.color((30, 28, 30), spread=5)
    details: Details = []
    for hub in (rear, front):
        details.append((at(_disc(*hub, 0.42)), tyre))
        details.append((at(_disc(*hub, 0.28)), (120, 125, 125)))
        details.append((at(_disc(*hub, 0.08)), tyre))
    tubes = [(rear, (0.0, 0.3)), ((0.0, 0.3), (-0.2, 0.98)), (rear, (-0.15, 0.8))]
    tubes += [((-0.15, 0.8), (0.42, 0.85)), ((0.0, 0.3), (0.42, 0.85))]
    tubes += [(front, (0.38, 1.1))]
    details += [(at(_bar(start, stop, 0.1)), frame) for start, stop in tubes]
    street.add('bicycle', at(outline), frame * 0.6, z, details)
    if not ridden:
        return
    body = [(-0.36, 0.95), (-0.14, 1.45), (0.06, 1.58), (0.06, 1.85), (0.22, 1.98)]
    body += [(0.42, 1.9), (0.46, 1.66), (0.36, 1.52), (0.62, 1.16), (0.54, 1.02)]
    body += [(0.26, 1.2), (0.16, 1.08), (0.28, 0.72), (0.18, 0.22), (0.02, 0.2)]
    body += [(0.02, 0.62), (-0.22, 0.76)]
    vest = street.color((235, 120, 20), (225, 100, 30), (245, 145, 30))
    helmet = street.color((235, 235, 235), (220, 210, 60), spread=8)
    leg = street.color((40, 45, 75), (45, 45, 48), spread=8)
    clothes: Details = [
        (at([(0.02, 0.2), (0.3, 0.2), (0.3, 1.0), (-0.36, 0.95), (-0.3, 0.6)]), leg),
        (at(_disc(0.28, 1.7, 0.17)), street.color(_SKIN, (140, 95, 70))),
        (at(_box(0.0, 1.76, 0.5, 2.0)), helmet),
    ]
    street.add('rider', at(body), vest, z - 0.01, clothes)


def _draw_traffic(street: Street) -> None:
    """Draw vehicles, persons, bicycles, and the objects at the kerbs."""
    rng, kerb = street.rng, street.road
    for side in (-1, 1):
        z = rng.uniform(8, 14)
        while z < 35:
            label = 'bus' if street.chance(0.15) else 'car'
            offset = 0.5 if label == 'bus' else 0.56
            _draw_vehicle(street, label, side * kerb * offset, z)
            z += (9 if label == 'bus' else 4) + rng.uniform(3, 14)
        loads = rng.permutation(['sign', 'light', 'lamp'])
        for load, z in zip(
            loads, np.arange(rng.uniform(8.5, 10.5), 30, rng.uniform(4, 6))
        ):
            _draw_pole(street, side * (kerb + 0.45), z, load)
        for _ in range(rng.integers(1, 4)):
            x = kerb + rng.uniform(0.8, street.walk - 0.3)
            _draw_person(street, side * x, rng.uniform(8.5, 12.5))
        if street.chance(0.35):
            x = kerb + rng.uniform(0.8, street.walk - 0.3)
            _draw_bicycle(street, side * x, rng.uniform(8, 13), ridden=False)
        if street.chance(0.25):
            x, z = side * (kerb + street.walk - 0.4), rng.uniform(7, 16)
            bin_ = street.upright(x, z)(_box(-0.35, 0, 0.35, 1.0))
            street.add('dynamic', bin_, street.color((60, 80, 70)), z, shade=-30)
    for _ in range(rng.integers(1, 3)):
        x = rng.uniform(-kerb + 0.8, kerb - 0.8)
        _draw_bicycle(street, x, rng.uniform(7.5, 13), ridden=True)


def _draw_frame(street: Street) -> None:
    """Draw, in some scenes, the bonnet of the camera's car and a black rim."""
    rng, height, width = street.rng, street.height, street.width
    if street.chance(0.4):
        high = height * rng.uniform(0.06, 0.12)
        bonnet = _arc(width / 2, height, 0.6 * width, high, 180, 360)
        street.add('ego vehicle', bonnet, street.color((50, 52, 58)), 0, shade=-25)
    if street.chance(0.3):
        thick = height * rng.uniform(0.02, 0.05)
        rim = _box(0, 0, thick, height - 1)
        street.add('rectification border', rim, (0, 0, 0), -1)
        rim = _box(0, height - thick, width - 1, height - 1)
        street.add('out of roi', rim, (0, 0, 0), -1)


def lay_out_street(rng: np.random.Generator, height: int, width: int) -> list[Part]:
    """Lay out a random street.

    Args:
        rng: Generator of everything that varies.
        height: Height of the frame in pixels.
        width: Width of the frame in pixels.

    Returns:
        The parts in drawing order, the farthest first. They may extend beyond the frame.
    """
    street = Street(rng, height, width)
    _draw_background(street)
    _draw_pavement(street)
    for side in (-1, 1):
        _draw_side(street, side)
    _draw_traffic(street)
    _draw_frame(street)
    return sorted(street.parts, key=lambda part: -part.depth)
