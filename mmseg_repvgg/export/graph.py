"""The module that is exported: image in, labels or logits out."""

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

    The segmentor has a backbone and one decode head, in any form, and is not changed.
    The metadata chooses the input and the output of the function.

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
        # Winograd's convolutions are put into the written file.
        engine = 'phases' if metadata.engine == 'phases' else 'torch'
        network: Any = make_pooling_exact(deploy(model, engine))
        network.auxiliary_head = None
        self.network: Any = network
        self.metadata = metadata

    def forward(self, image: Tensor) -> Tensor:
        """Segment images, (B, bands, H, W), of the type and range that the metadata says.

        Returns:
            Labels, uint8 (int32 if there are more than 256 classes), (B, H, W); or
            logits, float32, (B, classes, H, W).
        """
        x = self.normalize(image) if self.metadata.normalize else image
        logits = self.network.decode_head(self.network.extract_feat(x))
        if isinstance(logits, (tuple, list)):
            logits = logits[0]  # EncHead returns the classes of the image as well.
        logits = upsample(logits, image, self.network.align_corners)
        if self.metadata.output == 'logits':
            return logits
        few = self.network.out_channels <= 256
        return logits.argmax(1).to(torch.uint8 if few else torch.int32)

    def normalize(self, image: Tensor) -> Tensor:
        """Normalize images of 0 to 255 as the model's data preprocessor does."""
        if self.metadata.channels != self.metadata.network_channels:
            image = image.flip(1)
        preprocessor = self.network.data_preprocessor
        return (image.float() - preprocessor.mean) / preprocessor.std
