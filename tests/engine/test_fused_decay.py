"""Weight decay on fused kernels, against the authors' penalty and autograd."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from mmseg_repvgg import RepVGG
from mmseg_repvgg.engine.fused_decay import decay_gradients
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.reparam import RepConv

TINY = dict(depths=(1, 2, 2, 1), a=0.125, b=0.125, groups=2)
SGD = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.05)
ADAMW = dict(type='AdamW', lr=0.01, weight_decay=0.05)


def build(model, optimizer, **paramwise):
    cfg = dict(
        type='OptimWrapper',
        optimizer=optimizer,
        constructor='FusedDecayConstructor',
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, cfg).optimizer


def slots(model):
    return [m for m in model.modules() if isinstance(m, RepConv)]


def factor(norm):
    return (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()[:, None, None]


def repvgg_penalty(block):
    """The penalty of RepVGG's block: outer taps as ever, the centre as one kernel."""
    three, one = block.branch_3x3, block.branch_1x1
    kernel, centre = three.conv.weight, three.conv.weight[..., 1, 1]
    t3, t1 = factor(three.bn)[..., 0], factor(one.bn)[..., 0]
    fused = t3 * centre + t1 * one.conv.weight[..., 0, 0]
    outer = kernel.square().sum() - centre.square().sum()
    return outer + (fused.square() / (t3.square() + t1.square())).sum()


def three_kernel_penalty(block):
    """The penalty of 3x3-bn + 1x3-bn-scale + 1x1: sums over the branches with a tap."""
    three, row, one = block.branch_3x3, block.branch_1x3, block.branch_1x1
    t3, t1 = factor(three.bn)[..., None], 1
    tr = factor(row.bn)[..., None] * row.scale.weight.detach().view(-1, 1, 1, 1)
    sums = (
        t3 * three.conv.weight
        + F.pad(tr * row.conv.weight, [0, 0, 1, 1])
        + F.pad(t1 * one.weight, [1] * 4)
    )
    squares = torch.zeros_like(sums)
    squares += t3**2
    squares[:, :, 1:2] += tr**2
    squares[:, :, 1:2, 1:2] += t1
    return (sums.square() / squares).sum()


@pytest.mark.parametrize(
    ('formula', 'penalty'),
    [
        ('repvgg', repvgg_penalty),
        ('3x3-bn + 1x3-bn-scale + 1x1 + identity', three_kernel_penalty),
        ('(3x3-bn + 1x3-bn-scale + 1x1)-bn', three_kernel_penalty),
    ],
)
def test_gradients_are_those_of_half_the_penalty(formula, penalty, randomize_norms):
    block = RepConv(8, 8, groups=2, identity=True, block=formula).double()
    randomize_norms(block)
    for name, parameter in block.named_parameters():
        if '.scale.' in name:
            nn.init.uniform_(parameter, 0.4, 1.5)
    kernels = [m.weight for m in block.modules() if isinstance(m, nn.Conv2d)]
    expected = torch.autograd.grad(penalty(block) / 2, kernels)
    pairs = decay_gradients(block)
    assert len(pairs) == len(kernels)
    for kernel, gradient, (found_kernel, found) in zip(kernels, expected, pairs):
        assert found_kernel is kernel
        assert_close(found, gradient, rtol=1e-12, atol=1e-12)


def nets(randomize_norms):
    ours = randomize_norms(RepVGG(TINY, dilation=None)).double()
    theirs = RepVGG(TINY, dilation=None).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def loss(model, x):
    return sum(y.square().mean() + y.mean() for y in model(x))


def assert_same_parameters(ours, theirs):
    for (name, found), other in zip(ours.named_parameters(), theirs.parameters()):
        assert_close(found, other, rtol=1e-10, atol=1e-12, msg=name)


def plain_groups(model, decay):
    """The authors' groups: the identity scale alone is decayed by the optimizer."""
    named = list(model.named_parameters())
    decayed = [p for name, p in named if name.endswith('branch_identity.weight')]
    assert len(decayed) == 2
    others = [p for name, p in named if not name.endswith('branch_identity.weight')]
    return [dict(params=decayed, weight_decay=decay), dict(params=others, weight_decay=0)]


