"""Precisions of the Winograd engine, with matrix units, emulated ones and none."""

import pytest
import torch
from torch import nn

from mmseg_repvgg import RepVGG, deploy
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.hooks.deploy_hook import DeployHook
from mmseg_repvgg.winograd import WinogradConv2d
from mmseg_repvgg.winograd.conv import PRECISIONS, WinogradConvReLU2d
from repvgg_runtime.kernels import build
from tests.needs import needs_compiler

pytestmark = needs_compiler


def compiled(folder, *flags):
    library = build.Library('winograd', (build.SOURCE,), ('-fopenmp', *flags))
    build.compile_library(library, folder / 'library.so')
    return build._load(folder / 'library.so')


@pytest.fixture(scope='module')
def emulated(tmp_path_factory):
    """A library in which plain C++ computes what the matrix units compute."""
    return compiled(tmp_path_factory.mktemp('emulated'), '-DWINOGRAD_EMULATE_TILES')


@pytest.fixture(scope='module')
def without_units(tmp_path_factory):
    """A library that does not use the matrix units of this processor."""
    library = compiled(tmp_path_factory.mktemp('without_units'), '-U__AMX_BF16__')
    assert not library.winograd_has_matrix_units()
    return library


@pytest.fixture
def use(monkeypatch):
    """Return a function that makes all convolutions use a library."""
    return lambda library: monkeypatch.setattr(
        'mmseg_repvgg.winograd.conv.library', lambda: library
    )


def conv3x3(channels, dilation=1, groups=1):
    return nn.Conv2d(
        *channels, 3, padding=dilation, dilation=dilation, groups=groups
    ).requires_grad_(False)


def off(got, expected):
    """Return the largest error relative to the scale."""
    return float((got - expected).abs().max() / expected.abs().max())


CASES = [
    ((1, 2), 1, 1, (1, 1)),
    ((37, 17), 2, 1, (33, 18)),
    ((64, 80), 4, 2, (16, 21)),
    # Several slices of input channels, the last of them not full.
    ((200, 48), 1, 1, (7, 5)),
    ((32, 70), 1, 1, (80, 77)),
]


@pytest.mark.isa
@pytest.mark.parametrize('by', ['emulation', 'matrix units'])
@pytest.mark.parametrize(('channels', 'dilation', 'groups', 'size'), CASES)
def test_error_against_float64_is_that_of_the_precision(
    emulated, use, by, channels, dilation, groups, size
):
    library = emulated if by == 'emulation' else build.library()
    if not library.winograd_has_matrix_units():
        pytest.skip('this processor, or its system, has no AMX for bfloat16')
    conv = conv3x3(channels, dilation, groups)
    x = torch.randn(2, channels[0], *size)
    expected = conv.double()(x.double())
    conv.float()
    use(library)
    assert off(WinogradConv2d(conv, 'highest')(x), expected) < 5e-6
    assert off(WinogradConv2d(conv, 'high')(x), expected) < 1e-4
    assert off(WinogradConv2d(conv, 'medium')(x), expected) < 5e-2
    if min(channels) > 2:
        assert off(WinogradConv2d(conv, 'high')(x), expected) > 5e-6
        assert off(WinogradConv2d(conv, 'medium')(x), expected) > 1e-3


def test_matrix_units_leave_the_bfloat16_of_pytorch_right():
    library = build.library()
    if not library.winograd_has_matrix_units():
        pytest.skip('this processor, or its system, has no AMX for bfloat16')
    conv, x = conv3x3((64, 64)), torch.randn(1, 64, 40, 50)
    low = nn.Linear(64, 64).bfloat16().requires_grad_(False)
    rows = torch.randn(512, 64).bfloat16()
    expected, by_torch = WinogradConv2d(conv, 'high')(x), low(rows)
    for _ in range(5):
        assert torch.equal(WinogradConv2d(conv, 'high')(x), expected)
        assert torch.equal(low(rows), by_torch)


@pytest.mark.isa
@pytest.mark.parametrize(
    ('channels', 'dilation', 'groups', 'size'),
    [
        ((161, 163), 1, 1, (67, 60)),
        ((288, 352), 2, 2, (61, 66)),
        # Two slices of input channels.
        ((200, 136), 4, 1, (45, 49)),
    ],
)
def test_without_matrix_units_large_maps_are_computed_in_large_tiles(
    without_units, use, channels, dilation, groups, size
):
    use(without_units)
    conv = conv3x3(channels, dilation, groups)
    x = torch.randn(2, channels[0], *size)
    expected = conv.double()(x.double())
    exact, high, medium = (
        WinogradConv2d(conv.float(), precision)(x) for precision in PRECISIONS
    )
    assert off(exact, expected) < 5e-6
    assert off(high, expected) < 3e-5
    assert not torch.equal(high, exact)
    assert torch.equal(medium, high)


@pytest.mark.parametrize(
    ('channels', 'size'), [((48, 32), (80, 81)), ((160, 160), (20, 21))]
)
def test_without_matrix_units_small_layers_are_computed_in_small_tiles(
    without_units, use, channels, size
):
    use(without_units)
    conv, x = conv3x3(channels), torch.randn(1, channels[0], *size)
    exact, high, medium = (WinogradConv2d(conv, precision)(x) for precision in PRECISIONS)
    assert torch.equal(high, exact)
    assert torch.equal(medium, exact)


def test_nan_stays_nan(emulated, use):
    use(emulated)
    x = torch.randn(1, 32, 9, 9)
    x[0, 0, 4, 4] = float('nan')
    for precision in ('high', 'medium'):
        y = WinogradConvReLU2d(conv3x3((32, 32)), precision)(x)
        assert y[0, :, 4, 4].isnan().all()


def test_deploy_sets_the_precision_and_deploying_again_changes_it(randomize_norms):
    arch = dict(depths=(2, 2, 2, 1), a=0.5, b=0.5)
    net = randomize_norms(RepVGG(arch, dilation='full')).eval()

    def precisions(model):
        convs = (m for m in model.modules() if isinstance(m, WinogradConv2d))
        return {conv.precision for conv in convs}

    fast = deploy(net, 'winograd', 'high')
    assert precisions(fast) == {'high'}
    assert precisions(deploy(fast, 'winograd', 'medium')) == {'medium'}
    assert precisions(deploy(fast, 'winograd')) == {'highest'}
    assert precisions(fast) == {'high'}
    expected = deploy(net).state_dict()
    assert all(torch.equal(fast.state_dict()[key], expected[key]) for key in expected)


def test_unknown_precision_is_an_error():
    allowed = r"precision must be one of \('highest', 'high', 'medium'\), but got 'low'"
    with pytest.raises(ValueError, match=allowed):
        WinogradConv2d(conv3x3((4, 4)), 'low')
    with pytest.raises(ValueError, match=allowed):
        deploy(conv3x3((4, 4)), 'winograd', 'low')
    with pytest.raises(ConfigError, match=allowed):
        DeployHook(engine='winograd', precision='low')


@pytest.mark.parametrize('engine', ['torch', 'phases'])
def test_precision_is_refused_where_it_would_change_nothing(engine):
    with pytest.raises(ConfigError, match=f"'high' needs .* got engine='{engine}'"):
        deploy(conv3x3((4, 4)), engine, 'high')
    with pytest.raises(ConfigError, match=f"'high' needs .* got engine='{engine}'"):
        DeployHook(engine=engine, precision='high')
