"""Find and change the pipelines of configs."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from mmcv.transforms import Resize
from mmengine.config import Config
from mmengine.logging import print_log
from mmseg.registry import TRANSFORMS

from ..registry_types import builds, type_name
from .checks import leaf_datasets


def find_test_pipeline(cfg: Config) -> list[Any]:
    """Return the pipeline by which a config tests, empty if it has none."""
    loader = cfg.get('test_dataloader') or {}
    leaf = leaf_datasets(loader.get('dataset') or {})[0]
    return leaf.get('pipeline') or cfg.get('test_pipeline') or []


def resizing(steps: Sequence[Any]) -> dict[str, Any]:
    """Return ``scale`` and ``keep_ratio``, by which a pipeline resizes images.

    The scale is width and height, or None if images keep their size.
    """
    for step in steps:
        if builds(step, TRANSFORMS, Resize) and step.get('scale'):
            scale = step['scale']
            pair = [scale, scale] if isinstance(scale, int) else list(scale)
            return dict(scale=pair, keep_ratio=bool(step.get('keep_ratio')))
        if type_name(step).startswith('Resize'):
            print_log(
                f'The test pipeline resizes by {type_name(step)} without a scale, which '
                'the exported file cannot tell: give it images that are resized so',
                'current',
                logging.WARNING,
            )
    return dict(scale=None, keep_ratio=True)


def without_steps(steps: Sequence[Any], *kinds: type) -> list[Any]:
    """Return a pipeline, or the views of a TestTimeAug, without transforms of some kinds.

    Subclasses of these kinds are left out as well.
    """
    kept: list[Any] = []
    for step in steps:
        if not isinstance(step, Mapping):
            # An empty list of alternatives would leave TestTimeAug no view.
            kept.extend([rest] if (rest := without_steps(step, *kinds)) else [])
        elif 'transforms' in step:
            kept.append({**step, 'transforms': without_steps(step['transforms'], *kinds)})
        elif not any(builds(step, TRANSFORMS, kind) for kind in kinds):
            kept.append(step)
    return kept
