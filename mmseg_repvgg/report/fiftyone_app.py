"""Show the images of a data set with their errors in FiftyOne."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from repvgg_runtime.extras import require

from .segmented import Segmented
from .statistics import Statistics


def fill_dataset(
    images: Iterable[Segmented], statistics: Statistics, classes: Sequence[str]
) -> Any:
    """Return a FiftyOne data set of images, in FiftyOne's database until Python exits.

    A sample has the segmentations ``truth`` and ``prediction``, whose mask has the label
    id plus 1 and 0 for ignored pixels, and the numbers ``error`` and ``miou``, from 0 to
    1. Masks go to the database image by image.

    Args:
        images: The images.
        statistics: Sums that the images are added to.
        classes: Names of the classes.

    Raises:
        ExtraError: If FiftyOne is not installed.
    """
    fiftyone = require('fiftyone', None)
    dataset = fiftyone.Dataset()
    # FiftyOne shows nothing where a mask is 0.
    dataset.default_mask_targets = dict(enumerate(classes, 1))
    for image in images:
        errors = statistics.add(image)
        ignored = image.truth == statistics.ignore_index
        sample = fiftyone.Sample(
            filepath=image.path,
            truth=fiftyone.Segmentation(mask=_mask(np.where(ignored, -1, image.truth))),
            prediction=fiftyone.Segmentation(mask=_mask(image.labels)),
            error=errors.error,
            miou=errors.miou,
        )
        dataset.add_sample(sample)
    return dataset


def _mask(labels: np.ndarray) -> np.ndarray:
    return (labels + 1).astype(np.uint16 if labels.max() >= 255 else np.uint8)


def open_app(dataset: Any) -> None:
    """Open FiftyOne's app on a data set, the worst images first, until it is closed."""
    fiftyone = require('fiftyone', None)
    fiftyone.launch_app(dataset.sort_by('error', reverse=True)).wait()
