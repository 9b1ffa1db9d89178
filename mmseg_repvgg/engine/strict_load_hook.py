"""The hook by which a checkpoint is loaded whole or refused."""

from __future__ import annotations

import re
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from ..errors import CheckpointError
from .wrappers import unwrap


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Refuse a checkpoint that does not fill the model exactly.

    mmengine loads with ``strict=False`` and only logs what did not match. When resuming
    or testing, a head left at random is never what anyone wants. (The backbone checks
    itself on every path; to fine-tune with new classes, load without this hook.)

    Raises:
        CheckpointError: If a tensor is missing, left over or of another shape.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare names and shapes before anything is copied."""
        stored = checkpoint.get('state_dict', checkpoint)
        found = {re.sub(r'^module\.', '', key): value for key, value in stored.items()}
        wanted = unwrap(runner.model).state_dict()
        # The backbone gives the better reasons for its own.
        problems = [f'{key} is missing' for key in wanted if key not in found]
        problems += [f'{key} is not in the model' for key in found if key not in wanted]
        problems += [
            f'{key} is {tuple(found[key].shape)} where the model has {tuple(value.shape)}'
            for key, value in wanted.items()
            if key in found and found[key].shape != value.shape
        ]
        heads = [problem for problem in problems if not problem.startswith('backbone.')]
        if heads:
            raise CheckpointError(
                f'the checkpoint does not fit the model: {len(problems)} tensors differ, '
                f'{"; ".join(heads[:5])}. Give the config that it was trained with'
            )
