"""Street scenes drawn by code, in the folder layout of Cityscapes.

A data set nobody has to download: for the demo and for the tests. A scene is a list of
labelled polygons, far ones first; image, label ids and instance ids are all filled from
that one list, so they cannot disagree. What a class looks like varies (colour, light,
texture, parts such as windows and wheels), and no class is a constant colour.

Drawn are road, sidewalk, building, fence, pole, traffic light, traffic sign,
vegetation, terrain, sky, person, rider, car, bus and bicycle; and, in some scenes, void
labels at the frame and on the pavement. Wall, truck, train and motorcycle are not:
each class which is drawn should be frequent enough to be learnt in minutes.

The layout of folders and files is that of
https://github.com/mcordts/cityscapesScripts. ``license plate`` is not annotated.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from demo.parts import Part, Points, lay_out_street
from mmseg_repvgg.datasets.cityscapes_labels import (
    LABEL_BY_NAME,
    color_table,
    train_id_table,
)

CITIES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        'train': ('drawnburg', 'inkstadt', 'pixelfeld'),
        'val': ('rasterheim', 'sketchhausen'),
        'test': ('polygonia',),
    }
)
"""The made-up cities of each split; no city is in two splits, as in the original."""

DEFAULT_COUNTS: Final[Mapping[str, int]] = MappingProxyType(
    {'train': 160, 'val': 40, 'test': 8}
)
DEFAULT_SIZE: Final = (128, 256)
MIN_SIDE: Final = 64
"""Shortest side in pixels; below it poles and persons would vanish."""

MANIFEST: Final = 'street_scenes.json'
GENERATOR_VERSION: Final = 1
"""Raise it with every change of what is drawn: old folders are then not reused."""

# Standard deviations of per-pixel and of blotchy noise; (3, 3) for any other label.
_GRAIN: Final = {
    'vegetation': (11, 13),
    'terrain': (17, 6),
    'road': (5, 3),
    'sidewalk': (4, 4),
    'sky': (1.5, 4),
    'building': (4, 5),
}


class Polygon(NamedTuple):
    """One annotated object.

    Attributes:
        label: Its Cityscapes name.
        points: Its outline inside the frame, (x, y) in pixels, shape (n, 2), int32.
    """

    label: str
    points: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Scene:
    """A drawn street.

    Attributes:
        image: BGR, shape (H, W, 3).
        label_ids: Cityscapes ids, shape (H, W).
        instance_ids: Shape (H, W): ``id * 1000 + n`` for the n-th object of a class
            with instances, else the label id.
        polygons: In drawing order: a later one covers an earlier one.
    """

    image: npt.NDArray[np.uint8]
    label_ids: npt.NDArray[np.uint8]
    instance_ids: npt.NDArray[np.uint16]
    polygons: tuple[Polygon, ...]


def _clip(outline: Points, height: int, width: int) -> npt.NDArray[np.int32]:
    """Cut an outline at the frame, edge by edge, and round it to pixels.

    Returns:
        Shape (n, 2); n may be 0.
    """
    points = np.asarray(outline, float)
    for axis, sign, limit in (
        (0, 1, 0),
        (1, 1, 0),
        (0, -1, 1 - width),
        (1, -1, 1 - height),
    ):
        kept = []
        inside = sign * points[:, axis] - limit
        for i in range(len(points)):
            before, here = inside[i - 1], inside[i]
            if (before < 0) != (here < 0):
                step = before / (before - here)
                kept.append(points[i - 1] + step * (points[i] - points[i - 1]))
            if here >= 0:
                kept.append(points[i])
        points = np.array(kept).reshape(-1, 2)
    pixels = np.rint(points).astype(np.int32)
    return pixels[(pixels != np.roll(pixels, 1, 0)).any(1)]


def _fixed_point(points: Points, corner: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Coordinates from a corner on, in 1/16 pixels."""
    return np.rint((np.asarray(points) - corner) * 16).astype(np.int32)


