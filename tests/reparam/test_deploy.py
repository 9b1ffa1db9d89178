"""deploy() and the copy that it returns."""

import copy
import functools
import random
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from torch.testing import assert_close

import mmseg_repvgg
from mmseg_repvgg import RepVGG
from mmseg_repvgg.reparam import RepConv, RepVGGBlock, deploy, is_deployed
from mmseg_repvgg.winograd import ENGINES, WinogradConv2d

TINY = dict(depths=(1, 1, 2, 1), a=0.25, b=0.25)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = RepVGG(TINY)
        self.head = nn.Conv2d(128, 3, 1)
        self.again = self.head
        self.missing = None

    def forward(self, x):
        return self.head(self.backbone(x)[-1])


@pytest.fixture
def net(randomize_norms):
    return randomize_norms(Net())


def test_package_exports_deploy():
    assert mmseg_repvgg.deploy is deploy


def test_copy_is_fused_and_equal(net):
    x = torch.randn(2, 3, 33, 47)
    net.train()
    fused = deploy(net)
    assert is_deployed(fused)
    assert not is_deployed(net)
    assert not fused.training
    assert not any(module.training for module in fused.modules())
    with torch.no_grad():
        assert_close(fused(x), net.eval()(x), rtol=1e-4, atol=1e-5)


def test_original_can_be_trained_further(net):
    net.train()
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    fused = deploy(net)
    assert modes == [module.training for module in net.modules()]
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    for parameter in (*fused.parameters(), *deploy(net).parameters()):
        assert not parameter.requires_grad
        assert parameter.grad is None


def test_only_unchanged_tensors_share_memory(net):
    fused = deploy(net)
    assert fused.head.weight.data_ptr() == net.head.weight.data_ptr()
    assert fused.head is not net.head
    assert fused.head is fused.again
    fused.half()
    assert net.head.weight.dtype == torch.float32
    assert net.backbone.stem.conv.branch_3x3.conv.weight.dtype == torch.float32


def test_hooks_of_the_copy_are_its_own(net):
    calls = []
    net.head.register_forward_hook(lambda *_: calls.append('original'))
    fused = deploy(net)
    fused.head.register_forward_hook(lambda *_: calls.append('copy'))
    x = torch.randn(1, 3, 32, 32)
    net(x)
    assert calls == ['original']
    calls.clear()
    fused(x)
    assert calls == ['original', 'copy']


def test_hook_of_a_slot_moves_to_the_fused_conv(net):
    calls = []
    net.backbone.stem.conv.register_forward_hook(lambda conv, *_: calls.append(conv))
    net.backbone.stem.conv.register_forward_hook(lambda *_: torch.zeros(1, 48, 16, 16))
    for engine in ENGINES:
        fused = deploy(net, engine)
        with torch.no_grad():
            assert not fused.backbone.stem(torch.randn(1, 3, 32, 32)).any()
        assert calls.pop() is fused.backbone.stem.conv


def test_hooks_stay_when_winograd_convs_are_replaced():
    fast = WinogradConv2d(nn.Conv2d(32, 32, 3, padding=1))
    fast.register_forward_hook(lambda *_: 'heard')
    assert deploy(fast)(torch.randn(1, 32, 8, 8)) == 'heard'


@pytest.mark.parametrize(
    ('compute', 'settle'),
    [
        (functools.partial(prune.l1_unstructured, amount=0.5), prune.remove),
        (torch.nn.utils.weight_norm, torch.nn.utils.remove_weight_norm),
    ],
    ids=['prune', 'weight_norm'],
)
@pytest.mark.filterwarnings('ignore:.*weight_norm.*:FutureWarning')
def test_weights_computed_by_a_hook_are_an_error(net, compute, settle):
    """Their values are those of the last forward pass."""
    conv = net.backbone.stem.conv.branch_3x3.conv
    compute(conv, name='weight')
    with pytest.raises(ValueError, match=r'branch_3x3.conv: a forward pre-hook'):
        deploy(net)
    settle(conv, 'weight')
    assert is_deployed(deploy(net))


def test_hooks_that_change_nothing_are_accepted(net):
    """Profilers and counters put hooks on every module."""
    for module in net.modules():
        module.register_forward_pre_hook(lambda *_: None)
        module.register_forward_hook(lambda *_: None)
        module.register_full_backward_hook(lambda *_: None)
    assert is_deployed(deploy(net))


