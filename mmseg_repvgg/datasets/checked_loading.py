"""Replace the loading transforms of a pipeline by those that check each file."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from .nested import build_lazily, supports_lazy_init
from .transforms import LoadCheckedAnnotations


def check_loading(cfg: MutableMapping[str, Any]) -> None:
    """Replace the loading transforms of a data set's pipeline by checked ones.

    ``LoadImageFromFile`` becomes ``LoadCheckedImage`` and ``LoadAnnotations``
    ``LoadCheckedAnnotations``, with the same arguments and decoder. Label maps are
    checked against the classes of the data set. Configs keep mmseg's names, since its
    inference functions look for these in a ``test_pipeline``. Subclasses of the two and
    all other transforms stay.

    Args:
        cfg: Config of a data set or of a wrapper; changed in place.
    """
    for name in ('dataset', 'datasets'):
        inner = cfg.get(name) or []
        for part in inner if isinstance(inner, (list, tuple)) else [inner]:
            check_loading(part)
    if cfg.get('pipeline'):
        cfg['pipeline'] = _checked(cfg['pipeline'], _labels_of(cfg))


def _labels_of(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that tell which labels are valid, as far as known."""
    if not supports_lazy_init(cfg) or cfg.get('backend_args'):
        return {}
    dataset = build_lazily(cfg)
    classes = dataset.metainfo.get('classes')
    ignored = getattr(dataset, 'ignore_index', 255)
    return dict(num_classes=len(classes), ignore_index=ignored) if classes else {}


def _checked(steps: Any, labels: Mapping[str, Any]) -> Any:
    """Return a pipeline, or a part of one, with checked loading."""
    if isinstance(steps, (list, tuple)):
        return [_checked(step, labels) for step in steps]
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
        return {**steps, 'transforms': _checked(steps['transforms'], labels)}
    return steps
