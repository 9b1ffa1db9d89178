"""What mmengine puts around a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> BaseModel:
    """Take off the wrappers for several processes and for test-time augmentation."""
    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    return inner


@torch.no_grad()
def predict(model: Any, batch: dict[str, Any]) -> Sequence[Any]:
    """Predict a batch of a dataloader without touching its data samples.

    Args:
        model: A segmentor in evaluation mode.
        batch: ``inputs`` and ``data_samples``, as the dataloader yields them.

    Returns:
        A data sample an image, with ``seg_logits`` and ``pred_sem_seg``.
    """
    samples = [sample.clone() for sample in batch['data_samples']]
    return model.test_step({**batch, 'data_samples': samples})
