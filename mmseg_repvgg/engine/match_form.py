"""From the form of a checkpoint to the form that a config builds."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..checkpoints.key_names import recognise, unwrap
from ..registry_types import is_a


def match_form(cfg: Config, checkpoint: Any) -> None:
    """Build the fused form for a fused checkpoint; fusing cannot be undone.

    Args:
        cfg: Changed in place, if its backbone is RepVGG.
        checkpoint: As it was read, in any layout.

    Raises:
        CheckpointError: If it holds no weights.
    """
    backbone = cfg.model.get('backbone', {})
    found = recognise(unwrap(checkpoint))
    if (
        is_a(backbone, 'RepVGG')
        and found is not None
        and found.form == 'fused'
        and not backbone.get('deploy')
    ):
        backbone.deploy = True
        print_log('the checkpoint is fused: the model is built in the fused form')
