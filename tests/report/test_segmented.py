"""Images go through both forms of a real segmentor."""

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_repvgg import deploy
from mmseg_repvgg.errors import DataError
from mmseg_repvgg.models.wrappers import predict
from mmseg_repvgg.reparam import RepConv
from mmseg_repvgg.report.segmented import _confidence, segment_both_forms


@pytest.fixture
def runner(trained, street_config):
    config, checkpoint = trained
    cfg = type(street_config).fromfile(config)
    cfg.test_dataloader.batch_size = 2
    cfg.update(work_dir=street_config.work_dir, load_from=checkpoint)
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    return runner


def test_predictions_are_those_of_the_fused_form(runner):
    images = list(segment_both_forms(runner.model, runner.test_dataloader))
    fused = deploy(runner.model)
    samples = [s for batch in runner.test_dataloader for s in predict(fused, batch)]
    assert len(images) == len(samples) == 3
    for image, sample in zip(images, samples):
        logits = sample.seg_logits.data.double()
        assert image.path == sample.img_path
        assert image.image.shape == (64, 128, 3)
        assert np.array_equal(image.labels, logits.argmax(0))
        assert np.array_equal(image.truth, sample.gt_sem_seg.data[0])
        confidence = logits.softmax(0).amax(0).numpy()
        assert image.confidence == pytest.approx(confidence, rel=1e-4)
        assert 0 < image.forms.logits < 1e-5
        assert image.forms.labels.mean() < 1e-3
    assert any(isinstance(module, RepConv) for module in runner.model.modules())


def test_a_wrong_fusion_shows(runner, monkeypatch):
    fuse = RepConv.fuse

    def wrong(self):
        conv = fuse(self)
        conv.bias.data.mul_(0.5)
        return conv

    monkeypatch.setattr(RepConv, 'fuse', wrong)
    image = next(segment_both_forms(runner.model, runner.test_dataloader))
    assert image.forms.logits > 0.01
    assert image.forms.labels.any()


def test_fused_model_has_a_single_form(runner):
    image = next(segment_both_forms(deploy(runner.model), runner.test_dataloader))
    assert image.forms is None


def test_images_without_truth_are_an_error(runner):
    pipeline = runner.test_dataloader.dataset.pipeline.transforms
    pipeline[:] = [step for step in pipeline if 'Annotations' not in type(step).__name__]
    with pytest.raises(DataError, match=r'png has no truth: .*LoadAnnotations'):
        next(segment_both_forms(runner.model, runner.test_dataloader))


def test_confidence_of_a_binary_head():
    # mmseg has applied the sigmoid, and stores labels as floats.
    probabilities = torch.tensor([[[0.9, 0.2]]])
    sample = SegDataSample(
        seg_logits=PixelData(data=probabilities),
        pred_sem_seg=PixelData(data=(probabilities > 0.3).float()),
    )
    assert _confidence(sample).numpy() == pytest.approx(np.array([[0.9, 0.8]]))
