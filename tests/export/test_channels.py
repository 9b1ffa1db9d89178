"""Channels of a fused backbone are removed, and those that stay make up for them."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS
from torch import nn

from mmseg_repvgg import deploy
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.export.channels import remove_channels

pytest.importorskip('torch_pruning', reason="needs pip install -e '.[prune]'")

IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net(trained):
    """A fused segmentor with norms as after a training."""
    return deploy(load_model(Config.fromfile(trained[0]), trained[1]))


def convs(net):
    return [m for m in net.backbone.modules() if isinstance(m, nn.Conv2d)]


def error(net, smaller, *_):
    """Mean squared error of the logits, relative to their mean square."""
    with torch.no_grad():
        wanted, found = (n(IMAGES, mode='tensor') for n in (net, smaller))
    return float((found - wanted).square().mean() / wanted.square().mean())


def smaller(net, share):
    """Return a pruned copy, and the channels of all layers before and after."""
    net = copy.deepcopy(net)
    before, after = remove_channels(net, IMAGES.split(2), share)
    return net, sum(before, []), sum(after, [])


def test_share_is_removed_from_convs_and_readers(net):
    small, before, after = smaller(net, 0.25)
    assert 0.25 <= 1 - sum(after) / sum(before) < 0.25 + 8 / sum(before)
    assert all(width % 8 == 0 and width >= 0.2 * old for width, old in zip(after, before))
    assert [conv.out_channels for conv in convs(net)] == before
    assert [conv.out_channels for conv in convs(small)] == after
    assert [conv.in_channels for conv in convs(small)] == [3, *after[:-1]]
    assert small.auxiliary_head.convs[0].conv.in_channels == after[-2]


def test_channels_that_others_tell_are_removed_without_loss(net):
    with torch.no_grad():
        for conv in convs(net):
            # Each pair of channels is one channel, in two sizes.
            conv.weight[1::2] = 2 * conv.weight[::2]
            conv.bias[1::2] = 2 * conv.bias[::2]
    assert error(net, *smaller(net, 0.45)) < 1e-3


def test_compensation_is_better_than_none(net, monkeypatch):
    compensated = error(net, *smaller(net, 0.2))
    monkeypatch.setattr('mmseg_repvgg.export.channels._Layer.compensate', lambda *_: None)
    assert compensated < 0.7 * error(net, *smaller(net, 0.2))


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'backbone.arch.groups': 2}, 'convolutions of 2 groups'),
        ({'backbone.arch.se': True}, 'squeeze-and-excitation'),
        ({'backbone.block': 'relu_in_branches'}, 'ReLU'),
        (
            {
                'backbone.arch.depths': (2, 2, 2, 1),
                'backbone.residual': True,
            },
            'shortcuts',
        ),
        (
            {
                'decode_head.type': 'DepthwiseSeparableASPPHead',
                'decode_head.c1_in_channels': 0,
                'decode_head.c1_channels': 0,
            },
            'plain convolutions that read the backbone, but got decode_head',
        ),
    ],
)
@pytest.mark.filterwarnings('ignore:.*stay in the training form')
def test_other_networks_are_refused(trained, changes, says):
    cfg = Config.fromfile(trained[0])
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    cfg.model.decode_head.norm_cfg.type = cfg.model.auxiliary_head.norm_cfg.type = 'BN'
    if 'Depthwise' in cfg.model.decode_head.type:
        cfg.model.decode_head.pop('pool_scales')
    net = deploy(MODELS.build(cfg.model).eval())
    with pytest.raises(ConfigError, match=says):
        remove_channels(net, [IMAGES], 0.3)
