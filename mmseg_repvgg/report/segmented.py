"""Segment a data set by both forms of a segmentor, one image at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DataError
from ..models.comparison import relative_difference
from ..models.tf32 import tf32
from ..models.wrappers import predict
from ..reparam import deploy, is_deployed


@dataclass(frozen=True)
class FormDifference:
    """Where and how far the forms of a segmentor differ on an image.

    Attributes:
        labels: Shape (H, W), bool: pixels to which the forms give other labels.
        logits: Largest absolute difference of a logit, relative to the largest logit.
    """

    labels: np.ndarray
    logits: float


@dataclass(frozen=True)
class Segmented:
    """An image with its truth and the prediction of the fused form.

    Attributes:
        path: The image file.
        image: Shape (h, w, bands), as the pipeline of the data set returns it.
        truth: Shape (H, W), int32, label ids.
        labels: Shape (H, W), int32, the predicted label ids.
        confidence: Shape (H, W), float32, probabilities of the predicted labels.
        forms: Difference of the forms; None for a segmentor with nothing to fuse.
    """

    path: str
    image: np.ndarray
    truth: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    forms: FormDifference | None


def segment_both_forms(
    model: nn.Module,
    dataloader: Any,
    engine: str = 'torch',
    precision: str = 'highest',
) -> Iterator[Segmented]:
    """Yield the images of a dataloader; leave the segmentor in evaluation mode.

    Forms are compared without TF32, which alone makes a GPU's logits differ by 1e-3. The
    predictions are those of the fused form with the settings of a test.

    Args:
        model: The segmentor, in either form.
        dataloader: A dataloader of images with truth.
        engine: What computes the fused form, see :func:`~mmseg_repvgg.deploy`.
        precision: Precision of the Winograd engine, as for ``deploy``.

    Raises:
        DataError: If an image has no truth.
    """
    model.eval()
    fused = deploy(model, engine, precision)
    on_gpu = next(model.parameters()).is_cuda
    for batch in dataloader:
        for sample in batch['data_samples']:
            if 'gt_sem_seg' not in sample:
                raise DataError(
                    f'{sample.img_path} has no truth: the pipeline of its data set has '
                    'no LoadAnnotations. Choose a split with label maps, such as '
                    '--split val'
                )
        samples = predict(fused, batch)
        pairs: list[Any] = [None] * len(samples)
        if not is_deployed(model):
            with tf32(False):
                exact = predict(fused, batch) if on_gpu else samples
                pairs = list(zip(predict(model, batch), exact))
        for sample, image, pair in zip(samples, batch['inputs'], pairs):
            yield Segmented(
                sample.img_path,
                image.permute(1, 2, 0).cpu().numpy(),
                _map(sample.gt_sem_seg),
                _map(sample.pred_sem_seg),
                _confidence(sample).cpu().numpy(),
                None if pair is None else _difference(*pair),
            )


def _map(labels: Any) -> np.ndarray:
    # A binary head predicts labels as floats.
    return labels.data[0].int().cpu().numpy()


def _confidence(sample: Any) -> Tensor:
    logits = sample.seg_logits.data.float()
    if len(logits) == 1:
        # The segmentor has applied the sigmoid of a binary head.
        labels = sample.pred_sem_seg.data[0]
        return torch.where(labels == 1, logits[0], 1 - logits[0])
    return (logits.amax(0) - logits.logsumexp(0)).exp()


def _difference(trained: Any, fused: Any) -> FormDifference:
    return FormDifference(
        _map(trained.pred_sem_seg) != _map(fused.pred_sem_seg),
        relative_difference(fused.seg_logits.data, trained.seg_logits.data),
    )
