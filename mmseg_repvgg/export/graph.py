"""The module that is exported: image in, labels or logits out."""

from __future__ import annotations

from typing import Any

import torch
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from repvgg_runtime.metadata import Metadata

from ..errors import ConfigError
from ..reparam import deploy
from .pooling import make_pooling_exact, upsample


class SegmentorGraph(nn.Module):
    """The fused form of a segmentor as one function of the whole image.

    Args:
        model: Segmentor of a backbone and one decode head, in any form; not changed.
        metadata: Facts that choose the input and the output of the function.

    Raises:
        ConfigError: If the model cannot be exported.
    """

    def __init__(self, model: nn.Module, metadata: Metadata) -> None:
        super().__init__()
        if not isinstance(getattr(model, 'decode_head', None), BaseDecodeHead):
            raise ConfigError(
                'only segmentors of a backbone and one decode head can be exported, but '
                f'got a {type(model).__name__}'
            )
        if model.out_channels == 1 and metadata.output == 'labels':
            raise ConfigError(
                'the labels of a model of one output channel depend on a threshold. '
                'Export it with --output logits'
            )
        network: Any = make_pooling_exact(deploy(model))
        network.auxiliary_head = None
        self.network: Any = network
        self.normalize = Normalize(metadata) if metadata.normalize else nn.Identity()
        self.labels = metadata.output == 'labels'

    def forward(self, image: Tensor) -> Tensor:
        """Segment images.

        Args:
            image: Shape (B, 3, H, W), of the type and range that the metadata says.

        Returns:
            Labels, uint8 (int32 if there are more than 256 classes), (B, H, W); or
            logits, float32, (B, classes, H, W).
        """
        features = self.network.extract_feat(self.normalize(image))
        logits = self.network.decode_head(features)
        if isinstance(logits, (tuple, list)):
            logits = logits[0]  # EncHead returns the classes of the image as well.
        logits = upsample(logits, image, self.network.align_corners)
        if not self.labels:
            return logits
        few = self.network.out_channels <= 256
        return logits.argmax(1).to(torch.uint8 if few else torch.int32)


class Normalize(nn.Module):
    """Normalization of the model's data preprocessor, as part of the graph.

    Args:
        metadata: Source of the orders of the channels, the mean and the std.
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
        """Normalize images of values from 0 to 255, (B, 3, H, W)."""
        if self.flips:
            image = image.flip(1)
        return (image.float() - self.mean) / self.std
