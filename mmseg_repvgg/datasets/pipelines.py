"""Change the pipelines of configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.registry import TRANSFORMS

from ..registry_types import builds


def without_steps(steps: Sequence[Any], *kinds: type) -> list[Any]:
    """Return a pipeline, or the views of a TestTimeAug, without some transforms.

    Args:
        steps: Configs of transforms, or lists of alternatives.
        kinds: Classes to leave out, with their subclasses.
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
