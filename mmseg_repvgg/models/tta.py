"""Test-time augmentation that keeps the logits of one view at a time."""

from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class RunningMeanTTAModel(SegTTAModel):
    """TTA model that averages the class probabilities of the views one by one.

    ``SegTTAModel`` predicts the same labels, but keeps the logits of all views: 160 MB
    per view for 1024x2048 pixels and 19 classes, and the Cityscapes configs have 12
    views. The data samples that this model returns contain no logits.
    """

    module: Any  # the segmentor

    @torch.no_grad()
    def test_step(  # type: ignore[override]
        self, data: dict[str, Any]
    ) -> list[Any]:
        """Predict a batch.

        Args:
            data: ``inputs`` and ``data_samples``, each a list of views. A view is a list
                with one item per image.

        Returns:
            The data sample of each image's first view, with ``pred_sem_seg``.
        """
        views = [dict(zip(data, view)) for view in zip(*data.values())]
        merged = self.module.test_step(views[0])
        means = [_probabilities(sample) for sample in merged]
        for view in views[1:]:
            for mean, sample in zip(means, self.module.test_step(view)):
                mean += _probabilities(sample)
        for mean, sample in zip(means, merged):
            mean.div_(len(views))
            if len(mean) > 1:
                labels = mean.argmax(0, keepdim=True)
            else:
                labels = (mean > self.module.decode_head.threshold).to(mean)
            sample.pred_sem_seg = PixelData(data=labels)
        return merged


def _probabilities(sample: Any) -> Tensor:
    """Return the class probabilities of a sample and drop its logits."""
    logits = sample.seg_logits.data
    del sample.seg_logits
    # For a single class, mmseg's segmentors return the probability already.
    return logits.softmax(0) if len(logits) > 1 else logits
