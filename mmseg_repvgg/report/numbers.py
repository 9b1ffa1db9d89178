"""The numbers of a report, which its page embeds and another report is compared with."""

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from .boundary import BAND_EDGES, NEAR_BANDS
from .confusion import accuracy, iou, mean, recall
from .regions import LARGE, SIZE_EDGES, SMALL
from .statistics import Statistics

FORMAT = 1
"""Version of the layout of the numbers."""

DATA_ID = 'report-data'
"""Id of the script element that holds the numbers as JSON."""

_ELEMENT = re.compile(rf'<script type="application/json" id="{DATA_ID}">(.*?)</script>')

Numbers = dict[str, Any]
"""Numbers as JSON stores them. Shares are from 0 to 1, None where they are undefined."""


def collect(
    statistics: Statistics, classes: Sequence[str], run: Mapping[str, str]
) -> Numbers:
    """Return the numbers of a report.

    Args:
        statistics: Of all images.
        classes: Names of the classes.
        run: What describes the run, such as its config and checkpoint.
    """
    bands, regions = statistics.confusion, statistics.regions
    reliability, images = statistics.reliability, statistics.images
    confusion = bands.sum(0)
    wrong = bands.sum((1, 2)) - np.trace(bands, axis1=1, axis2=2)
    names = _relative([image.path for image in images])
    forms = None
    if images and images[0].differing is not None:
        near, far = statistics.differing.tolist()
        forms = dict(
            differing=near + far,
            differing_near=near,
            images=sum(bool(image.differing) for image in images),
            logit_difference=max(image.logit_difference or 0.0 for image in images),
        )
    numbers = dict(
        format=FORMAT,
        run=dict(run),
        classes=list(classes),
        pixels=statistics.pixels,
        confusion=confusion,
        metrics=dict(
            miou=mean(iou(confusion)),
            accuracy=accuracy(confusion),
            mean_accuracy=mean(recall(confusion)),
            ece=reliability.expected_error(),
            near_error=1 - accuracy(bands[:NEAR_BANDS].sum(0)),
            far_error=1 - accuracy(bands[NEAR_BANDS:].sum(0)),
            small_recall=_pixel_recall(regions, slice(SMALL)),
            large_recall=_pixel_recall(regions, slice(LARGE, None)),
        ),
        iou=iou(confusion),
        near_iou=iou(bands[:NEAR_BANDS].sum(0)),
        far_iou=iou(bands[NEAR_BANDS:].sum(0)),
        bands=dict(
            edges=BAND_EDGES,
            pixels=bands.sum((1, 2)),
            wrong=wrong,
            # All pixels that are closer than the next edge count.
            miou=[mean(iou(part)) for part in bands.cumsum(0)],
        ),
        regions=dict(edges=SIZE_EDGES, **vars(regions)),
        reliability=vars(reliability),
        forms=forms,
        images=[
            {
                **asdict(image),
                'path': name,
                'error': image.error if image.labelled else None,
            }
            for image, name in zip(images, names)
        ],
    )
    return _plain(numbers)


def _pixel_recall(regions: Any, groups: slice) -> float:
    pixels = regions.pixels[:, groups].sum()
    return float(regions.correct[:, groups].sum() / pixels) if pixels else math.nan


def _relative(paths: Sequence[str]) -> list[str]:
    """Return paths relative to the deepest folder that holds all of them."""
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    common = os.path.commonpath(folders) if folders else ''
    return [Path(os.path.relpath(path, common)).as_posix() for path in paths]


def _plain(value: Any) -> Any:
    """Convert to what JSON has, with 6 significant digits and None for NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f'{value:.6g}') if math.isfinite(value) else None
    return value


def read_numbers(path: str | Path) -> Numbers:
    """Read the numbers that a report embeds.

    Raises:
        ConfigError: If the file is not a report of this version.
    """
    try:
        found = _ELEMENT.search(Path(path).read_text(encoding='utf-8'))
        numbers = json.loads(found[1]) if found else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f'the report {path} cannot be read: {error}') from error
    if numbers.get('format') != FORMAT:
        raise ConfigError(
            f'{path} is not a report of this version of mmseg_repvgg. Write it again by '
            'mmseg-repvgg report'
        )
    return numbers


def require_comparable(
    classes: Sequence[str], paths: Sequence[str], other: Numbers, name: str
) -> None:
    """Check that another report is about the same classes and images.

    Args:
        classes: Names of the classes of this run.
        paths: Its images.
        other: Numbers of the other report.
        name: Name of the other report, for errors.

    Raises:
        ConfigError: If it is not.
    """
    theirs = other['classes']
    if list(classes) != theirs:
        given = ', '.join(theirs) if len(theirs) < 30 else f'{len(theirs)} classes'
        raise ConfigError(
            f'the report {name} has other classes than this run: {given}. Compare runs '
            'on the same data set'
        )
    names = [image['path'] for image in other['images']]
    if len(names) != len(paths):
        raise ConfigError(
            f'the report {name} is about {len(names)} images, but this run about '
            f'{len(paths)}. Compare runs on the same split'
        )
    unknown = sorted(set(names) - set(_relative(paths)))
    if unknown:
        raise ConfigError(
            f'the report {name} is about other images than this run, such as '
            f'{unknown[0]}. Compare runs on the same split'
        )
