"""The Cityscapes label table: names, ids, training ids and colours.

The facts are those of ``cityscapesscripts/helpers/labels.py``
(https://github.com/mcordts/cityscapesScripts). ``license plate`` is left out: its id
is -1, which no label image can hold, so the official tools never draw it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

IGNORE_INDEX: Final = 255
"""The training id of every label which is not evaluated."""


class Label(NamedTuple):
    """One row of the table.

    Attributes:
        name: The name in the polygon files.
        id: The value in the ``labelIds`` images.
        train_id: The value in the ``labelTrainIds`` images.
        has_instances: Whether single objects are told apart.
        color: RGB, as in the ``color`` images.
    """

    name: str
    id: int
    train_id: int
    has_instances: bool
    color: tuple[int, int, int]


LABELS: Final = (
    Label('unlabeled', 0, IGNORE_INDEX, False, (0, 0, 0)),
    Label('ego vehicle', 1, IGNORE_INDEX, False, (0, 0, 0)),
    Label('rectification border', 2, IGNORE_INDEX, False, (0, 0, 0)),
    Label('out of roi', 3, IGNORE_INDEX, False, (0, 0, 0)),
    Label('static', 4, IGNORE_INDEX, False, (0, 0, 0)),
    Label('dynamic', 5, IGNORE_INDEX, False, (111, 74, 0)),
    Label('ground', 6, IGNORE_INDEX, False, (81, 0, 81)),
    Label('road', 7, 0, False, (128, 64, 128)),
    Label('sidewalk', 8, 1, False, (244, 35, 232)),
    Label('parking', 9, IGNORE_INDEX, False, (250, 170, 160)),
    Label('rail track', 10, IGNORE_INDEX, False, (230, 150, 140)),
    Label('building', 11, 2, False, (70, 70, 70)),
    Label('wall', 12, 3, False, (102, 102, 156)),
    Label('fence', 13, 4, False, (190, 153, 153)),
    Label('guard rail', 14, IGNORE_INDEX, False, (180, 165, 180)),
    Label('bridge', 15, IGNORE_INDEX, False, (150, 100, 100)),
    Label('tunnel', 16, IGNORE_INDEX, False, (150, 120, 90)),
    Label('pole', 17, 5, False, (153, 153, 153)),
    Label('polegroup', 18, IGNORE_INDEX, False, (153, 153, 153)),
    Label('traffic light', 19, 6, False, (250, 170, 30)),
    Label('traffic sign', 20, 7, False, (220, 220, 0)),
    Label('vegetation', 21, 8, False, (107, 142, 35)),
    Label('terrain', 22, 9, False, (152, 251, 152)),
    Label('sky', 23, 10, False, (70, 130, 180)),
    Label('person', 24, 11, True, (220, 20, 60)),
    Label('rider', 25, 12, True, (255, 0, 0)),
    Label('car', 26, 13, True, (0, 0, 142)),
    Label('truck', 27, 14, True, (0, 0, 70)),
    Label('bus', 28, 15, True, (0, 60, 100)),
    Label('caravan', 29, IGNORE_INDEX, True, (0, 0, 90)),
    Label('trailer', 30, IGNORE_INDEX, True, (0, 0, 110)),
    Label('train', 31, 16, True, (0, 80, 100)),
    Label('motorcycle', 32, 17, True, (0, 0, 230)),
    Label('bicycle', 33, 18, True, (119, 11, 32)),
)
"""All labels, each at the index which is its id."""

LABEL_BY_NAME: Final = {label.name: label for label in LABELS}


def train_id_table() -> npt.NDArray[np.uint8]:
    """The training id of every label id: index it with a label image.

    Returns:
        Array of shape (34,).
    """
    return np.array([label.train_id for label in LABELS], np.uint8)


def color_table() -> npt.NDArray[np.uint8]:
    """The colour of every label id: index it with a label image.

    Returns:
        RGB array of shape (34, 3).
    """
    return np.array([label.color for label in LABELS], np.uint8)
