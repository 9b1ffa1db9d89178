import copy

import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from mmseg_repvgg.export.gptq import round_weights
from mmseg_repvgg.reparam import deploy


@pytest.fixture(scope='module')
def images():
    """Smooth images, whose neighbouring pixels are alike as in photographs."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(6, 3, 72, 88, generator=generator)
    return [*nn.functional.avg_pool2d(noise, 9, 1).mul(4).split(2)]


@pytest.fixture
def build(cfg, randomize_norms):
    def build(**arch):
        init_default_scope('mmseg')
        torch.manual_seed(0)
        cfg.model.backbone.arch.update(arch)
        return deploy(randomize_norms(MODELS.build(cfg.model)))

    return build


def convolutions(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


def nearest(weight):
    step = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    return (weight / step).round() * step


@pytest.mark.parametrize('groups', [1, 2])
def test_weights_are_multiples_of_their_steps(build, images, groups):
    model = build(groups=groups)
    before, after = convolutions(model), convolutions(round_weights(model, images))
    for name, conv in after.items():
        old, new = before[name].weight.double(), conv.weight.double()
        if name.startswith('auxiliary_head'):
            assert torch.equal(new, old)
            continue
        largest = old.abs().amax((1, 2, 3), keepdim=True)
        steps = new / largest * (63 if name == 'backbone.stem.conv' else 127)
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
        # The runtime then finds the same steps.
        torch.testing.assert_close(new.abs().amax((1, 2, 3), keepdim=True), largest)
        assert not torch.equal(conv.weight, nearest(before[name].weight))


@pytest.mark.parametrize('groups', [1, 2])
def test_maps_are_closer_than_by_plain_rounding(build, images, groups):
    model = build(groups=groups)
    plain = copy.deepcopy(model)
    for conv in convolutions(plain).values():
        conv.weight.data = nearest(conv.weight)
    rounded = round_weights(model, images)

    @torch.no_grad()
    def error(form):
        pairs = [(form.backbone(x)[-1], model.backbone(x)[-1]) for x in images]
        return sum((found - wanted).square().sum() for found, wanted in pairs)

    assert error(rounded) < 0.7 * error(plain)


def test_squeeze_excitation_keeps_its_weights(build, images):
    model = build(se=True)
    before, after = convolutions(model), convolutions(round_weights(model, images))
    gates = [name for name in before if '.se.' in name]
    assert gates
    for name in gates:
        assert torch.equal(before[name].weight, after[name].weight)


def test_model_is_not_changed(build, images):
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    round_weights(model, images)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
