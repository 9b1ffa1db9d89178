import pytest
import torch
import torch.nn.functional as F
from mmseg.models.decode_heads import PSPHead
from torch import nn

from mmseg_repvgg.export.pooling import (
    MatrixAvgPool2d,
    Pyramid,
    bin_matrix,
    make_pooling_exact,
)


@pytest.mark.parametrize('bins', [1, 2, 3, 6, 7])
def test_matrix_equals_adaptive_pooling_at_any_length(bins):
    for length in (*range(1, 40), 45, 64, 90, 97, 128, 719):
        x = torch.rand(1, 2, length, dtype=torch.float64)
        expected = F.adaptive_avg_pool1d(x, bins)
        actual = x @ bin_matrix(length, bins, x).T
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize('size', [(90, 90), (17, 33), (5, 61), (1, 1)])
def test_height_and_width_may_have_different_bins(size):
    x = torch.rand(2, 3, *size, dtype=torch.float64)
    expected = F.adaptive_avg_pool2d(x, (3, 6))
    torch.testing.assert_close(MatrixAvgPool2d((3, 6))(x), expected, rtol=1e-12, atol=0)


def test_every_pooling_of_a_model_is_replaced(randomize_norms):
    head = PSPHead(
        in_channels=4, channels=8, num_classes=3, norm_cfg=dict(type='BN'), in_index=0
    )
    model = nn.ModuleDict(
        dict(head=head, pool=nn.Sequential(nn.AdaptiveAvgPool2d((2, 5))))
    )
    randomize_norms(model).eval().double()
    x = torch.rand(1, 4, 33, 18, dtype=torch.float64)
    expected = head([x]), model['pool'](x)
    make_pooling_exact(model)
    assert not any(isinstance(m, nn.AdaptiveAvgPool2d) for m in model.modules())
    assert isinstance(head.psp_modules, Pyramid)
    torch.testing.assert_close((head([x]), model['pool'](x)), expected)
