"""The tools read every image and label map by the transforms that check it."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from .nested import can_wait, lazily
from .transforms import LoadCheckedAnnotations


def check_loading(cfg: MutableMapping[str, Any]) -> None:
    """Have the pipeline of a data set check each file that it loads.

    ``LoadImageFromFile`` becomes ``LoadCheckedImage`` and ``LoadAnnotations``
    ``LoadCheckedAnnotations``, with the arguments and the decoder they had: all that
    they load is the same. Label maps are held to the classes of the data set. mmseg's
    inference functions know a ``test_pipeline`` by the first two names, so a config says
    these. Children of the two, and all other transforms, stay.

    Args:
        cfg: Config of a data set, or of one made of others; changed in place.
    """
    for name in ('dataset', 'datasets'):
        inner = cfg.get(name) or []
        for part in inner if isinstance(inner, (list, tuple)) else [inner]:
            check_loading(part)
    if cfg.get('pipeline'):
        cfg['pipeline'] = _checked(cfg['pipeline'], _labels_of(cfg))


def _labels_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Which labels are right, as far as the data set says it."""
    if not can_wait(cfg) or cfg.get('backend_args'):
        return {}
    dataset = lazily(cfg)
    classes = dataset.metainfo.get('classes')
    ignored = getattr(dataset, 'ignore_index', 255)
    return dict(num_classes=len(classes), ignore_index=ignored) if classes else {}


def _checked(steps: Any, labels: Mapping[str, Any]) -> Any:
    """A pipeline, a step of one, or what a step is made of, with other loading."""
    if isinstance(steps, (list, tuple)):
        return [_checked(step, labels) for step in steps]
    if not isinstance(steps, Mapping) or 'type' not in steps:
        # None, or a transform that is built already.
        return steps
    kind = steps['type']
    kind = TRANSFORMS.get(kind) if isinstance(kind, str) else kind
    if kind is LoadImageFromFile:
        # Pillow and OpenCV decode a JPEG differently: its own default stays.
        return {'imdecode_backend': 'cv2', **steps, 'type': 'LoadCheckedImage'}
    if kind in (LoadAnnotations, LoadCheckedAnnotations):
        return {**labels, **steps, 'type': 'LoadCheckedAnnotations'}
    if 'transforms' in steps:
        return {**steps, 'transforms': _checked(steps['transforms'], labels)}
    return steps
