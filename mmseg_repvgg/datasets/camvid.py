"""The CamVid data set with 11 classes."""

import os
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..errors import DataError
from .png_files import files_in

# The class names and colours, in the order of the labels.
_CLASSES = {
    'sky': [128, 128, 128],
    'building': [128, 0, 0],
    'pole': [192, 192, 128],
    'road': [128, 64, 128],
    'pavement': [60, 40, 222],
    'tree': [128, 128, 0],
    'sign symbol': [192, 128, 128],
    'fence': [64, 64, 128],
    'car': [64, 0, 128],
    'pedestrian': [64, 64, 0],
    'bicyclist': [0, 128, 192],
}


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid in its SegNet version: 480x360 pixels, 11 classes, label 255 ignored.

    Brostow et al., Pattern Recognition Letters 2009, in the selection of Badrinarayanan
    et al., "SegNet", PAMI 2017. Folders: ``leftImg8bit/{train,val,test}/NAME.png``, or
    ``NAME.jpg``, and ``gtFine/{train,val,test}/NAME.png`` with training ids.

    Args:
        data_root: The folder, by default the environment variable ``CAMVID_ROOT`` or
            ``data/camvid``.
        **kwargs: As for ``BaseSegDataset``.
    """

    METAINFO = dict(classes=tuple(_CLASSES), palette=list(_CLASSES.values()))

    def __init__(self, data_root: str | None = None, **kwargs: Any) -> None:
        if data_root is None:
            data_root = os.environ.get('CAMVID_ROOT', 'data/camvid')
        super().__init__(
            img_suffix='.jpg', seg_map_suffix='.png', data_root=data_root, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        """List the samples, whose images are either PNG or JPEG.

        Raises:
            DataError: If there are both.
        """
        folder = self.data_prefix.get('img_path')
        kinds = [k for k in ('.jpg', '.png') if folder and files_in(Path(folder), k)]
        if len(kinds) > 1:
            raise DataError(
                f'the folder {folder} of CamVid holds both .jpg and .png images. Remove '
                'those of one kind'
            )
        self.img_suffix: str = kinds[0] if kinds else '.jpg'
        return super().load_data_list()
