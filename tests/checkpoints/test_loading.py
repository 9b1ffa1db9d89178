"""The backbone of the training is read from the text of its config."""

import pytest
from mmengine.config import Config

from mmseg_repvgg.checkpoints.loading import trained_backbone


def trained(text):
    return trained_backbone({'meta': {'cfg': text}})


@pytest.mark.parametrize(
    'name', ['pspnet_repvgg_b2_fast_cityscapes', 'pspnet_r50_cityscapes']
)
def test_config_written_by_mmengine_is_read(repo, name):
    cfg = Config.fromfile(repo / 'configs' / f'{name}.py')
    backbone = dict(cfg.model.backbone)
    # It is written as a call, so it is not a literal.
    del backbone['norm_cfg']
    assert trained(cfg.pretty_text) == backbone


def test_calls_and_literals_are_read():
    wanted = {'type': 'RepVGG', 'dilation': None}
    assert trained("model = dict(backbone=dict(type='RepVGG', dilation=None))") == wanted
    assert trained("model = {'backbone': {'type': 'RepVGG', 'dilation': None}}") == wanted
    # The last assignment counts.
    assert trained('model = dict()\nmodel = dict(backbone=dict(depth=50))') == {
        'depth': 50
    }
    assert trained('model = dict(backbone=dict(depth=50))\nmodel = dict()') == {}


def test_config_is_not_executed(tmp_path):
    file = tmp_path / 'executed'
    text = f"model = dict(backbone=dict(arch=open({str(file)!r}, 'w'), depth=18))"
    assert trained(text) == {'depth': 18}
    assert not file.exists()


@pytest.mark.parametrize(
    'checkpoint',
    [
        None,
        [],
        {},
        {'meta': None},
        {'meta': {}},
        {'meta': {'cfg': {'model': 1}}},
        {'meta': {'cfg': 'model = ('}},
        {'meta': {'cfg': 'model = 1\0'}},
        {'meta': {'cfg': 'model = ' + '(' * 10000}},
        {'meta': {'cfg': 'model = 1'}},
        {'meta': {'cfg': 'model = dict(backbone=3)'}},
        {'meta': {'cfg': 'model = dict(**{1: 2})'}},
        {'meta': {'cfg': 'other = dict(backbone=dict(depth=50))'}},
    ],
)
def test_checkpoint_without_such_a_config_gives_no_fields(checkpoint):
    assert trained_backbone(checkpoint) == {}
