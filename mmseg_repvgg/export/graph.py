"""The module that is exported: image in, labels or logits out."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from ..errors import ConfigError
from ..reparam import deploy
from .metadata import Metadata
from .pooling import make_pooling_exact, upsample


class SegmentorGraph(nn.Module):
    """The fused form of a segmentor as one function of the image, taken whole.

    Args:
        model: A segmentor of a backbone and one decode head, in any form; it stays as it
            is.
        metadata: What the function is to be.

    Raises:
        ConfigError: If the model is none that can be exported.
    """

    def __init__(self, model: nn.Module, metadata: Metadata) -> None:
        super().__init__()
        if not isinstance(getattr(model, 'decode_head', None), BaseDecodeHead):
            raise ConfigError(
                'only a segmentor of a backbone and one decode head is exported, this is '
                f'a {type(model).__name__}'
            )
        if model.out_channels == 1 and metadata.output == 'labels':
            raise ConfigError(
                'the model has a single output channel, whose label is a matter of a '
                'threshold: export it with --output logits'
            )
        network: Any = make_pooling_exact(deploy(model))
        # Trained with, never run again.
        network.auxiliary_head = None
        self.network: Any = network
        self.normalize = Normalize(metadata) if metadata.normalize else nn.Identity()
        self.labels = metadata.output == 'labels'

    def forward(self, image: Tensor) -> Tensor:
        """Segment images.

        Args:
            image: Shape (B, 3, H, W); what its numbers are, the metadata says.

        Returns:
            Labels, uint8 (int32 if there are more than 256 classes), (B, H, W); or
            logits, float32, (B, classes, H, W).
        """
        features = self.network.extract_feat(self.normalize(image))
        logits = self.network.decode_head(features)
        if isinstance(logits, (tuple, list)):
            logits = logits[0]  # EncHead gives the classes of the image as well.
        logits = upsample(logits, image, self.network.align_corners)
        if not self.labels:
            return logits
        few = self.network.out_channels <= 256
        return logits.argmax(1).to(torch.uint8 if few else torch.int32)


class Normalize(nn.Module):
    """What the model's data preprocessor does to an image before the network has it.

    Args:
        metadata: Names the orders of the channels, mean and std.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, metadata: Metadata) -> None:
        super().__init__()
        self.flips = metadata.channels != metadata.network_channels
        for name in ('mean', 'std'):
            values = torch.tensor(getattr(metadata, name), dtype=torch.float32)
            self.register_buffer(name, values.view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Normalise images of numbers from 0 to 255, (B, 3, H, W)."""
        if self.flips:
            image = image.flip(1)
        return (image.float() - self.mean) / self.std
