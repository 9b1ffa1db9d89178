"""Sliding-window inference whose windows run in batches and are summed in place."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor

from ..errors import ConfigError

with warnings.catch_warnings():
    # mmcv misses compiled operators that nothing here uses.
    warnings.filterwarnings('ignore', 'Fail to import')
    from mmseg.models import EncoderDecoder


@MODELS.register_module()
class SlidingEncoderDecoder(EncoderDecoder):
    """An ``EncoderDecoder`` whose windows can go through the model in batches.

    Its logits are those of ``EncoderDecoder``; of tensors as large as the image it holds
    one, the sum, where that holds two. ``test_cfg`` may have one more key,
    ``windows_per_batch``: how many windows of an image go in at once, by default 1. Each
    more costs the activations of a window: more may keep a GPU busy, a CPU gains nothing.

    Args:
        *args: As for ``EncoderDecoder``.
        **kwargs: As for ``EncoderDecoder``.

    Raises:
        ConfigError: If ``test_cfg`` has windows that would leave gaps, or a number of
            them that is not a positive integer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        test_cfg = self.test_cfg or {}
        if test_cfg.get('mode') != 'slide':
            return
        count = test_cfg.get('windows_per_batch', 1)
        if not isinstance(count, int) or count < 1:
            raise ConfigError(
                'model.test_cfg.windows_per_batch must be a positive integer, got '
                f'{count!r}'
            )
        crop, stride = test_cfg['crop_size'], test_cfg['stride']
        if not all(0 < step <= side for step, side in zip(stride, crop)):
            raise ConfigError(
                'model.test_cfg.stride must be positive and at most crop_size='
                f'{tuple(crop)}, or pixels lie in no window; got {tuple(stride)}'
            )

    test_cfg: Any  # a ConfigDict

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Average the logits of overlapping windows.

        The last window of a row or column ends where the image does, and overlaps the
        one before it by more. An image smaller than the window is taken whole.

        Args:
            inputs: Images, (N, C, H, W).
            batch_img_metas: What is known of each.

        Returns:
            Logits, (N, classes, H, W).
        """
        sides = inputs.shape[2:]
        crop = [min(pair) for pair in zip(self.test_cfg.crop_size, sides)]
        tops, lefts = (
            _starts(*geometry) for geometry in zip(sides, crop, self.test_cfg.stride)
        )
        windows = [
            (slice(top, top + crop[0]), slice(left, left + crop[1]))
            for top in tops
            for left in lefts
        ]
        logits = inputs.new_zeros((len(inputs), self.out_channels, *sides))
        count = self.test_cfg.get('windows_per_batch', 1)
        for first in range(0, len(windows), count):
            batch = windows[first : first + count]
            crops = torch.cat([inputs[:, :, rows, columns] for rows, columns in batch])
            # The heads scale their logits up to this size if it is a torch.Size.
            metas = [{**meta, 'img_shape': crops.shape[2:]} for meta in batch_img_metas]
            scores = self.encode_decode(crops, metas * len(batch)).split(len(inputs))
            for (rows, columns), score in zip(batch, scores):
                logits[:, :, rows, columns] += score
        down = _coverage(inputs, sides[0], tops, crop[0])
        across = _coverage(inputs, sides[1], lefts, crop[1])
        return logits.div_(down[:, None] * across)


def _starts(side: int, crop: int, stride: int) -> list[int]:
    """Where windows begin along one axis."""
    steps = -(-(side - crop) // stride)
    return [min(step * stride, side - crop) for step in range(steps + 1)]


def _coverage(like: Tensor, side: int, starts: list[int], crop: int) -> Tensor:
    """How many windows each pixel along one axis lies in, (side,)."""
    coverage = like.new_zeros(side)
    for start in starts:
        coverage[start : start + crop] += 1
    return coverage
