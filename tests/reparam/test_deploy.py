"""deploy(): a fused copy that leaves the original alone."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.testing import assert_close

import mmseg_repvgg
from mmseg_repvgg import RepVGG
from mmseg_repvgg.reparam import ENGINES, RepConv, WinogradConv2d, deploy, is_deployed

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


def test_package_offers_the_same_function():
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


def test_original_goes_on_training(net):
    net.train()
    before = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    fused = deploy(net)
    assert modes == [module.training for module in net.modules()]
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert not any(parameter.requires_grad for parameter in fused.parameters())


def test_unchanged_tensors_share_memory_and_nothing_else(net):
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


def test_whoever_listens_to_a_slot_hears_the_conv(net):
    calls = []
    net.backbone.stem.conv.register_forward_hook(lambda conv, *_: calls.append(conv))
    net.backbone.stem.conv.register_forward_hook(lambda *_: torch.zeros(1, 48, 16, 16))
    for engine in ENGINES:
        fused = deploy(net, engine)
        with torch.no_grad():
            assert not fused.backbone.stem(torch.randn(1, 3, 32, 32)).any()
        assert calls.pop() is fused.backbone.stem.conv


def test_listeners_stay_when_winograd_goes():
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
def test_weights_that_a_hook_computes_are_refused(net, compute, settle):
    """Until the next forward they are those of the last one."""
    conv = net.backbone.stem.conv.branch_3x3.conv
    compute(conv, name='weight')
    with pytest.raises(ValueError, match=r'branch_3x3.conv: a forward pre-hook'):
        deploy(net)
    settle(conv, 'weight')
    assert is_deployed(deploy(net))


def test_hooks_that_compute_nothing_do_not_hinder(net):
    """Those of profilers and counters, on every module."""
    for module in net.modules():
        module.register_forward_pre_hook(lambda *_: None)
    assert is_deployed(deploy(net))


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


def test_a_method_that_listens_is_that_of_the_copy(net):
    """As of a model that takes a feature from the middle of its backbone."""
    heard = []
    type(net).listen = lambda self, *_: heard.append(self)
    net.backbone.stage_4[-1].register_forward_hook(net.listen)
    fused = deploy(net)
    with torch.no_grad():
        fused(torch.randn(1, 3, 32, 32))
    assert heard == [fused]


def test_made_in_inference_mode_it_can_be_loaded_into(net):
    with torch.inference_mode():
        fused = deploy(net, 'winograd')
    fused.load_state_dict(fused.state_dict())
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    deploy(fused)(x).sum().backward()
    assert x.grad is not None


def test_methods_kept_as_attributes_belong_to_the_copy(net):
    net.run = net.forward
    fused = deploy(net)
    assert fused.run.__self__ is fused


def test_forward_that_was_wrapped_is_not_that_of_the_original(net):
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


def test_twice_is_the_same_as_once(net):
    once = deploy(net)
    twice = deploy(once)
    assert list(once.state_dict()) == list(twice.state_dict())
    for key, value in once.state_dict().items():
        assert torch.equal(value, twice.state_dict()[key]), key


def test_nothing_random_is_drawn(net):
    before = torch.get_rng_state()
    deploy(net)
    assert torch.equal(before, torch.get_rng_state())


def test_a_single_slot_can_be_deployed(randomize_norms):
    rep = randomize_norms(RepConv(4, 4, identity=True)).eval()
    x = torch.randn(1, 4, 6, 6)
    fused = deploy(rep)
    assert type(fused) is nn.Conv2d
    assert_close(fused(x), rep(x), rtol=1e-5, atol=1e-5)


def test_data_parallel_wrapper_is_taken_off(net):
    fused = deploy(nn.DataParallel(net))
    assert type(fused) is Net
    assert is_deployed(fused)


def test_compiled_model_is_deployed_not_bypassed(net):
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


def test_unknown_engine_is_named(net):
    with pytest.raises(
        ValueError, match=r"'torch', 'winograd', 'auto'\), but got 'tensorrt'"
    ):
        deploy(net, engine='tensorrt')


def test_partial_and_lambda_attributes_do_not_hinder(net):
    net.scale = functools.partial(torch.mul, other=2)
    assert deploy(net).scale(torch.ones(1)) == 2
