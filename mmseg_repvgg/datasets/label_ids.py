"""The ids that a data set's own tools use for its labels."""

from collections.abc import Sequence

from mmseg.datasets import CityscapesDataset

from .prepare_cityscapes import TRAIN_IDS


def label_ids(classes: Sequence[str]) -> list[int] | None:
    """Return the data set's own id of each class; None unless these are Cityscapes'."""
    if tuple(classes) != CityscapesDataset.METAINFO['classes']:
        return None
    return [TRAIN_IDS.index(label) for label in range(len(classes))]
