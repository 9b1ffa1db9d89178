"""The training block and what it fuses to, over every geometry."""

import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mmseg_repvgg.reparam import RepConv, RepVGGBlock, SqueezeExcite

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
