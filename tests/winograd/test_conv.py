"""Winograd convolution, compiled and in plain torch, against float64."""

import os
import pickle
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial

import pytest
import torch
from mmcv.cnn.utils import fuse_conv_bn
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from mmseg_repvgg.reparam import deploy
from mmseg_repvgg.winograd import build as native
from mmseg_repvgg.winograd.conv import WinogradConv2d, fits, transforms, winograd_conv2d

needs_compiler = pytest.mark.skipif(
    shutil.which(native._compiler()[0]) is None,
    reason='there is no C++ compiler (g++, or what CXX names)',
)


def conv3x3(channels=(8, 8), dilation=1, groups=1, bias=True):
    return nn.Conv2d(
        *channels, 3, padding=dilation, dilation=dilation, groups=groups, bias=bias
    ).requires_grad_(False)


def off(got, expected):
    """The largest error relative to the scale."""
    return float((got - expected).abs().max() / expected.abs().max())


def test_transforms_make_a_convolution_of_one_row():
    tiles, kernels, back = transforms(torch.float64)
    x, g = torch.randn(6).double(), torch.randn(3).double()
    expected = torch.stack([x[i : i + 3] @ g for i in range(4)])
    got = back @ ((kernels @ g) * (tiles @ x))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.isa
@pytest.mark.parametrize('size', [(1, 1), (2, 3), (7, 5), (16, 12), (33, 18)])
@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('dilation', [1, 2, 4])
def test_against_float64(dilation, groups, size):
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
def test_the_compiled_form_is_what_runs(monkeypatch):
    """More tiles than are transformed at a time, more channels than fit in a slice."""
    # As in winograd.cpp: floats of transformed tiles, 36 a channel.
    assert -(-130 // 4) * -(-150 // 4) > (12 << 20) / (36 * 300)
    assert native.library() is not None
    monkeypatch.setattr('mmseg_repvgg.winograd.conv.winograd_conv2d', None)
    conv, x = conv3x3((300, 100), bias=False), torch.randn(1, 300, 130, 150)
    expected = conv.double()(x.double())
    assert off(WinogradConv2d(conv.float())(x), expected) < 5e-6


def test_relu_is_that_of_the_convolution():
    conv, x = conv3x3((20, 20)), torch.randn(2, 20, 9, 10)
    y = WinogradConv2d(conv, relu=True)(x)
    assert off(y, conv.double()(x.double()).relu()) < 5e-6
    assert float(y.min()) == 0
    x[0, 0, 4, 4] = float('nan')
    assert WinogradConv2d(conv.float(), relu=True)(x).isnan().any()


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
def test_input_may_lie_in_memory_as_it_likes(lay_out):
    conv, x = conv3x3((8, 20), 2), lay_out(torch.randn(2, 8, 11, 13))
    assert off(WinogradConv2d(conv)(x), conv.double()(x.double())) < 5e-6


def test_state_dicts_go_both_ways(tmp_path):
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


def test_a_state_dict_may_be_assigned():
    fast, other = WinogradConv2d(conv3x3((8, 12))), conv3x3((8, 12))
    fast.to('meta').load_state_dict(other.state_dict(), assign=True)
    x = torch.randn(1, 8, 9, 9)
    assert off(fast(x), other.double()(x.double())) < 5e-6


@pytest.mark.parametrize('copy', [deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same(copy):
    fast, x = WinogradConv2d(conv3x3((8, 12)), relu=True), torch.randn(1, 8, 9, 9)
    assert torch.equal(copy(fast)(x), fast(x))


def test_bias_may_lie_in_memory_as_it_likes():
    conv, x = conv3x3((8, 12)), torch.randn(1, 8, 9, 9)
    conv.bias = nn.Parameter(torch.randn(24)[::2], requires_grad=False)
    assert off(WinogradConv2d(conv)(x), conv.double()(x.double())) < 5e-6


@pytest.mark.parametrize('channels', [4, 100])
def test_other_channels_are_refused_as_by_any_convolution(channels):
    fast = WinogradConv2d(conv3x3((64, 64)))
    with pytest.raises(RuntimeError, match='to have 64 channels, but got'):
        fast(torch.randn(1, channels, 9, 9))


def test_an_image_without_a_batch():
    conv, x = conv3x3((8, 12)), torch.randn(8, 9, 9)
    assert off(WinogradConv2d(conv, relu=True)(x), conv(x).relu()) < 5e-6


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_directly(dtype):
    conv = conv3x3((8, 12))
    fast, x = WinogradConv2d(conv).to(dtype), torch.randn(1, 8, 9, 9).to(dtype)
    try:
        expected = conv.to(dtype)(x)
    except RuntimeError as error:
        pytest.skip(f'torch {torch.__version__} has no such conv on a CPU: {error}')
    assert torch.equal(fast(x), expected)


def test_autocast_is_computed_directly():
    conv, x = conv3x3((8, 12)), torch.randn(1, 8, 9, 9)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(WinogradConv2d(conv)(x), conv(x))


def test_tensors_without_numbers_give_shapes():
    """Their address is none."""
    fast, x = WinogradConv2d(conv3x3((8, 12))), torch.randn(1, 8, 9, 9)
    assert fast.to('meta')(x.to('meta')).shape == (1, 12, 9, 9)
    assert fast(x).shape == (1, 12, 9, 9)
    with FakeTensorMode() as mode:
        fake = WinogradConv2d(conv3x3((8, 12)))
        assert fake(mode.from_tensor(x)).shape == (1, 12, 9, 9)


def test_it_is_counted_as_a_convolution():
    conv, x = conv3x3((8, 12)), torch.randn(1, 8, 9, 9)
    counts = []
    for module in (conv, WinogradConv2d(conv)):
        with FlopCounterMode(display=False) as counter:
            module(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_threads_may_share_one():
    fast = WinogradConv2d(conv3x3((64, 64)))
    inputs = [torch.randn(1, 64, 20 + i, 30) for i in range(8)]
    expected = [fast(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for got, wanted in zip(pool.map(fast, inputs), expected):
                assert torch.equal(got, wanted)


def test_a_gradient_is_refused():
    fast = WinogradConv2d(conv3x3())
    x = torch.randn(1, 8, 5, 5, requires_grad=True)
    with pytest.raises(RuntimeError, match='for inference and has no gradient'):
        fast(x)
    with torch.no_grad():
        fast(x)


def test_forward_mode_gradient_is_an_error():
    fast, x = WinogradConv2d(conv3x3()), torch.randn(1, 8, 5, 5)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match='has no gradient'):
        fast(forward_ad.make_dual(x, torch.ones_like(x)))


def test_a_norm_can_be_folded_in(randomize_norms):
    """As mmcv and torch do it: they assign a new weight and a new bias."""
    conv = nn.Conv2d(32, 48, 3, padding=1, bias=False)
    net = randomize_norms(nn.Sequential(conv, nn.BatchNorm2d(48))).eval()
    x = torch.randn(1, 32, 9, 9)
    with torch.no_grad():
        expected = net(x)
        folded = fuse_conv_bn(deploy(net, 'winograd'))
        torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5)
    assert type(folded[0]) is WinogradConv2d
    assert list(folded.state_dict()) == ['0.weight', '0.bias']


def test_what_is_traced_is_the_plain_convolution():
    fast, x = WinogradConv2d(conv3x3(), relu=True), torch.randn(1, 8, 9, 9)
    traced = torch.jit.trace(fast, x)
    assert 'aten::_convolution' in str(traced.inlined_graph)
    exported = torch.export.export(fast, (x,))
    called = {str(node.target) for node in exported.graph.nodes}
    # The second is the name in torch 2.1.
    assert called & {'aten.conv2d.default', 'aten.convolution.default'}
    torch.testing.assert_close(exported.module()(x), fast(x), rtol=1e-4, atol=1e-5)


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
def test_other_convolutions_are_refused(conv):
    assert not fits(conv)
    with pytest.raises(ValueError, match='3x3 nn.Conv2d of stride 1'):
        WinogradConv2d(conv)


def run(code, tmp_path, **env):
    return subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'XDG_CACHE_HOME': str(tmp_path), **env},
        capture_output=True,
        text=True,
    )


CODE = """
import torch
from mmseg_repvgg.winograd.conv import WinogradConv2d
conv = torch.nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
x = torch.randn(1, 4, 9, 9)
for _ in range(2):
    torch.testing.assert_close(WinogradConv2d(conv)(x), conv(x), rtol=1e-4, atol=1e-5)
"""


@pytest.mark.parametrize('compiler', ['g++ "', ' '])
def test_a_compiler_that_cannot_be_read(tmp_path, compiler):
    assert run(CODE, tmp_path, CXX=compiler).returncode == 0


@needs_compiler
def test_without_a_cache_it_is_compiled_all_the_same(tmp_path):
    file = tmp_path / 'no_folder'
    file.touch()
    check = 'from mmseg_repvgg.winograd.build import library; assert library()'
    done = run(CODE + check, file, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('compiled for this process alone') == 1
    assert list(tmp_path.iterdir()) == [file]


def test_without_a_compiler_it_works_and_says_so_once(tmp_path):
    done = run(CODE, tmp_path, CXX='no-such-compiler')
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('run in plain torch') == 1
    assert 'there is no no-such-compiler' in done.stderr


@needs_compiler
def test_what_is_built_needs_no_compiler(tmp_path):
    compiler = shlex.join([*native._compiler(), '-g0'])
    assert run(CODE, tmp_path, CXX=compiler).returncode == 0
    (built,) = (tmp_path / 'mmseg_repvgg').iterdir()
    nowhere = tmp_path / 'nowhere'
    nowhere.mkdir()
    done = run(CODE, tmp_path, CXX=compiler, PATH=str(nowhere))
    assert done.returncode == 0, done.stderr
    assert 'plain torch' not in done.stderr
    # What is torn would end the process when it is loaded, and is built anew.
    whole = built.read_bytes()
    built.write_bytes(whole[: len(whole) // 2])
    done = run(CODE, tmp_path, CXX=compiler)
    assert done.returncode == 0, done.stderr
    assert f'{built} is not what was built' in done.stderr
    assert 'plain torch' not in done.stderr
    assert built.read_bytes() == whole


@needs_compiler
def test_built_once_and_with_one_openmp(tmp_path):
    """A second OpenMP would have threads of its own, that fight with torch's."""
    check = """
import re
names = re.findall(r'\\S*(?:gomp|iomp|omp5)\\S*', open('/proc/self/maps').read())
assert len(set(names)) == 1, set(names)
"""
    done = run(CODE + check, tmp_path)
    assert done.returncode == 0, done.stderr
    (built,) = (tmp_path / 'mmseg_repvgg').iterdir()
    before = built.stat().st_mtime_ns
    assert run(CODE, tmp_path).returncode == 0
    assert built.stat().st_mtime_ns == before

    # Processes that build at the same time do not disturb each other.
    compiler = tmp_path / 'compiler'
    compiler.write_text(f'#!/bin/sh\nfor out; do :; done\nsleep 1\ncp {built} $out\n')
    compiler.chmod(0o755)
    with ThreadPoolExecutor(4) as pool:
        other = partial(run, CODE, tmp_path / 'other', CXX=str(compiler))
        for done in pool.map(lambda _: other(), range(4)):
            assert (done.returncode, done.stderr) == (0, '')
    (same,) = (tmp_path / 'other' / 'mmseg_repvgg').iterdir()
    assert same.read_bytes() == built.read_bytes()


@needs_compiler
def test_flags_are_added_and_ask_for_another_library(tmp_path, monkeypatch):
    done = run(CODE, tmp_path, WINOGRAD_CXXFLAGS='-O1 -no-such-flag')
    assert done.returncode == 0, done.stderr
    assert 'no-such-flag' in done.stderr
    monkeypatch.delenv('WINOGRAD_CXXFLAGS', raising=False)
    before = native._name()
    monkeypatch.setenv('WINOGRAD_CXXFLAGS', '-O1')
    assert native._name() != before


@needs_compiler
def test_a_compiler_that_fails_is_quoted(tmp_path):
    broken = tmp_path / 'broken'
    broken.write_text('#!/bin/sh\necho out of order >&2; exit 1\n')
    broken.chmod(0o755)
    done = run(CODE, tmp_path / 'cache', CXX=str(broken))
    assert done.returncode == 0, done.stderr
    assert 'out of order' in done.stderr


@needs_compiler
@pytest.mark.parametrize(
    ('bias', 'says'),
    [
        (torch.zeros(3), r'a bias of shape \(3,\) is none of 8 channels'),
        (torch.zeros(8, 1), r'a bias of shape \(8, 1\) is none of 8 channels'),
    ],
)
def test_numbers_of_another_convolution_are_not_read(bias, says):
    """The compiled form goes by addresses: beyond them lies other memory."""
    fast = WinogradConv2d(nn.Conv2d(4, 8, 3, padding=1))
    fast.bias = nn.Parameter(bias, requires_grad=False)
    with pytest.raises(RuntimeError, match=says):
        fast(torch.randn(1, 4, 16, 16))
    with pytest.raises(ValueError, match=r'shape \(8, 4, 3, 3\), but got \(1, 1, 3, 3\)'):
        fast.weight = nn.Parameter(torch.zeros(1, 1, 3, 3))
    fast.bias = None
    fast.packed.data = torch.zeros(9)
    with pytest.raises(RuntimeError, match='9 weights are not those of .* 4 to 8'):
        fast(torch.randn(1, 4, 16, 16))
