"""Both forms side by side."""

import pytest
from mmengine.runner import Runner

from mmseg_repvgg.analysis.forms import compare_forms
from mmseg_repvgg.reparam import RepConv


@pytest.fixture
def runner(street_config):
    return Runner.from_cfg(street_config)


def test_forms_agree(runner, randomize_norms):
    randomize_norms(runner.model)
    seen = []
    result = compare_forms(
        runner.model,
        runner.build_dataloader(runner.cfg.test_dataloader),
        lambda index, sample, inputs: seen.append((index, sample.pred_sem_seg.shape)),
    )
    assert seen == [(i, (64, 128)) for i in range(3)]
    assert 0 < result.difference.logit_difference < 1e-5
    assert result.difference.label_disagreement < 1e-4
    assert result.trained['mIoU'] == pytest.approx(result.fused['mIoU'], abs=0.05)
    assert result.fused_seconds > 0
    # The model given is still the training form.
    assert any(isinstance(m, RepConv) for m in runner.model.modules())


def test_a_wrong_fusion_shows(runner, monkeypatch, randomize_norms):
    fuse = RepConv.fuse

    def wrong(self):
        conv = fuse(self)
        conv.bias.data.mul_(0.5)
        return conv

    monkeypatch.setattr(RepConv, 'fuse', wrong)
    randomize_norms(runner.model)
    loader = runner.build_dataloader(runner.cfg.test_dataloader)
    assert compare_forms(runner.model, loader).difference.logit_difference > 0.01


def test_ignored_pixels_do_not_count(runner):
    loader = runner.build_dataloader(runner.cfg.test_dataloader)
    counted = compare_forms(runner.model, loader).fused
    ignored = compare_forms(runner.model, loader, ignore_index=0).fused
    assert counted['aAcc'] != ignored['aAcc']
