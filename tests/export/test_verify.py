from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmseg_repvgg import deploy
from mmseg_repvgg.errors import ExportError
from mmseg_repvgg.export.verify import smooth_noise, verify

SIZE = (100, 100)


def test_noise_is_smooth_and_always_the_same():
    image = smooth_noise(2, 64, 96)
    assert image.shape == (2, 3, 64, 96)
    assert np.array_equal(image, smooth_noise(2, 64, 96))
    assert image.min() < 30 < 225 < image.max()
    steps = np.abs(np.diff(image.astype(int)))
    assert steps.max() <= 255 / 16 + 1
    assert smooth_noise(1, 1, 1).shape == (1, 3, 1, 1)


class InexactBackend:
    """File in which one logit, or some labels, are off by a given amount."""

    path = Path('x.onnx')

    def __init__(self, model, output, error, precision='highest'):
        self.model, self.error = model, error
        self.metadata = SimpleNamespace(
            output=output, normalize=False, precision=precision
        )

    @torch.inference_mode()
    def __call__(self, images):
        meta = dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE)
        logits = self.model.whole_inference(torch.from_numpy(images), [meta])
        if self.metadata.output == 'labels':
            labels = logits.argmax(1)
            labels.view(-1)[: self.error] += 1
            return labels.numpy()
        # Lowering the least logit of a pixel keeps its label.
        logits[0, logits[0, :, 0, 0].argmin(), 0, 0] -= self.error * logits.abs().max()
        return logits.numpy()


@pytest.mark.parametrize(
    ('output', 'precision', 'within', 'beyond'),
    [
        ('logits', 'highest', 0.9e-4, 1.1e-4),
        ('labels', 'highest', 1, 2),
        ('logits', 'medium', 4.9e-2, 5.1e-2),
    ],
)
def test_tolerance_is_the_documented_one(model, output, precision, within, beyond):
    fused, batches = deploy(model), [smooth_noise(1, *SIZE)]
    verify(InexactBackend(fused, output, within, precision), fused, batches)
    with pytest.raises(ExportError):
        verify(InexactBackend(fused, output, beyond, precision), fused, batches)