class LoRAConv(nn.Conv2d):
    """A subclass that keeps the conv's weight and adds to it, as loralib does."""

    def __init__(self, conv):
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            bias=False,
        )
        self.delta = nn.Parameter(torch.randn_like(conv.weight))

    def forward(self, x):
        return F.conv2d(x, self.weight + self.delta, None, self.stride, self.padding)


class Adapter(nn.Module):
    """A wrapper that shows the weight of the conv it adds to, as peft does."""

    def __init__(self, conv):
        super().__init__()
        self.base_layer = conv
        self.added = nn.Conv2d(conv.in_channels, conv.out_channels, 1, conv.stride)

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, x):
        return self.base_layer(x) + self.added(x)


class Scaled(RepConv):
    def forward(self, x):
        return 2 * super().forward(x)


class ScaledNorm(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


def double_input(module, args):
    return (2 * args[0],)


def double_in_place(module, args, y):
    y.mul_(2)


CHANGES = {
    'subclass_of_conv': (
        lambda rep: setattr(rep.branch_1x1, 'conv', LoRAConv(rep.branch_1x1.conv)),
        'branch_1x1.conv',
    ),
    'wrapped_conv': (
        lambda rep: setattr(rep.branch_3x3, 'conv', Adapter(rep.branch_3x3.conv)),
        'branch_3x3.conv',
    ),
    'parametrized_conv': (
        lambda rep: parametrize.register_parametrization(
            rep.branch_1x1.conv, 'weight', Double()
        ),
        'branch_1x1.conv',
    ),
    'subclass_of_norm': (
        lambda rep: setattr(rep.branch_1x1.bn, '__class__', ScaledNorm),
        'branch_1x1.bn',
    ),
    'appended_module': (lambda rep: rep.branch_1x1.append(Double()), 'branch_1x1.2'),
    'another_branch': (lambda rep: rep.append_branch(Double()), 'branch_new'),
    'dilated_branch': (
        lambda rep: rep.append_branch(
            nn.Sequential(nn.Conv2d(64, 64, 3, padding=3, dilation=3), nn.BatchNorm2d(64))
        ),
        'branch_new.0',
    ),
    'forward_of_subclass': (lambda rep: setattr(rep, '__class__', Scaled), 'Scaled'),
    'forward_of_instance': (
        lambda rep: setattr(rep.branch_1x1, 'forward', lambda x: x),
        'branch_1x1',
    ),
    'bound_forward_of_instance': (
        lambda rep: setattr(
            rep.branch_1x1.conv,
            'forward',
            types.MethodType(LoRAConv.forward, rep.branch_1x1.conv),
        ),
        'branch_1x1.conv',
    ),
    'hook': (
        lambda rep: rep.branch_1x1.register_forward_hook(lambda m, args, y: 2 * y),
        'branch_1x1',
    ),
    'hook_in_place': (
        lambda rep: rep.branch_1x1.bn.register_forward_hook(double_in_place),
        'branch_1x1.bn',
    ),
    'pre_hook': (
        lambda rep: rep.branch_3x3.conv.register_forward_pre_hook(double_input),
        'branch_3x3.conv',
    ),
}


@pytest.mark.parametrize('change', CHANGES)
def test_module_that_fusion_would_lose_is_an_error(net, change):
    alter, name = CHANGES[change]
    rep = net.backbone.stage_3[1].conv
    rep.append_branch = functools.partial(rep.add_module, 'branch_new')
    alter(rep)
    with pytest.raises(ValueError, match=f'cannot fuse {name}:'):
        deploy(net)


def test_subclass_that_overrides_fuse_is_fused(net, monkeypatch):
    def fuse(self):
        conv = RepConv.fuse(self)
        conv.weight.mul_(2)
        conv.bias.mul_(2)
        return conv

    net.backbone.stem.conv.__class__ = Scaled
    monkeypatch.setattr(Scaled, 'fuse', fuse, raising=False)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert_close(deploy(net)(x), net.eval()(x), rtol=1e-4, atol=1e-5)


def test_bias_of_a_branch_is_fused(net):
    convs = [m for m in net.backbone.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        conv.bias = nn.Parameter(torch.randn(conv.out_channels))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert_close(deploy(net)(x), net.eval()(x), rtol=1e-4, atol=1e-5)


def test_attributes_refer_to_the_copies(net):
    net.steps = [net.backbone, net.head]
    net.pair = (net.head, 'head')
    net.table = {'run': net.backbone.forward, 'stages': [[net.backbone.stage_1]]}
    net.part = functools.partial(net.backbone.forward, first=net.head)
    net.backbone.inner = [net.backbone.stem]
    net.round = [net.head]
    net.round.append(net.round)
    fused = deploy(net)
    assert fused.steps == [fused.backbone, fused.head]
    assert fused.pair == (fused.head, 'head')
    assert fused.table['run'].__self__ is fused.backbone
    assert fused.table['stages'] == [[fused.backbone.stage_1]]
    assert fused.part.func.__self__ is fused.backbone
    assert fused.part.keywords == {'first': fused.head}
    assert fused.backbone.inner == [fused.backbone.stem]
    assert fused.round[0] is fused.head
    assert net.steps == [net.backbone, net.head]
    assert net.table['run'].__self__ is net.backbone
    assert net.table['stages'] == [[net.backbone.stage_1]]
    assert net.backbone.inner == [net.backbone.stem]


def test_method_used_as_hook_is_bound_to_the_copy(net):
    """A model may take a feature from the middle of its backbone."""
    heard = []
    type(net).listen = lambda self, *_: heard.append(self)
    net.backbone.stage_4[-1].register_forward_hook(net.listen)
    fused = deploy(net)
    with torch.no_grad():
        fused(torch.randn(1, 3, 32, 32))
    assert heard == [fused]


class Recorder:
    def __init__(self, model):
        self.model = model
        self.heard = ()

    def hook(self, module, *_):
        self.heard += (module,)

    __call__ = hook


def test_objects_used_as_hooks_are_called_by_the_copy(net):
    recorder = Recorder(net)
    net.head.register_forward_hook(recorder)
    net.head.register_forward_hook(recorder.hook)
    net.backbone.stem.conv.register_forward_hook(functools.partial(recorder.hook))
    fused = deploy(net)
    with torch.no_grad():
        fused(torch.randn(1, 3, 32, 32))
    assert recorder.heard == (fused.backbone.stem.conv, fused.head, fused.head)


def test_other_objects_are_shared(net):
    """Some objects cannot be copied and others are large."""
    net.lock = threading.Lock()
    net.features = {'last': net(torch.randn(1, 3, 32, 32))}
    net.seen = [torch.zeros(3), {1, 2}]
    net.record = Recorder(net)
    net.teacher = [nn.Conv2d(3, 3, 1)]
    fused = deploy(net)
    assert fused.lock is net.lock
    assert fused.features['last'] is net.features['last']
    assert fused.seen[0] is net.seen[0]
    assert fused.seen == net.seen
    assert fused.record is net.record
    assert fused.teacher == net.teacher
    fused.seen.append(1)
    assert len(net.seen) == 2


def test_copy_made_in_inference_mode_can_be_loaded_into(net):
    with torch.inference_mode():
        fused = deploy(net, 'winograd')
    fused.load_state_dict(fused.state_dict())
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    deploy(fused)(x).sum().backward()
    assert x.grad is not None


def test_methods_kept_as_attributes_are_bound_to_the_copy(net):
    net.run = net.forward
    fused = deploy(net)
    assert fused.run.__self__ is fused


def compiled(method):
    return torch.compile(method, backend='eager')


def timed(method):
    return lambda *args: method(*args)


def timed_and_bound(method):
    return types.MethodType(lambda self, *args: method(*args), method.__self__)


class Timer:
    def __init__(self, method):
        self.method = method

    def __call__(self, *args):
        return self.method(*args)


@pytest.mark.parametrize('wrap', [compiled, timed, timed_and_bound, Timer])
@pytest.mark.parametrize('name', ['forward', 'features'])
def test_copy_does_not_call_the_original_through_a_wrapped_method(net, wrap, name):
    class WithFeatures(Net):
        def features(self, x):
            return self.backbone(x)[-1]

        def forward(self, x):
            return self.head(self.features(x))

    net.__class__ = WithFeatures
    setattr(net, name, wrap(getattr(net, name)))
    fused = deploy(net)
    nn.init.zeros_(net.head.bias)
    net.backbone.forward = lambda x: pytest.fail('the original was called')
    with torch.no_grad():
        assert fused(torch.randn(1, 3, 32, 32)).any()


def test_function_bound_in_place_of_a_method_is_kept(net):
    net.forward = types.MethodType(lambda self, x: self.head.weight, net)
    fused = deploy(net)
    assert fused(None) is fused.head.weight


def test_wrapped_forward_does_not_call_the_original(net):
    # As mmengine's activation_checkpointing does.
    original = net.backbone.forward
    net.backbone.forward = lambda x: original(x)
    calls = []
    net.backbone.stem.register_forward_hook(lambda *_: calls.append(1))
    fused = deploy(net)
    fused(torch.randn(1, 3, 32, 32))
    assert len(calls) == 1  # the copy's; the original would be a second one
    assert 'forward' not in vars(fused.backbone)
    assert type(fused.backbone.stem.conv) is nn.Conv2d


def test_tied_parameters_stay_tied(net):
    net.twin = nn.Conv2d(128, 3, 1)
    net.twin.weight = net.head.weight
    fused = deploy(net)
    assert fused.twin.weight is fused.head.weight
    assert fused.twin.weight is not net.head.weight


def test_deploying_twice_changes_nothing(net):
    once = deploy(net)
    twice = deploy(once)
    assert list(once.state_dict()) == list(twice.state_dict())
    for key, value in once.state_dict().items():
        assert torch.equal(value, twice.state_dict()[key]), key


@pytest.mark.parametrize('engine', ENGINES)
def test_no_random_numbers_are_drawn(net, engine):
    def states():
        numpy_state = str(np.random.get_state())
        return torch.get_rng_state().tolist(), numpy_state, random.getstate()

    before = states()
    deploy(net, engine)
    assert states() == before


def test_a_single_slot_can_be_deployed(randomize_norms):
    rep = randomize_norms(RepConv(4, 4, identity=True)).eval()
    x = torch.randn(1, 4, 6, 6)
    fused = deploy(rep)
    assert type(fused) is nn.Conv2d
    assert_close(fused(x), rep(x), rtol=1e-5, atol=1e-5)


def test_data_parallel_wrapper_is_removed(net):
    fused = deploy(nn.DataParallel(net))
    assert type(fused) is Net
    assert is_deployed(fused)


def test_compiled_model_is_deployed(net):
    # eager backend: no compiler needed; what counts is whose forward runs.
    net.backbone = torch.compile(net.backbone, backend='eager')
    net.head.compile(backend='eager')
    fused = deploy(net)
    assert is_deployed(fused)
    assert isinstance(fused.backbone, RepVGG)
    with torch.no_grad():
        fused.head.weight = nn.Parameter(torch.zeros_like(fused.head.weight))
        fused.head.bias = nn.Parameter(torch.zeros_like(fused.head.bias))
        assert not fused(torch.randn(1, 3, 32, 32)).any()


def test_unknown_engine_is_an_error(net):
    with pytest.raises(
        ValueError, match=r"'torch', 'phases', 'winograd', 'auto'\), but got 'tensorrt'"
    ):
        deploy(net, engine='tensorrt')


def test_partial_attributes_are_accepted(net):
    net.scale = functools.partial(torch.mul, other=2)
    assert deploy(net).scale(torch.ones(1)) == 2


class Residual(RepVGGBlock):
    def forward(self, x):
        return self.act(self.conv(x) - x)


def negate(module, args, y):
    return -y


@pytest.mark.parametrize(
    'change',
    [
        lambda block: None,
        lambda block: setattr(block, '__class__', Residual),
        lambda block: setattr(
            block, 'forward', types.MethodType(Residual.forward, block)
        ),
        lambda block: block.se.register_forward_hook(negate),
    ],
    ids=['none', 'subclass', 'bound_forward', 'hook_before_relu'],
)
def test_winograd_computes_the_relu_only_directly_after_the_conv(randomize_norms, change):
    block = randomize_norms(RepVGGBlock(RepConv(32, 32, identity=True)))
    change(block)
    fused = deploy(block, 'winograd')
    x = torch.randn(1, 32, 12, 12)
    with torch.no_grad():
        assert_close(fused(x), block.eval()(x), rtol=1e-4, atol=1e-4)


def test_winograd_keeps_convs_with_another_forward():
    lora = LoRAConv(nn.Conv2d(32, 32, 3, padding=1))
    bound = nn.Conv2d(32, 32, 3, padding=1)
    bound.forward = types.MethodType(lambda conv, x: F.conv2d(x, 2 * conv.weight), bound)
    net = nn.Sequential(lora, bound).eval()
    x = torch.randn(1, 32, 12, 12)
    with torch.no_grad():
        assert_close(deploy(net, 'winograd')(x), net(x))