def _paint(
    image: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    part: Part,
    polygon: Polygon,
    noise: Sequence[npt.NDArray[Any]],
) -> None:
    """Paint one part into an RGB image, inside its mask only."""
    x, y, width, height = cv2.boundingRect(polygon.points)
    window = slice(y, y + height), slice(x, x + width)
    patch = np.empty((height, width, 3), np.uint8)
    patch[:] = np.clip(part.color, 0, 255)
    for shape, color in part.details:
        rgb = np.clip(color, 0, 255).tolist()
        cv2.fillPoly(patch, [_fixed_point(shape, (x, y))], rgb, cv2.LINE_AA, shift=4)
    light = np.linspace(-part.shade / 2, part.shade / 2, height)[:, None]
    for field, deviation in zip(noise, _GRAIN.get(part.label, (3, 3))):
        light = light + field[window] * deviation
    inside = mask[window]
    image[window][inside] = (patch + light[..., None])[inside]


def draw_scene(rng: np.random.Generator, size: tuple[int, int] = DEFAULT_SIZE) -> Scene:
    """Draw one street.

    Args:
        rng: Decides everything that varies.
        size: Height and width in pixels, each at least ``MIN_SIDE``.

    Returns:
        The scene; every pixel lies in one of its polygons.

    Raises:
        ValueError: The size is not a pair of large enough integers.
    """
    height, width = _checked_size(size)
    parts = lay_out_street(rng, height, width)
    # Two kinds of noise: one per pixel, one in blotches of about 1/40 of the height.
    fine = rng.standard_normal((height, width), np.float32)
    coarse = rng.standard_normal((40, max(40 * width // height, 1)), np.float32)
    blotches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.zeros((height, width, 3), np.float32)
    label_ids = np.zeros((height, width), np.uint8)
    instance_ids = np.zeros((height, width), np.uint16)
    polygons: list[Polygon] = []
    instances: dict[str, int] = {}
    for part in parts:
        polygon = Polygon(part.label, _clip(part.outline, height, width))
        if len(polygon.points) < 3:
            continue
        filled = cv2.fillPoly(np.zeros_like(label_ids), [polygon.points], 1)
        mask = filled.astype(bool)
        label = LABEL_BY_NAME[part.label]
        label_ids[mask] = instance_ids[mask] = label.id
        if label.has_instances:
            number = instances.get(part.label, 0)
            instances[part.label] = number + 1
            instance_ids[mask] = label.id * 1000 + number
        _paint(image, mask, part, polygon, (fine, blotches))
        polygons.append(polygon)
    return Scene(_photograph(rng, image), label_ids, instance_ids, tuple(polygons))


def _photograph(
    rng: np.random.Generator, image: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """What a camera makes of an RGB picture: light, tint, blur, noise; BGR."""
    height, width = image.shape[:2]
    tint = rng.uniform(0.8, 1.1) * rng.uniform(0.94, 1.06, 3)
    slope = rng.uniform(-0.12, 0.12)
    light = 1 + np.linspace(-slope, slope, width)[:, None]
    blurred = cv2.GaussianBlur(image * (tint * light), (0, 0), max(0.45, height / 400))
    noisy = blurred + rng.normal(0, rng.uniform(1.5, 4), image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)[..., ::-1].copy()


def write_street_scenes(
    root: str | os.PathLike[str],
    counts: Mapping[str, int] = DEFAULT_COUNTS,
    size: tuple[int, int] = DEFAULT_SIZE,
    seed: int = 0,
) -> bool:
    """Write a data set of drawn scenes in the official layout.

    The folder appears complete or not at all. Each image depends on the seed, its split
    and its index only, so a larger set holds the smaller one.

    Args:
        root: The folder to make. It may exist when it is empty, or when it holds the
            very set asked for, which is then kept as it is.
        counts: Images of each of the splits 'train', 'val' and 'test'.
        size: Height and width in pixels.
        seed: Not negative.

    Returns:
        Whether anything was written; False when the set was there already.

    Raises:
        ValueError: An argument is out of its range.
        FileExistsError: The folder holds something else. It is left untouched.
        OSError: The folder cannot be written. Nothing is left behind.
    """
    root = Path(root).resolve()
    counts = _checked_counts(counts)
    height, width = _checked_size(size)
    if not _is_int(seed) or seed < 0:
        raise ValueError(f'seed must be an integer of at least 0, got {seed!r}')
    manifest = {
        'generator': 'mmseg_repvgg street scenes',
        'version': GENERATOR_VERSION,
        'counts': counts,
        'size': [int(height), int(width)],
        'seed': int(seed),
    }
    if _is_there(root, manifest):
        return False
    partial = root.with_name(f'.{root.name}.{uuid.uuid4().hex[:8]}.partial')
    try:
        partial.mkdir(parents=True)
        for split, index in _images(counts):
            entropy = (int(seed), list(CITIES).index(split), index)
            rng = np.random.default_rng(np.random.SeedSequence(entropy))
            _write_scene(partial, split, index, draw_scene(rng, (height, width)))
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
        partial.rename(root)
    except OSError as error:
        # Another process may have made the same set meanwhile.
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and _is_there(root, manifest):
            return False
        reason = f'cannot write the street scenes to {root}: {error.strerror or error}'
        raise OSError(error.errno, f'{reason}; nothing was kept') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _images(counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Split and index of every image."""
    for split, count in counts.items():
        for index in range(count):
            yield split, index


def _files(split: str, index: int) -> dict[str, Path]:
    """The files of one scene by their kind, relative to the root."""
    cities = CITIES[split]
    city = cities[index % len(cities)]
    name = f'{city}_{index // len(cities):06d}_000019'
    files = {'image': Path('leftImg8bit', split, city, f'{name}_leftImg8bit.png')}
    for kind in ('labelIds', 'labelTrainIds', 'instanceIds', 'color', 'polygons'):
        ending = 'json' if kind == 'polygons' else 'png'
        files[kind] = Path('gtFine', split, city, f'{name}_gtFine_{kind}.{ending}')
    return files


def _write_scene(root: Path, split: str, index: int, scene: Scene) -> None:
    height, width = scene.label_ids.shape
    objects = [
        {'label': label, 'polygon': points.tolist()} for label, points in scene.polygons
    ]
    annotation = {'imgHeight': height, 'imgWidth': width, 'objects': objects}
    pixels: dict[str, npt.NDArray[Any]] = {
        'image': scene.image,
        'labelIds': scene.label_ids,
        'labelTrainIds': train_id_table()[scene.label_ids],
        'instanceIds': scene.instance_ids,
        # With an opaque alpha channel, as the original.
        'color': cv2.cvtColor(color_table()[scene.label_ids], cv2.COLOR_RGB2BGRA),
    }
    for kind, file in _files(split, index).items():
        if kind == 'polygons':
            data = json.dumps(annotation).encode()
        else:
            data = cv2.imencode('.png', pixels[kind])[1].tobytes()
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(data)


def _is_there(root: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the folder holds exactly this set; an error when it holds another."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = 'choose another folder, or delete this one yourself'
    try:
        found = json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError):
        raise FileExistsError(
            f'{root} exists and was not made by this generator; {advice}'
        ) from None
    if found != manifest:
        raise FileExistsError(
            f'{root} holds other street scenes ({found}) than those asked for '
            f'({dict(manifest)}); {advice}'
        )
    for split, index in _images(manifest['counts']):
        for file in _files(split, index).values():
            if not (root / file).is_file():
                raise FileExistsError(f'{root} lacks its {file}; {advice}')
    return True


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(_is_int(side) and side >= MIN_SIDE for side in sides):
        raise ValueError(
            f'size must be (height, width), both integers of at least {MIN_SIDE}, '
            f'got {size!r}'
        )
    return sides[0], sides[1]


def _checked_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts in the order of the splits, without empty splits."""
    for split, count in counts.items():
        if split not in CITIES:
            raise ValueError(f'counts must be of {list(CITIES)}, got {split!r}')
        if not _is_int(count) or count < 0:
            raise ValueError(
                f'counts must be integers of at least 0, got {count!r} for {split!r}'
            )
    checked = {split: int(counts[split]) for split in CITIES if counts.get(split)}
    if not checked:
        raise ValueError(f'counts must ask for at least one image, got {dict(counts)}')
    return checked