def test_sgd_minimises_loss_and_penalty(randomize_norms):
    ours, theirs = nets(randomize_norms)
    optimizer = build(ours, SGD)
    reference = torch.optim.SGD(plain_groups(theirs, 0.05), lr=0.01, momentum=0.9)
    for _ in range(5):
        x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
        optimizer.zero_grad()
        loss(ours, x).backward()
        optimizer.step()
        reference.zero_grad()
        total = loss(theirs, x)
        (total + 0.05 / 2 * sum(map(repvgg_penalty, slots(theirs)))).backward()
        reference.step()
    assert_same_parameters(ours, theirs)


def test_decay_of_adamw_is_decoupled(randomize_norms):
    ours, theirs = nets(randomize_norms)
    optimizer = build(ours, ADAMW)
    reference = torch.optim.AdamW(plain_groups(theirs, 0.05), lr=0.01)
    for _ in range(3):
        x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
        optimizer.zero_grad()
        loss(ours, x).backward()
        optimizer.step()
        reference.zero_grad()
        loss(theirs, x).backward()
        convs = [m.weight for m in theirs.modules() if isinstance(m, nn.Conv2d)]
        penalty = sum(map(repvgg_penalty, slots(theirs))) / 2
        with torch.no_grad():
            for kernel, gradient in zip(convs, torch.autograd.grad(penalty, convs)):
                kernel -= 0.01 * 0.05 * gradient
        reference.step()
    assert_same_parameters(ours, theirs)


def test_heads_and_multipliers_stay_as_configured():
    model = nn.ModuleDict(dict(backbone=RepVGG(TINY), head=nn.Conv2d(64, 3, 1)))
    rates = dict(backbone=dict(lr_mult=0.1, decay_mult=0.5))
    optimizer = build(model, SGD, custom_keys=rates)
    settings = {
        parameter: (group['lr'], group['weight_decay'], group.get('fused_decay'))
        for group in optimizer.param_groups
        for parameter in group['params']
    }
    assert settings.keys() == set(model.parameters())
    head, block = model['head'], model['backbone'].stage_2[1].conv
    lr = SGD['lr'] * 0.1
    assert settings[head.weight] == settings[head.bias] == (0.01, 0.05, None)
    assert settings[block.branch_3x3.conv.weight] == (lr, 0, 0.025)
    assert settings[block.branch_1x1.conv.weight] == (lr, 0, 0.025)
    assert settings[block.branch_1x1.bn.weight] == (lr, 0, None)
    assert settings[block.branch_identity.weight] == (lr, 0.025, None)
    assert settings[block.branch_identity.bias] == (lr, 0, None)


def test_frozen_stages_keep_their_kernels():
    model = RepVGG(TINY, dilation=None, frozen_stages=1)
    optimizer = build(model, SGD)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loss(model, torch.randn(2, 3, 40, 40)).backward()
    optimizer.step()
    for key, value in model.state_dict().items():
        frozen = key.startswith(('stem', 'stage_1'))
        if key.endswith('conv.weight'):
            assert torch.equal(value, before[key]) == frozen, key


@pytest.mark.parametrize(
    ('changes', 'optimizer', 'says'),
    [
        ({}, dict(type='Adam'), 'SGD or AdamW, but got Adam$'),
        (dict(deploy=True), SGD, 'but got no block'),
        (dict(block='relu_in_branches'), SGD, r'but got RepConv\('),
        (dict(block='dirac'), SGD, r'but got RepConv\('),
    ],
)
def test_other_optimizers_and_blocks_are_refused(changes, optimizer, says):
    with pytest.raises(ConfigError, match=says):
        build(RepVGG(TINY, **changes), optimizer)


def test_training_by_a_config_is_resumed_exactly(street_config, one_thread):
    cfg = street_config
    cfg.model.backbone.update(arch=TINY)
    cfg.model.decode_head.update(in_channels=64, channels=16)
    cfg.model.auxiliary_head.update(in_channels=32, channels=16)
    cfg.optim_wrapper.update(
        type='AutocastOptimWrapper', dtype='float32', constructor='FusedDecayConstructor'
    )
    whole = Runner.from_cfg(cfg)
    whole.train()
    assert all(p.isfinite().all() for p in whole.model.parameters())
    cfg.load_from, cfg.resume = f'{cfg.work_dir}/iter_2.pth', True
    resumed = Runner.from_cfg(cfg)
    resumed.train()
    groups = resumed.optim_wrapper.optimizer.param_groups
    assert [g['fused_decay'] for g in groups if 'fused_decay' in g] == [0.01]
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[key]), key
