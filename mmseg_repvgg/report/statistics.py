"""Sums over the images of a data set from which a report is made."""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import CheckpointError, ConfigError
from .boundary import BAND_EDGES, NEAR_BANDS, distance_bands
from .calibration import Reliability
from .confusion import iou, largest_confusions, mean
from .regions import RegionRecall
from .segmented import Segmented


@dataclass(frozen=True)
class ImageErrors:
    """Errors of an image.

    Attributes:
        path: The image file.
        labelled: Number of pixels with a class in the truth.
        wrong: Number of those with another predicted label.
        confusions: The most frequent errors: true and predicted class, and pixels.
        miou: Mean IoU from 0 to 1, over the classes in the truth or the prediction; NaN
            without labelled pixels.
        differing: Number of pixels to which the forms give other labels, or None.
        logit_difference: See :class:`~mmseg_repvgg.report.segmented.FormDifference`.
    """

    path: str
    labelled: int
    wrong: int
    confusions: list[tuple[int, int, int]]
    miou: float
    differing: int | None
    logit_difference: float | None

    @property
    def error(self) -> float:
        """Share of the labelled pixels that are wrong, NaN if there are none."""
        return self.wrong / self.labelled if self.labelled else math.nan


class Statistics:
    """Sums over images, of a size that does not depend on theirs.

    Attributes:
        confusion: Shape (bands, classes, classes), a confusion matrix for each band of
            distances to a boundary.
        regions: Recall of connected regions.
        reliability: Accuracy by confidence.
        pixels: Number of pixels, ignored ones as well.
        differing: Number of pixels to which the forms give other labels: near a boundary,
            and elsewhere.
        images: Errors of each image.
    """

    def __init__(self, classes: int, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index
        self.confusion = np.zeros((len(BAND_EDGES), classes, classes), np.int64)
        self.regions = RegionRecall(classes)
        self.reliability = Reliability()
        self.pixels = 0
        self.differing = np.zeros(2, np.int64)
        self.images: list[ImageErrors] = []

    def add(self, image: Segmented) -> ImageErrors:
        """Add an image and return its errors.

        Raises:
            CheckpointError: If the network computes NaN or infinite numbers.
            ConfigError: If a predicted label is not of a class of the data set.
        """
        forms = image.forms
        if not np.isfinite([image.confidence.sum(), forms.logits if forms else 0]).all():
            raise CheckpointError(
                f'the network computes NaN or infinite numbers for {image.path}. Choose '
                'a checkpoint from before the training diverged'
            )
        truth, labels = image.truth, image.labels
        classes = self.confusion.shape[1]
        if labels.max() >= classes:
            raise ConfigError(
                f'the model predicts class {labels.max()} in {image.path}, but the data '
                f'set has {classes} classes, numbered from 0. Use the data set that the '
                'model was trained for'
            )
        bands = distance_bands(truth)
        counted = (truth != self.ignore_index) & (truth < classes)
        # The ignored label may be the number of a class.
        regions = np.where(counted, truth, classes)
        confusion = np.bincount(
            (bands[counted].astype(np.int64) * classes + truth[counted]) * classes
            + labels[counted],
            minlength=self.confusion.size,
        ).reshape(self.confusion.shape)
        self.confusion += confusion
        self.regions.add(regions, labels)
        self.reliability.add(image.confidence[counted], truth[counted] == labels[counted])
        self.pixels += truth.size
        differing = logits = None
        if forms is not None:
            where = bands[forms.labels] < NEAR_BANDS
            differing, logits = where.size, forms.logits
            self.differing += (where.sum(), (~where).sum())
        total = confusion.sum(0)
        errors = ImageErrors(
            image.path,
            int(total.sum()),
            int(total.sum() - np.trace(total)),
            largest_confusions(total, 3),
            mean(iou(total)),
            differing,
            logits,
        )
        self.images.append(errors)
        return errors
