"""RepOptimizer: a plain net trained as the net of constant-scale branches that it is."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from mmseg_repvgg import RepVGG
from mmseg_repvgg.errors import CheckpointError, ConfigError
from mmseg_repvgg.reparam import RepConv

TINY = dict(depths=(1, 2, 2, 1), a=0.125, b=0.125, groups=2)
SGD = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.05, nesterov=True)
# A small eps: AdamW adds it to a gradient of each branch, but only once to the sum's.
ADAMW = dict(type='AdamW', lr=1e-3, weight_decay=0.05, eps=1e-30)


def build(model, optimizer, **paramwise):
    cfg = dict(
        type='OptimWrapper',
        optimizer=optimizer,
        constructor='RepOptimizerConstructor',
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, cfg)


def slots(model):
    return [m for m in model.modules() if isinstance(m, RepConv)]


@pytest.fixture
def scaled(tmp_path):
    """A csla net with random scales, and the file of it."""
    net = RepVGG(TINY, dilation=None, block='csla')
    for name, parameter in net.named_parameters():
        if 'scale' in name:
            nn.init.uniform_(parameter, 0.4, 1.5)
    path = tmp_path / 'csla.pth'
    state = {f'backbone.{key}': value for key, value in net.state_dict().items()}
    torch.save({'state_dict': state}, path)
    return net, str(path)


def kernel(rep):
    """The 3x3 kernel of a csla block's branches, before its batch norm."""
    three, one = rep.branch_3x3, rep.branch_1x1
    total = three.scale.weight.view(-1, 1, 1, 1) * three.conv.weight + F.pad(
        one.scale.weight.view(-1, 1, 1, 1) * one.conv.weight, [1] * 4
    )
    if 'branch_identity' in rep.branches:
        # Output channel i reads channel i of its group.
        width, rows = three.conv.weight.shape[1], range(len(total))
        total = total.clone()
        total[rows, [i % width for i in rows], 1, 1] += rep.branch_identity.weight
    return total


@torch.no_grad()
def begin_as(plain, scaled):
    """Change the 3x3 convs of the csla net so that both nets compute the same."""
    for ours, theirs in zip(slots(plain), slots(scaled)):
        three = theirs.branch_3x3
        missing = ours.branch_3x3.conv.weight - kernel(theirs)
        three.conv.weight += missing / three.scale.weight.view(-1, 1, 1, 1)


def step(model, x, optimizer):
    optimizer.zero_grad()
    sum(y.square().mean() + y.mean() for y in model(x)).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ('optimizer', 'tolerance'), [(SGD, 1e-10), (ADAMW, 1e-8)], ids=['SGD', 'AdamW']
)
def test_20_steps_are_those_of_the_constant_scale_net(scaled, optimizer, tolerance):
    net, path = scaled
    plain = RepVGG(TINY, dilation=None, block='plain').double()
    wrapper = build(plain, optimizer, scales=path)
    before = slots(plain)[1].branch_3x3.conv.weight.detach().clone()
    net.double()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_('scale' not in name)
    begin_as(plain, net)
    fields = {key: value for key, value in optimizer.items() if key != 'type'}
    trained = [p for p in net.parameters() if p.requires_grad]
    theirs = getattr(torch.optim, optimizer['type'])(trained, **fields)
    for _ in range(20):
        x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
        step(net, x, theirs)
        step(plain, x, wrapper.optimizer)
    for ours, other in zip(slots(plain), slots(net)):
        found = ours.branch_3x3.conv.weight
        assert_close(found, kernel(other), rtol=tolerance, atol=tolerance)
    assert (slots(plain)[1].branch_3x3.conv.weight - before).abs().max() > 1e-3


def test_kernels_begin_as_the_sum_of_the_branches(scaled):
    net, path = scaled
    torch.manual_seed(5)
    drawn = RepVGG(TINY, dilation=None, block='plain')
    drawn.init_weights()
    torch.manual_seed(5)
    plain = RepVGG(TINY, dilation=None, block='plain')
    build(plain, SGD, scales=path)
    for ours, first, theirs in zip(slots(plain), slots(drawn), slots(net)):
        factor = theirs.branch_3x3.scale.weight.view(-1, 1, 1, 1)
        found, corner = ours.branch_3x3.conv.weight, first.branch_3x3.conv.weight * factor
        assert_close(found[..., 0, :], corner[..., 0, :])
        assert not torch.equal(found[..., 1, 1], corner[..., 1, 1])
    # The Runner initializes again, which changes nothing.
    kept = slots(plain)[0].branch_3x3.conv.weight.clone()
    plain.init_weights()
    assert torch.equal(kept, slots(plain)[0].branch_3x3.conv.weight)


def test_kernels_of_a_checkpoint_are_kept(tmp_path):
    source = RepVGG(TINY, dilation=None, block='plain')
    torch.save(source.state_dict(), tmp_path / 'plain.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'plain.pth'))
    plain = RepVGG(TINY, dilation=None, block='plain', init_cfg=init)
    build(plain, SGD)
    for key, value in source.state_dict().items():
        assert torch.equal(plain.state_dict()[key], value), key


def test_scales_of_another_arch_are_refused(scaled):
    other = RepVGG(dict(TINY, b=0.25), dilation=None, block='plain')
    with pytest.raises(CheckpointError, match=r'csla\.pth: .*another arch'):
        build(other, SGD, scales=scaled[1])


def test_other_blocks_and_optimizers_are_refused():
    with pytest.raises(ConfigError, match=r"block='plain', but .* \['repvgg'\]"):
        build(RepVGG(TINY), SGD)
    with pytest.raises(ConfigError, match='SGD or AdamW, but got Adam$'):
        build(RepVGG(TINY, block='plain'), dict(type='Adam'))


def test_training_by_a_config(street_config):
    """A real Runner, with the schedule of the config and mixed precision."""
    cfg = street_config
    cfg.model.backbone.update(arch=TINY, block='plain')
    cfg.model.decode_head.update(in_channels=64, channels=16)
    cfg.model.auxiliary_head.update(in_channels=32, channels=16)
    cfg.optim_wrapper.update(
        type='AutocastOptimWrapper', constructor='RepOptimizerConstructor'
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 4
    assert all(p.isfinite().all() for p in runner.model.parameters())
