"""What a checkpoint says of its training, told from the text of its config."""

import pytest
from mmengine.config import Config

from mmseg_repvgg.checkpoints.provenance import trained_backbone


def said(text):
    return trained_backbone({'meta': {'cfg': text}})


@pytest.mark.parametrize(
    'name', ['pspnet_repvgg_b2_fast_cityscapes', 'pspnet_r50_cityscapes']
)
def test_as_mmengine_writes_it(repo, name):
    cfg = Config.fromfile(repo / 'configs' / f'{name}.py')
    backbone = dict(cfg.model.backbone)
    # Written as a call, which is no plain value.
    del backbone['norm_cfg']
    assert said(cfg.pretty_text) == backbone


def test_every_way_to_write_it():
    wanted = {'type': 'RepVGG', 'dilation': None}
    assert said("model = dict(backbone=dict(type='RepVGG', dilation=None))") == wanted
    assert said("model = {'backbone': {'type': 'RepVGG', 'dilation': None}}") == wanted
    # The last one counts, as it would in a file.
    assert said('model = dict()\nmodel = dict(backbone=dict(depth=50))') == {'depth': 50}
    assert said('model = dict(backbone=dict(depth=50))\nmodel = dict()') == {}


def test_it_is_not_run(tmp_path):
    file = tmp_path / 'it_was'
    text = f"model = dict(backbone=dict(arch=open({str(file)!r}, 'w'), depth=18))"
    assert said(text) == {'depth': 18}
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
def test_what_says_nothing(checkpoint):
    assert trained_backbone(checkpoint) == {}
