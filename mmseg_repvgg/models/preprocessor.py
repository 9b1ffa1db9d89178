"""Preprocessing of images of any number of bands."""

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS

from ..errors import ConfigError


@MODELS.register_module()
class BandDataPreProcessor(SegDataPreProcessor):
    """mmseg's preprocessor with a mean and a standard deviation for each band.

    mmengine allows 1 or 3 values only.

    Args:
        mean: Mean of each band, as its values are in the file.
        std: Standard deviation of each band.
        **kwargs: Further arguments of ``SegDataPreProcessor``, such as ``size``.

    Raises:
        ConfigError: If ``mean`` and ``std`` have different lengths.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if len(mean) != len(std):
            raise ConfigError(
                'mean and std must have a value for each band, but have '
                f'{len(mean)} and {len(std)} values'
            )
        self._enable_normalize = True
        for name, values in (('mean', mean), ('std', std)):
            tensor = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, tensor, False)
