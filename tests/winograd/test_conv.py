"""Winograd convolution against PyTorch's in float64."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from mmengine.utils import digit_version
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmseg_repvgg.winograd.conv import WinogradConv2d, WinogradConvReLU2d, fits
from repvgg_runtime.kernels import build
from tests.needs import needs_compiler
from tests.winograd.reference import transforms, winograd_conv2d


def conv3x3(channels=(8, 8), dilation=1, groups=1, bias=True):
    return nn.Conv2d(
        *channels, 3, padding=dilation, dilation=dilation, groups=groups, bias=bias
    ).requires_grad_(False)


def off(got, expected):
    """The largest error relative to the scale."""
    return float((got - expected).abs().max() / expected.abs().max())


def test_reference_transforms_convolve_one_row():
    tiles, kernels, back = transforms(torch.float64)
    x, g = torch.randn(6).double(), torch.randn(3).double()
    expected = torch.stack([x[i : i + 3] @ g for i in range(4)])
    got = back @ ((kernels @ g) * (tiles @ x))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.isa
@pytest.mark.parametrize('size', [(1, 1), (2, 3), (7, 5), (16, 12), (33, 18)])
@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('dilation', [1, 2, 4])
def test_output_matches_float64_convolution(dilation, groups, size):
    # Of a group, so that with any number of them nothing comes out even.
    for of_group in ((1, 2), (7, 13), (17, 37)):
        channels = (of_group[0] * groups, of_group[1] * groups)
        for batch in (1, 3):
            conv = conv3x3(channels, dilation, groups)
            x = torch.randn(batch, channels[0], *size)
            expected = conv.double()(x.double())
            plain = winograd_conv2d(x.double(), conv.weight, conv.bias, dilation, groups)
            torch.testing.assert_close(plain, expected, rtol=0, atol=1e-10)
            assert off(WinogradConv2d(conv.float())(x), expected) < 5e-6


@pytest.mark.isa
@needs_compiler
def test_many_tiles_and_channels_are_computed_in_parts(monkeypatch):
    """The input fills several chunks of tiles and several slices of channels."""
    # As in winograd.cpp: floats of transformed tiles, 36 a channel.
    assert -(-130 // 4) * -(-150 // 4) > (12 << 20) / (36 * 300)
    assert build.library() is not None
    monkeypatch.setattr('mmseg_repvgg.winograd.conv._directly', None)
    conv, x = conv3x3((300, 100), bias=False), torch.randn(1, 300, 130, 150)
    expected = conv.double()(x.double())
    assert off(WinogradConv2d(conv.float())(x), expected) < 5e-6


def test_relu_follows_the_convolution_and_keeps_nan():
    conv, x = conv3x3((20, 20)), torch.randn(2, 20, 9, 10)
    y = WinogradConvReLU2d(conv)(x)
    assert off(y, conv.double()(x.double()).relu()) < 5e-6
    assert float(y.min()) == 0
    x[0, 0, 4, 4] = float('nan')
    assert WinogradConvReLU2d(conv.float())(x).isnan().any()


@pytest.mark.parametrize(
    'lay_out',
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x.repeat_interleave(2, 3)[..., ::2],
        lambda x: x[:, :1].expand_as(x),
        # What lies there is the opposite of the numbers.
        lambda x: torch._neg_view(x.contiguous(memory_format=torch.channels_last)),
    ],
    ids=['channels last', 'transposed', 'strided', 'expanded', 'negated'],
)
def test_any_memory_layout_of_the_input_is_accepted(lay_out):
    conv, x = conv3x3((8, 20), 2), lay_out(torch.randn(2, 8, 11, 13))
    assert off(WinogradConv2d(conv)(x), conv.double()(x.double())) < 5e-6


def test_state_dict_is_interchangeable_with_conv2d(tmp_path):
    first, second = conv3x3((8, 12)), conv3x3((8, 12))
    fast = WinogradConv2d(first)
    torch.save(fast.state_dict(), tmp_path / 'fast.pth')
    second.load_state_dict(torch.load(tmp_path / 'fast.pth', weights_only=True))
    assert torch.equal(second.weight, first.weight)
    assert torch.equal(second.bias, first.bias)
    other, kept = conv3x3((8, 12)), deepcopy(first.state_dict())
    fast.load_state_dict(other.state_dict())
    assert all(torch.equal(first.state_dict()[name], kept[name]) for name in kept)
    x = torch.randn(1, 8, 9, 9)
    assert off(fast(x), other.double()(x.double())) < 5e-6
    assert torch.equal(fast.weight, other.weight)


def test_state_dict_can_be_assigned_to_meta_module():
    fast, other = WinogradConv2d(conv3x3((8, 12))), conv3x3((8, 12))
    fast.to('meta').load_state_dict(other.state_dict(), assign=True)
    x = torch.randn(1, 8, 9, 9)
    assert off(fast(x), other.double()(x.double())) < 5e-6


@pytest.mark.parametrize('copy', [deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copied_module_computes_the_same(copy):
    fast, x = WinogradConvReLU2d(conv3x3((8, 12))), torch.randn(1, 8, 9, 9)
    assert torch.equal(copy(fast)(x), fast(x))


def test_any_memory_layout_of_the_bias_is_accepted():
    conv, x = conv3x3((8, 12)), torch.randn(1, 8, 9, 9)
    conv.bias = nn.Parameter(torch.randn(24)[::2], requires_grad=False)
    assert off(WinogradConv2d(conv)(x), conv.double()(x.double())) < 5e-6


@pytest.mark.parametrize('channels', [4, 100])
def test_wrong_number_of_channels_is_an_error(channels):
    fast = WinogradConv2d(conv3x3((64, 64)))
    with pytest.raises(RuntimeError, match='to have 64 channels, but got'):
        fast(torch.randn(1, channels, 9, 9))


def test_image_without_batch_dimension_is_accepted():
    conv, x = conv3x3((8, 12)), torch.randn(8, 9, 9)
    assert off(WinogradConvReLU2d(conv)(x), conv(x).relu()) < 5e-6


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_by_pytorch(dtype):
    conv = conv3x3((8, 12))
    fast, x = WinogradConv2d(conv).to(dtype), torch.randn(1, 8, 9, 9).to(dtype)
    try:
        expected = conv.to(dtype)(x)
    except RuntimeError as error:
        pytest.skip(f'torch {torch.__version__} has no such conv on a CPU: {error}')
    assert torch.equal(fast(x), expected)


def test_autocast_is_computed_by_pytorch():
    conv, x = conv3x3((8, 12)), torch.randn(1, 8, 9, 9)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(WinogradConv2d(conv)(x), conv(x))


def test_meta_and_fake_tensors_give_shapes():
    fast, x = WinogradConv2d(conv3x3((8, 12))), torch.randn(1, 8, 9, 9)
    assert fast.to('meta')(x.to('meta')).shape == (1, 12, 9, 9)
    assert fast(x).shape == (1, 12, 9, 9)
    with FakeTensorMode() as mode:
        fake = WinogradConv2d(conv3x3((8, 12)))
        assert fake(mode.from_tensor(x)).shape == (1, 12, 9, 9)


def test_one_module_serves_several_threads():
    fast = WinogradConv2d(conv3x3((64, 64)))
    inputs = [torch.randn(1, 64, 20 + i, 30) for i in range(8)]
    expected = [fast(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, wanted in zip(pool.map(fast, inputs), expected):
                assert torch.equal(got, wanted)


def test_required_gradient_is_an_error():
    fast = WinogradConv2d(conv3x3())
    x = torch.randn(1, 8, 5, 5, requires_grad=True)
    with pytest.raises(RuntimeError, match='for inference and has no gradient'):
        fast(x)
    with torch.no_grad():
        fast(x)


@needs_compiler
def test_torch_knows_the_operator():
    fast, x = WinogradConvReLU2d(conv3x3((8, 12))), torch.randn(1, 8, 9, 9)
    names = dict.fromkeys(('test_schema', 'test_faketensor'), 'SUCCESS')
    operator = torch.ops.mmseg_repvgg.winograd_conv2d.default
    inputs = (x, fast.packed, fast.bias, 12, 1, 1, True, 'highest')
    if hasattr(torch.library, 'opcheck'):  # torch 2.4
        assert torch.library.opcheck(operator, inputs, test_utils=tuple(names)) == names
    # torch.export of 2.3 looks up each parameter in the state dict, which has other keys.
    if digit_version(torch.__version__) >= digit_version('2.6'):
        exported = torch.export.export(fast, (x,))
        assert operator in {node.target for node in exported.graph.nodes}
        assert torch.equal(exported.module()(x), fast(x))
    compiled = torch.compile(fast, backend='aot_eager', fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), fast(x))


@pytest.mark.parametrize(
    'conv',
    [
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode='reflect'),
        nn.Conv2d(4, 4, 3, padding=2, dilation=(2, 1)),
    ],
    ids=['stride', 'padding', '1x1', 'reflect', 'dilation'],
)
def test_unsupported_convolution_is_an_error(conv):
    assert not fits(conv)
    with pytest.raises(ValueError, match='3x3 nn.Conv2d of stride 1'):
        WinogradConv2d(conv)


@needs_compiler
@pytest.mark.parametrize(
    ('bias', 'says'),
    [
        (torch.zeros(3), r'bias must have shape \(8,\), but got \(3,\)'),
        (torch.zeros(8, 1), r'bias must have shape \(8,\), but got \(8, 1\)'),
    ],
)
def test_weights_and_bias_of_wrong_size_are_errors(bias, says):
    """winograd.cpp would read beyond them."""
    fast = WinogradConv2d(nn.Conv2d(4, 8, 3, padding=1))
    fast.bias = nn.Parameter(bias, requires_grad=False)
    with pytest.raises(RuntimeError, match=says):
        fast(torch.randn(1, 4, 16, 16))
    fast.bias = None
    fast.packed.data = torch.zeros(9)
    with pytest.raises(RuntimeError, match='9 weights do not make .* 4 to 8'):
        fast(torch.randn(1, 4, 16, 16))


def test_bias_in_another_dtype_is_an_error():
    fast = WinogradConv2d(conv3x3((8, 12)))
    fast.bias.data = fast.bias.half()
    with pytest.raises(RuntimeError, match='needs float32 input, weights and bias'):
        fast(torch.randn(1, 8, 9, 9))
