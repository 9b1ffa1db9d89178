"""Engines of deployed models."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmseg.registry import MODELS
from torch import nn
from torch.testing import assert_close

from mmseg_repvgg import RepVGG
from mmseg_repvgg.errors import CheckpointError, ConfigError
from mmseg_repvgg.reparam import RepVGGBlock, deploy
from mmseg_repvgg.winograd import ENGINES, WinogradConv2d, engines
from mmseg_repvgg.winograd.conv import WinogradConvReLU2d
from tests.needs import needs_compiler

# Widths 32, 32, 64, 128, 256; dilated, the first two stages begin with a stride of 2.
SMALL = dict(depths=(2, 2, 2, 1), a=0.5, b=0.5)


def convs(model, kind):
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


# Without a compiler deploy keeps PyTorch's convolutions.
pytestmark = needs_compiler


def off(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture
def net(randomize_norms):
    return randomize_norms(RepVGG(SMALL, dilation='full')).eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 65, 47)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.isa
def test_winograd_replaces_convs_of_stride_1_and_their_relu(net, x):
    fast = deploy(net, 'winograd')
    assert convs(fast, nn.Conv2d) == ['stem.conv', 'stage_1.0.conv', 'stage_2.0.conv']
    assert len(convs(fast, WinogradConv2d)) == 5
    for block in (m for m in fast.modules() if isinstance(m, RepVGGBlock)):
        taken = isinstance(block.conv, WinogradConv2d)
        assert isinstance(block.act, nn.Identity if taken else nn.ReLU)
    expected = net.double()(x.double())
    for got, wanted in zip(fast(x), expected):
        assert off(got, wanted) < 1e-5


def test_squeeze_and_excitation_stays_between_conv_and_relu(randomize_norms, x):
    net = randomize_norms(RepVGG({**SMALL, 'se': True})).eval()
    fast = deploy(net, 'winograd')
    assert convs(fast, WinogradConv2d)
    assert not convs(fast, WinogradConvReLU2d)
    assert_close(fast(x)[-1], net(x)[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.isa
def test_error_is_below_five_times_that_of_direct_convolution(net):
    x = torch.randn(1, 3, 128, 160).relu()
    expected = copy.deepcopy(net).double()(x.double())[-1]
    # PyTorch's code for channels last is another one, and less exact.
    layouts = (torch.contiguous_format, torch.channels_last)
    direct = min(off(deploy(net).to(memory_format=f)(x)[-1], expected) for f in layouts)
    assert off(deploy(net, 'winograd')(x)[-1], expected) < 5 * direct


def test_original_and_random_state_are_unchanged(net, x):
    before = copy.deepcopy(net.state_dict())
    fused = deploy(net)
    expected = [fused(x)[-1], net(x)[-1]]
    for engine in ('winograd', 'auto'):
        for model in (net, fused):
            state = torch.get_rng_state()
            deploy(model, engine)(x)
            assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fused(x)[-1], expected[0])
    assert torch.equal(net(x)[-1], expected[1])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_deploying_again_changes_only_the_engine(net, x):
    fused, fast = deploy(net), deploy(net, 'winograd')
    again = deploy(fast, 'winograd')
    assert convs(again, WinogradConv2d) == convs(fast, WinogradConv2d)
    assert torch.equal(again(x)[-1], fast(x)[-1])
    back = deploy(fast)
    assert convs(back, nn.Conv2d) == convs(fused, nn.Conv2d)
    assert torch.equal(back(x)[-1], fused(x)[-1])
    # Taking it back did not touch the fast one.
    assert torch.equal(again(x)[-1], fast(x)[-1])


def test_state_dict_is_that_of_the_fused_model(net, x, tmp_path):
    fused, fast = deploy(net), deploy(net, 'winograd')
    expected = fused.state_dict()
    torch.save(fast.state_dict(), tmp_path / 'fast.pth')
    stored = torch.load(tmp_path / 'fast.pth', weights_only=True)
    assert set(stored) == set(expected)
    assert all(torch.equal(stored[key], expected[key]) for key in expected)
    other = RepVGG(SMALL, dilation='full', deploy=True)
    other.load_state_dict(stored)
    assert torch.equal(other.eval()(x)[-1], fused(x)[-1])
    # And the other way.
    another = deploy(RepVGG(SMALL, dilation='full', deploy=True), 'winograd')
    another.load_state_dict(expected)
    assert torch.equal(another(x)[-1], fast(x)[-1])
    assert sum(p.numel() for p in fast.parameters()) == sum(
        p.numel() for p in fused.parameters()
    )


def test_mismatched_state_dict_is_an_error(net):
    fast = deploy(net, 'winograd')
    conv = fast.get_submodule(convs(fast, WinogradConv2d)[0])
    state = conv.state_dict()
    with pytest.raises(RuntimeError, match='size mismatch for weight'):
        conv.load_state_dict({**state, 'weight': torch.zeros(1, 2, 3, 3)})
    del state['weight']
    with pytest.raises(RuntimeError, match='Missing key.*"weight"'):
        conv.load_state_dict(state)
    with pytest.raises(CheckpointError, match='of another arch'):
        fast.load_state_dict(deploy(RepVGG({**SMALL, 'a': 0.25})).state_dict())


def test_heads_and_other_backbones_use_winograd_too(randomize_norms):
    config = dict(
        type='EncoderDecoder',
        backbone=dict(type='ResNetV1c', depth=18, base_channels=32, stem_channels=32),
        decode_head=dict(
            type='PSPHead',
            in_channels=256,
            in_index=3,
            channels=32,
            num_classes=5,
            dropout_ratio=0,
            norm_cfg=dict(type='BN'),
        ),
        test_cfg=dict(mode='whole'),
    )
    config['backbone'].update(norm_cfg=dict(type='BN'), in_channels=3)
    model = randomize_norms(MODELS.build(config)).eval()
    fast = deploy(model, 'winograd')
    names = convs(fast, WinogradConv2d)
    assert 'decode_head.bottleneck.conv' in names
    assert 'backbone.layer4.1.conv2' in names
    assert 'backbone.layer4.0.conv1' not in names  # of stride 2
    x = torch.randn(1, 3, 70, 90)
    assert off(fast(x), model(x)) < 1e-4


@pytest.mark.parametrize(
    ('conv', 'pays'),
    [
        (nn.Conv2d(32, 32, 3, padding=1), True),
        (nn.Conv2d(32, 31, 3, padding=1), False),
        (nn.Conv2d(64, 64, 3, padding=1, groups=2), True),
        (nn.Conv2d(64, 64, 3, padding=1, groups=4), False),
        (nn.Conv2d(64, 64, 3, padding=1, stride=2), False),
        (nn.Conv2d(64, 64, 3, padding=1).bfloat16(), False),
    ],
    ids=['enough', 'narrow', 'two groups', 'four groups', 'stride', 'bfloat16'],
)
def test_rule_of_the_winograd_engine(conv, pays):
    assert engines.pays(conv) is pays
    assert type(deploy(conv, 'winograd')) is (WinogradConv2d if pays else nn.Conv2d)


def test_auto_follows_the_result_of_its_trials(net, x, monkeypatch):
    asked = []
    monkeypatch.setattr(engines, 'library', lambda: True)

    def trial(*geometry):
        asked.append(geometry)
        return geometry[0] == 64

    monkeypatch.setattr(engines, '_winograd_is_faster', trial)
    chosen = deploy(net, 'auto')
    widths = [geometry[:2] for geometry in asked]
    assert widths == [(32, 32), (64, 64), (64, 128), (128, 128), (128, 256)]
    names = convs(chosen, WinogradConv2d)
    assert [chosen.get_submodule(name).in_channels for name in names] == [64, 64]


@pytest.fixture
def no_trial_yet():
    """Forget the trials of other tests before, and those of this one after."""
    engines._winograd_is_faster.cache_clear()
    yield
    engines._winograd_is_faster.cache_clear()


@pytest.mark.parametrize(
    ('by_winograd', 'chosen'),
    [([9, 1, 1, 9], WinogradConv2d), ([1, 3, 3, 1], nn.Conv2d)],
    ids=['faster', 'slower'],
)
def test_trial_compares_medians_after_a_warm_up(
    monkeypatch, no_trial_yet, by_winograd, chosen
):
    """The median counts, without the first run, which warms up."""
    now, tried = [0], []
    # A clock that stands still but for the two: the true one is the machine's.
    monkeypatch.setattr(engines, 'time', SimpleNamespace(perf_counter=lambda: now[0]))

    def takes(kind, seconds):
        forward, runs = kind.forward, iter(seconds)

        def timed(self, x):
            now[0] += next(runs)
            tried.append((type(self), self.in_channels, self.groups, self.dilation))
            return forward(self, x)

        monkeypatch.setattr(kind, 'forward', timed)

    takes(nn.Conv2d, [2] * 4)
    takes(WinogradConv2d, by_winograd)
    conv = nn.Conv2d(32, 64, 3, padding=2, dilation=2, groups=2)
    # One more trial would find no seconds left.
    net = deploy(nn.Sequential(conv, copy.deepcopy(conv)), 'auto')
    assert [type(module) for module in net] == [chosen] * 2
    both = [(kind, 32, 2, (2, 2)) for kind in (nn.Conv2d, WinogradConv2d)]
    assert tried == both * 4


def test_conv_with_a_hook_is_kept(x):
    conv, heard = nn.Conv2d(32, 32, 3, padding=1), []
    conv.register_forward_hook(lambda *args: heard.append(1))
    net = nn.Sequential(nn.Conv2d(3, 32, 1), conv)
    deploy(net, 'winograd')(x)
    assert heard


def test_winograd_refuses_other_devices_and_auto_changes_nothing_there(net):
    elsewhere = copy.deepcopy(net).to('meta')
    with pytest.raises(ConfigError, match='on a CPU, but the model is on meta'):
        deploy(elsewhere, 'winograd')
    assert not convs(deploy(elsewhere, 'auto'), WinogradConv2d)
    with pytest.raises(ConfigError, match='on a CPU'):
        deploy(elsewhere.half(), 'winograd')


def block(conv=None, **parts):
    made = RepVGGBlock(conv or nn.Conv2d(32, 32, 3, padding=1))
    for name, part in parts.items():
        setattr(made, name, part)
    return made.eval().requires_grad_(False)


class Clip(nn.ReLU):
    def forward(self, x):
        return x.clamp(0, 0.1)


@pytest.mark.parametrize('engine', ['torch', 'winograd'])
@pytest.mark.parametrize('act', [nn.Identity(), Clip(), nn.ReLU()])
def test_activation_is_unchanged(act, engine):
    x, original = torch.randn(1, 32, 9, 9), block(act=act)
    expected = original(x)
    once = deploy(original, engine)
    assert_close(once(x), expected, rtol=1e-4, atol=1e-5)
    for again in ENGINES:
        assert_close(deploy(once, again)(x), expected, rtol=1e-4, atol=1e-5)


def test_activation_with_a_hook_is_called():
    original, heard = block(), []
    original.act.register_forward_hook(lambda *args: heard.append(1))
    deploy(original, 'winograd')(torch.randn(1, 32, 9, 9))
    assert heard


def test_conv_shared_by_two_blocks_gets_the_relu_in_one():
    conv = nn.Conv2d(32, 32, 3, padding=1)
    net = nn.Sequential(block(conv), block(conv, act=nn.Identity()))
    x = torch.randn(1, 32, 9, 9)
    fast = deploy(net, 'winograd')
    assert fast[0].conv.packed is fast[1].conv.packed
    assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)


def test_relu_outside_of_a_block_is_kept():
    net = nn.Sequential(WinogradConvReLU2d(nn.Conv2d(32, 32, 3, padding=1)))
    x = torch.randn(1, 32, 9, 9)
    for engine in ENGINES:
        assert_close(deploy(net, engine)(x), net(x), rtol=1e-4, atol=1e-5)
