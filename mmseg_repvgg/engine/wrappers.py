"""What mmengine puts around a model."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from torch import nn


def unwrap(model: nn.Module) -> BaseModel:
    """Take off the wrappers for several processes and for test-time augmentation."""
    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    return inner
