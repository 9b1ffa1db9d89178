"""Show the images of a data set with their errors in FiftyOne."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from repvgg_runtime.extras import require

from .segmented import Segmented
from .statistics import Statistics


def open_app(
    images: Iterable[Segmented], statistics: Statistics, classes: Sequence[str]
) -> None:
    """Open FiftyOne's app on images, the worst first, until it is closed.

    Label maps go to FiftyOne's database image by image, and stay there until Python
    exits.

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
        dataset.add_sample(make_sample(image, statistics))
    fiftyone.launch_app(dataset.sort_by('error', reverse=True)).wait()


def make_sample(image: Segmented, statistics: Statistics) -> Any:
    """Add an image to statistics and return it as a sample of FiftyOne.

    Its segmentations ``truth`` and ``prediction`` have the label id plus 1, and 0 where
    the truth is ignored. Its numbers ``error`` and ``miou`` are from 0 to 1.
    """
    fiftyone = require('fiftyone', None)
    errors = statistics.add(image)
    truth = np.where(image.truth == statistics.ignore_index, -1, image.truth)
    return fiftyone.Sample(
        filepath=image.path,
        truth=fiftyone.Segmentation(mask=_mask(truth)),
        prediction=fiftyone.Segmentation(mask=_mask(image.labels)),
        error=errors.error,
        miou=errors.miou,
    )


def _mask(labels: np.ndarray) -> np.ndarray:
    return (labels + 1).astype(np.uint16 if labels.max() >= 255 else np.uint8)
