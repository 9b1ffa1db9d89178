"""Street scenes drawn by code, in the folder layout of Cityscapes.

A data set without a download, for the demo and the tests. A scene is a list of labelled
polygons, far ones first; image and label ids are filled from the same list, so they
cannot disagree. What a class looks like varies (colour, light, texture, parts such as
windows and wheels), and no class has a constant colour.

Layout and label ids are those of https://github.com/mcordts/cityscapesScripts. Wall,
truck, train and motorcycle are not drawn, so that each drawn class is frequent enough to
be learnt in minutes.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from demo.parts import Part, Points, lay_out_street
from mmseg_repvgg.datasets.prepare_cityscapes import TRAIN_IDS
from mmseg_repvgg.errors import ConfigError, WriteError

CITIES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        'train': ('drawnburg', 'inkstadt', 'pixelfeld'),
        'val': ('rasterheim', 'sketchhausen'),
        'test': ('polygonia',),
    }
)
"""The invented cities of each split; as in the original, no city is in two splits."""

LABEL_IDS: Final[Mapping[str, int]] = MappingProxyType(
    {
        'ego vehicle': 1,
        'rectification border': 2,
        'out of roi': 3,
        'dynamic': 5,
        'road': 7,
        'sidewalk': 8,
        'building': 11,
        'fence': 13,
        'pole': 17,
        'traffic light': 19,
        'traffic sign': 20,
        'vegetation': 21,
        'terrain': 22,
        'sky': 23,
        'person': 24,
        'rider': 25,
        'car': 26,
        'bus': 28,
        'bicycle': 33,
    }
)
"""The Cityscapes id of each label that is drawn."""

DEFAULT_COUNTS: Final[Mapping[str, int]] = MappingProxyType(
    {'train': 160, 'val': 40, 'test': 8}
)
DEFAULT_SIZE: Final = (128, 256)
MIN_SIDE: Final = 64
"""Shortest side in pixels; below it poles and persons would vanish."""

MANIFEST: Final = 'street_scenes.json'
GENERATOR_VERSION: Final = 1
"""To be raised when the drawing changes, so that older folders are not reused."""

# Standard deviations of per-pixel and of blotchy noise; (3, 3) for any other label.
_GRAIN: Final = {
    'vegetation': (11, 13),
    'terrain': (17, 6),
    'road': (5, 3),
    'sidewalk': (4, 4),
    'sky': (1.5, 4),
    'building': (4, 5),
}


@dataclass(frozen=True)
class Scene:
    """A drawn street.

    Attributes:
        image: BGR, shape (H, W, 3).
        label_ids: Cityscapes ids, shape (H, W).
    """

    image: npt.NDArray[np.uint8]
    label_ids: npt.NDArray[np.uint8]


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
    """Return coordinates relative to a corner, in 1/16 pixels."""
    return np.rint((np.asarray(points) - corner) * 16).astype(np.int32)


def _paint(
    image: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    part: Part,
    polygon: npt.NDArray[np.int32],
    noise: Sequence[npt.NDArray[Any]],
) -> None:
    """Paint one part into an RGB image, inside its mask only."""
    x, y, width, height = cv2.boundingRect(polygon)
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
        rng: Generator of everything that varies.
        size: Height and width in pixels, each at least ``MIN_SIDE``.

    Returns:
        The scene; every pixel is labelled.

    Raises:
        ConfigError: If a side is too short.
    """
    height, width = size
    if min(size) < MIN_SIDE:
        raise ConfigError(
            f'size must be at least {MIN_SIDE}x{MIN_SIDE}, got {tuple(size)}'
        )
    parts = lay_out_street(rng, height, width)
    # One noise value per pixel, and blotches of about 1/40 of the height.
    fine = rng.standard_normal((height, width), np.float32)
    coarse = rng.standard_normal((40, max(40 * width // height, 1)), np.float32)
    blotches = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.zeros((height, width, 3), np.float32)
    label_ids = np.zeros((height, width), np.uint8)
    for part in parts:
        polygon = _clip(part.outline, height, width)
        if len(polygon) < 3:
            continue
        mask = cv2.fillPoly(np.zeros_like(label_ids), [polygon], 1).astype(bool)
        label_ids[mask] = LABEL_IDS[part.label]
        _paint(image, mask, part, polygon, (fine, blotches))
    return Scene(_photograph(rng, image), label_ids)


def _photograph(
    rng: np.random.Generator, image: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Add light, tint, blur and noise to an RGB picture, and return it as BGR."""
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
    and its index only, so a larger set contains the smaller one.

    Args:
        root: The folder to make. It may exist if it is empty, or if it holds the same
            set, which is then kept.
        counts: Number of images in the splits 'train', 'val' and 'test'.
        size: Height and width in pixels.
        seed: Not negative.

    Returns:
        Whether anything was written.

    Raises:
        ConfigError: If an argument is out of its range.
        WriteError: If the folder holds something else, which is left untouched, or cannot
            be written.
    """
    root = Path(root).resolve()
    counts = {split: counts[split] for split in CITIES if counts.get(split)}
    if not counts or min(counts.values()) < 0:
        raise ConfigError(f'counts must be positive and of {list(CITIES)}, got {counts}')
    if seed < 0:
        raise ConfigError(f'seed must be at least 0, got {seed}')
    manifest = {
        'generator': 'mmseg_repvgg street scenes',
        'version': GENERATOR_VERSION,
        'counts': counts,
        'size': list(size),
        'seed': seed,
    }
    if _exists(root, manifest):
        return False
    partial = root.with_name(f'.{root.name}.{secrets.token_hex(4)}')
    try:
        for split, index in _images(counts):
            entropy = np.random.SeedSequence((seed, list(CITIES).index(split), index))
            scene = draw_scene(np.random.default_rng(entropy), size)
            _write_scene(partial, split, index, scene)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
        partial.rename(root)
    except OSError as error:
        raise WriteError(f'{root} cannot be written: {error.strerror}') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _images(counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield split and index of every image."""
    for split, count in counts.items():
        for index in range(count):
            yield split, index


def _files(split: str, index: int) -> dict[str, Path]:
    """Return the files of a scene by their kind, relative to the root."""
    cities = CITIES[split]
    city = cities[index % len(cities)]
    name = f'{city}_{index // len(cities):06d}_000019'
    files = {'image': Path('leftImg8bit', split, city, f'{name}_leftImg8bit.png')}
    for kind in ('labelIds', 'labelTrainIds'):
        files[kind] = Path('gtFine', split, city, f'{name}_gtFine_{kind}.png')
    return files


def _write_scene(root: Path, split: str, index: int, scene: Scene) -> None:
    pixels = {
        'image': scene.image,
        'labelIds': scene.label_ids,
        'labelTrainIds': np.array(TRAIN_IDS, np.uint8)[scene.label_ids],
    }
    for kind, file in _files(split, index).items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(cv2.imencode('.png', pixels[kind])[1].tobytes())


def _difference(found: Any, wanted: Mapping[str, Any]) -> str:
    """Return where two manifests differ."""
    if not isinstance(found, dict):
        return 'no manifest'
    return ', '.join(
        f'{key} {found.get(key)}, not {value}'
        for key, value in wanted.items()
        if found.get(key) != value
    )


def _exists(root: Path, manifest: Mapping[str, Any]) -> bool:
    """Return whether the folder holds this set; raise if it holds something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = 'choose another folder, or delete this one yourself'
    try:
        found = json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError):
        raise WriteError(
            f'{root} exists and was not made by this generator; {advice}'
        ) from None
    if found != manifest:
        raise WriteError(
            f'{root} holds other street scenes than requested '
            f'({_difference(found, manifest)}). Delete it, by rm -r {root}, or choose '
            'another folder'
        )
    for split, index in _images(manifest['counts']):
        for file in _files(split, index).values():
            if not (root / file).is_file():
                raise WriteError(f'{root} lacks its {file}; {advice}')
    return True
