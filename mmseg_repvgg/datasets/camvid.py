"""CamVid, 11 classes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..errors import DataError
from .files import files_in


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid in its SegNet version: 480x360, 11 classes, label 255 ignored.

    Brostow et al., Pattern Recognition Letters 2009, in the selection of Badrinarayanan
    et al., "SegNet", PAMI 2017. Folders: ``leftImg8bit/{train,val,test}/NAME.png``, or
    ``NAME.jpg``, and ``gtFine/{train,val,test}/NAME.png``, train ids.

    Args:
        data_root: The folder; by default that of the environment variable
            ``CAMVID_ROOT``, else ``data/camvid``.
        **kwargs: As for ``BaseSegDataset``.
    """

    METAINFO = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign symbol',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    )

    def __init__(self, data_root: str | None = None, **kwargs: Any) -> None:
        if data_root is None:
            data_root = os.environ.get('CAMVID_ROOT', 'data/camvid')
        super().__init__(
            img_suffix='.jpg', seg_map_suffix='.png', data_root=data_root, **kwargs
        )

    def load_data_list(self) -> list[dict]:
        """List the samples; the images are PNG or JPEG, whichever are there.

        Raises:
            DataError: If both are.
        """
        folder = self.data_prefix.get('img_path')
        kinds = [
            kind for kind in ('.jpg', '.png') if folder and files_in(Path(folder), kind)
        ]
        if len(kinds) > 1:
            raise DataError(
                f'the folder {folder} of CamVid holds images of both {kinds[0]} and '
                f'{kinds[1]}: take one kind away'
            )
        self.img_suffix: str = kinds[0] if kinds else '.jpg'
        return super().load_data_list()
