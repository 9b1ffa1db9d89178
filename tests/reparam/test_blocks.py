"""The training block and what it fuses to, over every geometry."""

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from mmseg_repvgg.reparam import (
    BLOCKS,
    RepConv,
    RepVGGBlock,
    ResidualBlock,
    SqueezeExcite,
    deploy,
)
from mmseg_repvgg.reparam.branches import ChannelScale, DiracConv2d

MATRIX = [
    case
    for case in itertools.product(
        [False, True],  # identity
        [1, 2],  # stride
        [1, 2, 4],  # dilation
        [1, 2, 4],  # groups
        [False, True],  # SE
        [nn.BatchNorm2d, nn.SyncBatchNorm],
    )
    if not (case[0] and case[1] == 2)  # an identity has no stride
]


@pytest.mark.parametrize(
    ('identity', 'stride', 'dilation', 'groups', 'se', 'norm'), MATRIX
)
def test_fused_block_equals_training_block(
    randomize_norms, identity, stride, dilation, groups, se, norm
):
    out = 16 if identity else 32
    rep = RepConv(16, out, stride, dilation, groups, identity=identity, norm=norm)
    gate = SqueezeExcite(out) if se else None
    block = randomize_norms(RepVGGBlock(rep, gate)).double().eval()
    x = torch.randn(2, 16, 13, 10, dtype=torch.float64)
    with torch.no_grad():
        expected = block(x)
        block.conv = rep.fuse()
        actual = block(x)
    assert type(block.conv) is nn.Conv2d
    assert actual.shape == (2, out, -(-13 // stride), -(-10 // stride))
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert expected.abs().max() > 0.1


def test_training_form_is_the_sum_of_its_branches(randomize_norms):
    # Written out once by hand, so that a branch lost on both paths would show.
    rep = randomize_norms(RepConv(8, 8, dilation=2, identity=True)).eval()
    x = torch.randn(1, 8, 7, 7)
    three, one, same = rep.branch_3x3, rep.branch_1x1, rep.branch_identity
    expected = three.bn(three.conv(x)) + one.bn(one.conv(x)) + same(x)
    assert_close(rep(x), expected)
    assert three.conv.dilation == (2, 2)
    assert one.conv.padding == (0, 0)


def test_se_is_between_sum_and_activation(randomize_norms):
    block = randomize_norms(RepVGGBlock(RepConv(16, 16), SqueezeExcite(16))).eval()
    x = torch.randn(2, 16, 5, 5)
    assert_close(block(x), block.se(block.conv(x)).relu())
    assert (block.se(block.conv(x)) < 0).any()


def test_fuse_leaves_the_training_form_and_the_random_state_alone(randomize_norms):
    rep = randomize_norms(RepConv(8, 8, identity=True)).train()
    before = {key: value.clone() for key, value in rep.state_dict().items()}
    random_state = torch.get_rng_state()
    fused = rep.fuse()
    assert torch.equal(random_state, torch.get_rng_state())
    assert rep.training
    for key, value in rep.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_fuse_uses_running_statistics_in_training_mode_too(randomize_norms):
    rep = randomize_norms(RepConv(8, 8, identity=True))
    x = torch.randn(2, 8, 6, 6)
    trained = rep.train().fuse()
    assert_close(trained(x), rep.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
def test_fuse_keeps_the_dtype(dtype):
    fused = RepConv(4, 4).to(dtype).fuse()
    assert fused.weight.dtype == fused.bias.dtype == dtype


def test_fuse_copies_geometry_from_the_live_conv():
    rep = RepConv(4, 4)
    rep.branch_3x3.conv.padding_mode = 'reflect'
    assert rep.fuse().padding_mode == 'reflect'


def test_identity_branch_needs_equal_shapes():
    with pytest.raises(ValueError, match='4 -> 8 channels, stride 1'):
        RepConv(4, 8, identity=True)
    with pytest.raises(ValueError, match='stride 2'):
        RepConv(4, 4, stride=2, identity=True)


def test_norm_without_running_statistics_cannot_be_fused():
    rep = RepConv(4, 4, norm=lambda c: nn.BatchNorm2d(c, track_running_stats=False))
    with pytest.raises(ValueError, match='running statistics'):
        rep.fuse()


# Other blocks -----------------------------------------------------------------------


@pytest.fixture
def randomize(randomize_norms):
    def randomize(model):
        for module in model.modules():
            if isinstance(module, ChannelScale):
                nn.init.uniform_(module.weight, 0.3, 1.5)
            if isinstance(module, DiracConv2d):
                nn.init.normal_(module.alpha)
                nn.init.normal_(module.beta)
        return randomize_norms(model).double().eval()

    return randomize


def conv(x, weight):
    return F.conv2d(x, weight, padding=[size // 2 for size in weight.shape[2:]])


# Each written out by hand, for blocks with as many output as input channels.
SUMS = {
    'repvgg': lambda b, x: (
        b.branch_3x3.bn(conv(x, b.branch_3x3.conv.weight))
        + b.branch_1x1.bn(conv(x, b.branch_1x1.conv.weight))
        + b.branch_identity(x)
    ),
    'plain': lambda b, x: b.branch_3x3.bn(conv(x, b.branch_3x3.conv.weight)),
    'no_identity': lambda b, x: (
        b.branch_3x3.bn(conv(x, b.branch_3x3.conv.weight))
        + b.branch_1x1.bn(conv(x, b.branch_1x1.conv.weight))
    ),
    'no_1x1': lambda b, x: (
        b.branch_3x3.bn(conv(x, b.branch_3x3.conv.weight)) + b.branch_identity(x)
    ),
    'identity_without_bn': lambda b, x: (
        b.branch_3x3.bn(conv(x, b.branch_3x3.conv.weight))
        + b.branch_1x1.bn(conv(x, b.branch_1x1.conv.weight))
        + x
    ),
    'post_bn': lambda b, x: b.bn(
        conv(x, b.branch_3x3.weight) + conv(x, b.branch_1x1.weight) + x
    ),
    'relu_in_branches': lambda b, x: (
        b.branch_3x3.bn(conv(x, b.branch_3x3.conv.weight)).relu()
        + b.branch_1x1.bn(conv(x, b.branch_1x1.conv.weight)).relu()
        + b.branch_identity.bn(x).relu()
    ),
    'dirac': lambda b, x: b.branch_dirac.bn(
        b.branch_dirac.conv.alpha.view(-1, 1, 1) * x
        + b.branch_dirac.conv.beta.view(-1, 1, 1)
        * conv(
            x,
            b.branch_dirac.conv.weight
            / b.branch_dirac.conv.weight.square().sum((1, 2, 3), keepdim=True).sqrt(),
        )
    ),
    # I + W, as Table 7 has it.
    'trivial': lambda b, x: b.bn(
        conv(x, b.branch_3x3.weight + nn.init.dirac_(torch.empty(8, 8, 3, 3).double()))
    ),
    'acb': lambda b, x: (
        b.branch_3x3.bn(conv(x, b.branch_3x3.conv.weight))
        + b.branch_1x3.bn(conv(x, b.branch_1x3.conv.weight))
        + b.branch_3x1.bn(conv(x, b.branch_3x1.conv.weight))
    ),
    'qarepvgg': lambda b, x: b.bn(
        b.branch_3x3.bn(conv(x, b.branch_3x3.conv.weight))
        + conv(x, b.branch_1x1.weight)
        + x
    ),
    'mobileone': lambda b, x: (
        b.branch_3x3.bn(conv(x, b.branch_3x3.conv.weight))
        + b.branch_3x3_2.bn(conv(x, b.branch_3x3_2.conv.weight))
        + b.branch_3x3_3.bn(conv(x, b.branch_3x3_3.conv.weight))
        + b.branch_3x3_4.bn(conv(x, b.branch_3x3_4.conv.weight))
        + b.branch_1x1.bn(conv(x, b.branch_1x1.conv.weight))
        + b.branch_identity(x)
    ),
    'csla': lambda b, x: b.bn(
        b.branch_3x3.scale.weight.view(-1, 1, 1) * conv(x, b.branch_3x3.conv.weight)
        + b.branch_1x1.scale.weight.view(-1, 1, 1) * conv(x, b.branch_1x1.conv.weight)
        + b.branch_identity.weight.view(-1, 1, 1) * x
    ),
}


def test_every_block_is_written_out():
    assert SUMS.keys() == BLOCKS.keys()


@pytest.mark.parametrize('block', BLOCKS)
def test_training_form_computes_its_formula(randomize, block):
    rep = randomize(RepConv(8, 8, identity=True, block=block))
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    assert_close(rep(x), SUMS[block](rep, x), rtol=1e-10, atol=1e-10)


# The parameters of a block of c channels: c * c for each tap, c for each vector.
COUNTS = {
    'repvgg': (10, 6),
    'plain': (9, 2),
    'no_identity': (10, 4),
    'no_1x1': (9, 4),
    'identity_without_bn': (10, 4),
    'post_bn': (10, 2),
    'relu_in_branches': (10, 6),
    'dirac': (9, 4),
    'trivial': (9, 2),
    'acb': (15, 6),
    'qarepvgg': (10, 4),
    'mobileone': (37, 12),
    'csla': (10, 5),
}


@pytest.mark.parametrize('block', BLOCKS)
def test_parameters_are_those_counted_by_hand(block):
    rep = RepConv(12, 12, identity=True, block=block)
    taps, vectors = COUNTS[block]
    assert sum(p.numel() for p in rep.parameters()) == taps * 12 * 12 + vectors * 12


FUSING = [block for block in BLOCKS if block not in ('repvgg', 'relu_in_branches')]
GEOMETRIES = [(8, 1, 1, True), (8, 1, 2, False), (16, 2, 1, False), (8, 1, 4, True)]


@pytest.mark.parametrize(('out', 'stride', 'dilation', 'identity'), GEOMETRIES)
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('block', FUSING)
def test_fused_form_of_other_blocks_equals_training_form(
    randomize, block, groups, out, stride, dilation, identity
):
    rep = randomize(
        RepConv(8, out, stride, dilation, groups, identity=identity, block=block)
    )
    x = torch.randn(2, 8, 13, 10, dtype=torch.float64)
    with torch.no_grad():
        expected, actual = rep(x), deploy(rep)(x)
    assert actual.shape == (2, out, -(-13 // stride), -(-10 // stride))
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert expected.abs().max() > 0.1


def test_relu_in_branches_is_left_and_said_once(randomize):
    net = nn.Sequential(
        *(RepVGGBlock(RepConv(8, 8, block='relu_in_branches')) for _ in range(2)),
        RepVGGBlock(RepConv(8, 8)),
    )
    randomize(net).train()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        deployed = deploy(net)
    assert [str(each.message).partition(',')[0] for each in caught] == [
        '2 blocks stay in the training form'
    ]
    assert type(deployed[0].conv) is RepConv
    assert type(deployed[2].conv) is nn.Conv2d
    assert not any(module.training for module in deployed.modules())
    assert net[0].conv.training
    x = torch.randn(1, 8, 5, 5, dtype=torch.float64)
    assert_close(deployed(x), net.eval()(x), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r'cannot fuse branch_3x3\.relu'):
        net[0].conv.fuse()


def test_residual_block_adds_its_shortcut_before_the_relu(randomize):
    shortcut = RepConv(8, 16, 2, block='1x1-bn')
    first = RepVGGBlock(RepConv(8, 16, 2, block='plain'))
    second = RepVGGBlock(RepConv(16, 16, block='plain'))
    block = randomize(ResidualBlock(first, second, shortcut))
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64)
    one = block.shortcut.branch_1x1
    short = one.bn(F.conv2d(x, one.conv.weight, stride=2))
    expected = (block.second.conv(block.first.conv(x).relu()) + short).relu()
    assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
    assert (short + block.second(block.first(x)) < 0).any()
    fused = deploy(block)
    assert fused.shortcut.kernel_size == (1, 1)
    assert_close(fused(x), expected, rtol=1e-10, atol=1e-10)
