"""Branches: how they are named, and the dtype in which they are fused."""

import pytest
import torch
from torch import nn

from mmseg_repvgg.reparam import RepConv
from mmseg_repvgg.reparam.branches import build_conv


@pytest.mark.parametrize(
    ('kernel', 'padding', 'dilation'),
    [
        ((3, 3), (2, 2), (2, 2)),
        ((1, 3), (0, 2), (1, 2)),
        ((3, 1), (2, 0), (2, 1)),
        ((1, 1), (0, 0), (1, 1)),
    ],
)
def test_only_axes_with_taps_are_padded_and_dilated(kernel, padding, dilation):
    conv = build_conv(kernel, 2, 2, dilation=2)
    assert (conv.padding, conv.dilation) == (padding, dilation)
    assert conv(torch.ones(1, 2, 7, 6)).shape == (1, 2, 7, 6)


def test_branch_of_one_layer_is_that_layer_and_repeated_ones_are_numbered():
    block = '(3x3-bn + 3x3-bn + 1x1 + identity)-bn'
    rep = RepConv(4, 4, identity=True, block=block)
    assert list(rep.branches) == [
        'branch_3x3',
        'branch_3x3_2',
        'branch_1x1',
        'branch_identity',
    ]
    assert type(rep.branch_1x1) is nn.Conv2d
    assert type(rep.branch_identity) is nn.Identity
    assert 'branch_3x3_2.conv.weight' in rep.state_dict()
    assert 'bn.running_mean' in rep.state_dict()


def test_identity_branches_are_left_out_where_shapes_differ():
    assert list(RepConv(4, 8, block='no_1x1').branches) == ['branch_3x3']


def test_dirac_kernel_is_fused_in_float64():
    rep = RepConv(4, 4, block='dirac').eval()
    exact = RepConv(4, 4, block='dirac').double().eval()
    exact.load_state_dict(rep.state_dict())
    assert torch.equal(rep.fuse().weight, exact.fuse().weight.float())
