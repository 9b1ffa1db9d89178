"""Segmentors in the wrappers that mmengine puts around them."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from torch import nn


def strip_wrappers(model: nn.Module) -> BaseModel:
    """Return the segmentor inside wrappers for DDP and for test-time augmentation."""
    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    return inner


@torch.no_grad()
def predict(model: Any, batch: dict[str, Any]) -> Sequence[Any]:
    """Predict a batch of a dataloader, by a segmentor in evaluation mode.

    The batch keeps its data samples. Those that are returned, one per image, have
    ``seg_logits`` and ``pred_sem_seg``.
    """
    samples = [sample.clone() for sample in batch['data_samples']]
    return model.test_step({**batch, 'data_samples': samples})
