"""The limits of docs/export.md, from both sides."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmseg_repvgg import deploy
from mmseg_repvgg.errors import ExportError
from mmseg_repvgg.export.verify import smooth_noise, verify

SIZE = (100, 100)


class Off:
    """A file whose one logit, or whose first labels, are wrong by so much."""

    path = Path('x.onnx')

    def __init__(self, model, output, wrong):
        self.model, self.wrong = model, wrong
        self.metadata = SimpleNamespace(output=output, normalize=False)

    @torch.inference_mode()
    def __call__(self, images):
        meta = dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE)
        logits = self.model.whole_inference(torch.from_numpy(images), [meta])
        if self.metadata.output == 'labels':
            labels = logits.argmax(1)
            labels.view(-1)[: self.wrong] += 1
            return labels.numpy()
        # The least of a pixel: its label stays.
        logits[0, logits[0, :, 0, 0].argmin(), 0, 0] -= self.wrong * logits.abs().max()
        return logits.numpy()


@pytest.mark.parametrize(
    ('output', 'within', 'beyond'), [('logits', 0.9e-4, 1.1e-4), ('labels', 1, 2)]
)
def test_the_limits_are_those_that_are_said(model, output, within, beyond):
    fused = deploy(model)
    verify(Off(fused, output, within), fused, [smooth_noise(1, *SIZE)])
    with pytest.raises(ExportError):
        verify(Off(fused, output, beyond), fused, [smooth_noise(1, *SIZE)])
