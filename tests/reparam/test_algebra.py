"""Equations 1-4, each against the layers that it stands for, in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from mmseg_repvgg.reparam.algebra import (
    ConvParams,
    add_parallel,
    fold_batch_norm,
    identity_kernel,
    pad_kernel,
)

EXACT = dict(rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('affine', [True, False])
def test_fold_batch_norm_equals_conv_then_norm(affine):
    conv = nn.Conv2d(6, 8, 3, padding=1).double()
    norm = nn.BatchNorm2d(8, eps=1e-3, affine=affine).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.1, 3)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 9, 7, dtype=torch.float64)
    kernel, bias = fold_batch_norm(
        ConvParams(conv.weight, conv.bias),
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        norm.eps,
    )
    assert_close(F.conv2d(x, kernel, bias, padding=1), norm(conv(x)), **EXACT)


@pytest.mark.parametrize('groups', [1, 2, 3, 6])
def test_identity_kernel_passes_its_input_through(groups):
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    y = F.conv2d(x, identity_kernel(6, groups), groups=groups)
    assert torch.equal(x, y)


@pytest.mark.parametrize('dilation', [1, 2, 4])
def test_padded_1x1_kernel_reads_the_centre_tap(dilation):
    kernel = torch.randn(5, 6, 1, 1, dtype=torch.float64)
    x = torch.randn(2, 6, 9, 11, dtype=torch.float64)
    padded = pad_kernel(kernel, (3, 3))
    y = F.conv2d(x, padded, padding=dilation, dilation=dilation)
    assert_close(y, F.conv2d(x, kernel), **EXACT)


def test_add_parallel_equals_the_sum_of_the_convolutions():
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    convs = [nn.Conv2d(4, 6, k, padding=k // 2).double() for k in (3, 1, 1)]
    kernel, bias = add_parallel(ConvParams(c.weight, c.bias) for c in convs)
    expected = sum(conv(x) for conv in convs)
    assert_close(F.conv2d(x, kernel, bias, padding=1), expected, **EXACT)


def test_everything_is_computed_in_float64():
    # In float32 the sum of a large and a small kernel would lose the small one.
    big = ConvParams(torch.full((1, 1, 1, 1), 2.0**24), torch.zeros(1))
    one = ConvParams(torch.ones(1, 1, 1, 1), torch.zeros(1))
    kernel, bias = add_parallel([big, one])
    assert kernel.dtype == bias.dtype == torch.float64
    assert kernel.item() == 2.0**24 + 1
    folded = fold_batch_norm(one, torch.zeros(1), torch.ones(1), None, None, 0.0)
    assert folded.kernel.dtype == torch.float64
