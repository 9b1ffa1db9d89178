"""Dilated blocks, computed without dilation on the phases of a map."""

import pytest
import torch
from mmengine.utils import digit_version
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_repvgg import RepVGG, deploy
from mmseg_repvgg.reparam import RepVGGBlock, phases
from mmseg_repvgg.reparam.phases import PhasedSequential, from_phases, to_phases
from mmseg_repvgg.winograd import ENGINES, engines

ARCH = dict(depths=(1, 2, 4, 2), a=0.25, b=0.25)


class Calls(TorchDispatchMode):
    """The operators that run, with their arguments."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append((function.overloadpacket, args))
        return function(*args, **(kwargs or {}))

    def count(self, operator, test=lambda args: True):
        return sum(seen is operator and test(args) for seen, args in self.seen)


def is_dilated(args):
    return max(args[5]) > 1


def is_rearrangement(args):
    # A mask has one channel and is rearranged with channels last.
    return len(args[1]) == 5


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def net(randomize_norms):
    return randomize_norms(RepVGG(ARCH, dilation='full')).eval()


def phased(model):
    return [n for n, m in model.named_modules() if isinstance(m, PhasedSequential)]


@pytest.mark.parametrize('d', [1, 2, 3])
def test_phases_are_every_dth_pixel(d):
    x = torch.randn(2, 3, 7, 5)
    y = to_phases(x, d).unflatten(0, (2, d, d))
    for row in range(d):
        for column in range(d):
            expected = x[:, :, row::d, column::d]
            found = y[:, row, column]
            *_, height, width = expected.shape
            assert torch.equal(found[..., :height, :width], expected)
            assert not found[..., height:, :].any()
            assert not found[..., width:].any()
    assert torch.equal(from_phases(to_phases(x, d), d, x), x)
    last = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(to_phases(last, d), to_phases(x, d))
    back = from_phases(to_phases(last, d), d, last)
    assert torch.equal(back, x)
    assert to_phases(last, d).stride(1) == back.stride(1) == 1


@pytest.mark.parametrize('dilation', ['full', 'fast'])
@pytest.mark.parametrize('extra', [{}, {'groups': 2}, {'se': True}], ids=str)
def test_outputs_are_those_of_dilated_convs(dilation, extra, randomize_norms):
    net = randomize_norms(RepVGG({**ARCH, **extra}, dilation=dilation)).eval().double()
    direct, ours = deploy(net), deploy(net, 'phases')
    assert phased(ours) == ['stage_3', 'stage_4']
    for size in [(64, 96), (65, 47), (97, 31), (1, 1)]:
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        for found, expected in zip(ours(x), direct(x)):
            assert found.shape == expected.shape
            assert (found - expected).abs().max() < 1e-12 * expected.abs().max()


def test_no_conv_is_dilated_and_a_run_is_rearranged_once(net):
    aten = torch.ops.aten
    dilated, undilated = deploy(net), deploy(net, 'phases')
    for size, masks in [((64, 96), 0), ((65, 96), 3 + 1)]:
        x = torch.randn(1, 3, *size)
        with Calls() as direct:
            dilated(x)
        with Calls() as ours:
            undilated(x)
        assert direct.count(aten.convolution, is_dilated) == 4 + 2
        assert ours.count(aten.convolution, is_dilated) == 0
        assert ours.count(aten.convolution) == direct.count(aten.convolution)
        # One in and one out for each of the two runs, of rows and of columns.
        assert ours.count(aten.permute, is_rearrangement) == 8
        # Zeros are set after each layer but the last, where a size does not divide.
        assert ours.count(aten.mul) == masks


def test_state_dict_is_that_of_the_fused_model(net, tmp_path):
    direct, ours = deploy(net), deploy(net, 'phases')
    expected = direct.state_dict()
    assert list(ours.state_dict()) == list(expected)
    torch.save(ours.state_dict(), tmp_path / 'phases.pth')
    stored = torch.load(tmp_path / 'phases.pth', weights_only=True)
    assert all(torch.equal(stored[key], expected[key]) for key in expected)
    x = torch.randn(1, 3, 64, 64)
    for engine in ('torch', 'phases'):
        other = deploy(RepVGG(ARCH, dilation='full'), engine)
        other.load_state_dict(stored)
        assert torch.equal(other(x)[-1], deploy(net, engine)(x)[-1])


def test_deploying_again_changes_only_the_engine(net):
    x = torch.randn(1, 3, 64, 64)
    ours, direct = deploy(net, 'phases'), deploy(net)
    for engine in ENGINES:
        again = deploy(deploy(net, engine), 'phases')
        assert phased(again) == phased(ours)
        assert torch.equal(again(x)[-1], ours(x)[-1])
    back = deploy(ours)
    assert not phased(back)
    assert torch.equal(back(x)[-1], direct(x)[-1])
    # Taking it back did not touch the first copy.
    assert phased(ours) == ['stage_3', 'stage_4']
    assert not phased(net)


def test_hooks_get_whole_maps(net):
    seen = []
    ours = deploy(net, 'phases')
    expected = deploy(net)(x := torch.randn(1, 3, 64, 96))[-1]
    for part in (ours.stage_3[1], ours.stage_3[2].conv, ours.stage_4[0].act):
        part.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    torch.testing.assert_close(ours(x)[-1], expected)
    assert [tuple(shape[2:]) for shape in seen] == [(8, 12)] * 3


@pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.13'),
    reason='not every older torch.compile traces vars() of a module',
)
def test_whole_graph_is_compiled(net):
    ours = deploy(net, 'phases')
    compiled = torch.compile(ours, backend='eager', fullgraph=True)
    x = torch.randn(1, 3, 65, 47)
    assert torch.equal(compiled(x)[-1], ours(x)[-1])


class Doubled(RepVGGBlock):
    def forward(self, x):
        return 2 * super().forward(x)


class Leaky(nn.ReLU):
    def forward(self, x):
        return x.maximum(x.mean((2, 3), keepdim=True))


@pytest.mark.parametrize('change', ['class', 'activation', 'forward'])
def test_blocks_that_compute_something_else_are_left_alone(net, change):
    block = net.stage_3[1]
    if change == 'class':
        block.__class__ = Doubled
    elif change == 'activation':
        block.act = Leaky()
    direct, ours = deploy(net), deploy(net, 'phases')
    if change == 'forward':
        for model in (direct, ours):
            model.stage_3[1].forward = lambda x: x.flip(3)
    x = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(ours(x)[-1], direct(x)[-1])
    assert phased(ours) == ['stage_3', 'stage_4']


def test_auto_follows_the_result_of_its_trials(net, monkeypatch):
    asked = []

    def trial(layers, threads):
        asked.append(layers)
        return len(asked) == 1

    monkeypatch.setattr(engines, 'library', lambda: None)
    monkeypatch.setattr(phases, '_phases_are_faster', trial)
    assert phased(deploy(net, 'auto')) == ['stage_3']
    first = (64, 64, 1, 2, 1)
    assert asked[0] == ((32, 64, *first[2:]), first, first)
    assert [len(layers) for layers in asked] == [3, 2]
    # Elsewhere convs are left to PyTorch.
    assert not phased(deploy(net.to('meta'), 'auto'))
    assert len(asked) == 2


@pytest.mark.parametrize('faster', [True, False])
def test_trial_runs_both_and_draws_no_random_numbers(monkeypatch, faster):
    seen = []

    def compare(candidate, current, x):
        expected = current(x)
        assert torch.equal(candidate(x), expected)
        seen.append((type(candidate), type(current), tuple(expected.shape)))
        return faster

    phases._phases_are_faster.cache_clear()
    monkeypatch.setattr(phases, 'is_faster', compare)
    state = torch.get_rng_state()
    layers = ((16, 32, 1, 4, 1), (32, 32, 1, 4, 2))
    for _ in range(2):
        assert phases._phases_are_faster(layers, 1) is faster
    assert seen == [(PhasedSequential, nn.Sequential, (1, 32, 64, 64))]
    assert torch.equal(torch.get_rng_state(), state)
    phases._phases_are_faster.cache_clear()
