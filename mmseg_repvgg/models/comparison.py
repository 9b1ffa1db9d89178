"""Measure how far the outputs of two forms of a network differ."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, DeployError
from .tf32 import tf32
from .wrappers import predict, strip_wrappers


def relative_difference(output: Tensor, reference: Tensor) -> float:
    """Return the largest absolute difference, relative to the largest reference value.

    Compare the result with ``not difference <= tolerance``: it is NaN if a value is NaN,
    or infinite in both.
    """
    return _ratio(_maxima(output, reference))


def _maxima(output: Tensor, reference: Tensor) -> Tensor:
    """Return the largest difference and the largest reference value, shape (2,)."""
    dtype = torch.promote_types(reference.dtype, torch.float32)
    output, reference = output.detach().to(dtype), reference.detach().to(dtype)
    # The maximum of tensors is NaN if an element is.
    largest = [(output - reference).abs().max(), reference.abs().max()]
    return torch.stack(largest).double().cpu()


def _ratio(maxima: Tensor) -> float:
    difference, scale = maxima
    return float(difference / scale.clamp(min=1e-30))


class Comparison:
    """Differences between the predictions of two forms, collected over batches."""

    def __init__(self) -> None:
        self._maxima = torch.zeros(2, dtype=torch.float64)
        self._pixels = self._differing = 0

    def add(self, expected: Sequence[Any], actual: Sequence[Any]) -> None:
        """Add a batch.

        Args:
            expected: Data samples of the reference form.
            actual: Those of the other form, in the same order.

        Raises:
            ConfigError: If the segmentor predicts no logits.
        """
        for a, b in zip(expected, actual):
            if 'seg_logits' not in a:
                raise ConfigError(
                    'the segmentor predicts no seg_logits, which a comparison needs'
                )
            maxima = _maxima(b.seg_logits.data, a.seg_logits.data)
            self._maxima = torch.maximum(self._maxima, maxima)
            labels = a.pred_sem_seg.data
            self._differing += int((labels != b.pred_sem_seg.data).sum())
            self._pixels += labels.numel()

    @property
    def logit_difference(self) -> float:
        """Largest absolute difference of a logit, relative to the largest logit."""
        return _ratio(self._maxima)

    @property
    def label_disagreement(self) -> float:
        """Share of the pixels whose label differs, from 0 to 1."""
        return self._differing / max(self._pixels, 1)


LOGIT_TOLERANCES = {'highest': 1e-3, 'high': 1e-3, 'medium': 5e-2}
"""Allowed difference of a logit, relative to the largest, by precision of the engine."""


def check_fused(
    original: nn.Module,
    fused: nn.Module,
    batch: dict[str, Any],
    tolerance: float = LOGIT_TOLERANCES['highest'],
) -> str:
    """Check that a fused segmentor computes what its original computes on a batch.

    The tolerance is the largest allowed difference of a logit, relative to the largest
    absolute logit. Returns how far the two differ, in words.

    Raises:
        ConfigError: If the segmentor predicts no logits.
        DeployError: If they differ beyond the tolerance.
    """
    found = compare_logits(original, fused, batch)
    difference = (
        f"the fused logits differ from the training form's by at most "
        f'{found.logit_difference:.1e} of their scale, the labels differ on '
        f'{found.label_disagreement:.3%} of the pixels'
    )
    # Written so that NaN fails as well.
    if not found.logit_difference <= tolerance:
        raise DeployError(
            f'{difference}, which is more than tolerance={tolerance}. Look for norms '
            'with variances near 0 or non-finite values'
        )
    return difference


def compare_logits(
    original: nn.Module, deployed: nn.Module, batch: dict[str, Any]
) -> Comparison:
    """Compare what two forms of a segmentor in eval mode compute on a batch.

    Only the first view of a batch for test-time augmentation is compared.

    Raises:
        ConfigError: If the segmentor predicts no logits.
    """
    if isinstance(batch['inputs'][0], (list, tuple)):
        batch = {key: value[0] for key, value in batch.items()}
    comparison = Comparison()
    # TF32 alone makes differences of about 1e-3.
    with tf32(False):
        comparison.add(
            predict(strip_wrappers(original), batch),
            predict(strip_wrappers(deployed), batch),
        )
    return comparison
