"""How far the predictions of two forms of a segmentor differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import ConfigError


class Comparison:
    """Collects the differences over the batches of a data set."""

    def __init__(self) -> None:
        self._scale = self._difference = 0.0
        self._pixels = self._differing = 0

    def add(self, expected: Sequence[Any], actual: Sequence[Any]) -> None:
        """Compare the predictions of a batch.

        Args:
            expected: A data sample for each image, of the form compared with.
            actual: Those of the other form.

        Raises:
            ConfigError: If the segmentor predicts no logits.
        """
        for a, b in zip(expected, actual):
            if 'seg_logits' not in a:
                raise ConfigError(
                    'two forms are compared by their seg_logits, which this segmentor '
                    'does not predict'
                )
            logits, others = a.seg_logits.data, b.seg_logits.data
            # np.maximum keeps NaN, max() does not.
            self._scale = np.maximum(self._scale, float(logits.abs().max()))
            gap = float((logits - others).abs().max())
            self._difference = np.maximum(self._difference, gap)
            labels = a.pred_sem_seg.data
            self._differing += int((labels != b.pred_sem_seg.data).sum())
            self._pixels += labels.numel()

    @property
    def logit_difference(self) -> float:
        """Largest absolute difference of a logit, relative to the largest logit."""
        return float(self._difference / np.maximum(self._scale, 1e-30))

    @property
    def label_disagreement(self) -> float:
        """Share of the pixels whose label differs, from 0 to 1."""
        return self._differing / max(self._pixels, 1)
