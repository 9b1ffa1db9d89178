"""The ImageNet recipe of section 4.1, as far as it needs no mmpretrain.

tests/peers/test_imagenet.py trains it.
"""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmseg.registry import MODELS
from torch import nn

from mmseg_repvgg import RepVGG

TINY = dict(depths=(1, 2, 2, 1), a=0.25, b=0.25)
EPOCH = -(-1_281_167 // 256)


class Net(nn.Module):
    """The parts of mmpretrain's classifier that have parameters."""

    def __init__(self):
        super().__init__()
        self.backbone = RepVGG(TINY, dilation=None, out_indices=(3,))
        self.head = nn.ModuleDict(dict(fc=nn.Linear(128, 10)))


@pytest.fixture
def load(repo):
    return lambda name: Config.fromfile(repo / 'configs' / 'imagenet' / f'{name}.py')


@pytest.mark.parametrize('name', ['repvgg_a0_imagenet', 'repvgg_b2_imagenet'])
def test_decay_is_that_of_the_authors(load, name):
    net, cfg = Net(), load(name)
    optimizer = build_optim_wrapper(net, cfg.optim_wrapper).optimizer
    assert optimizer.defaults['momentum'] == 0.9
    names = {parameter: key for key, parameter in net.named_parameters()}
    for group in optimizer.param_groups:
        (key,) = (names.pop(parameter) for parameter in group['params'])
        decayed = key.endswith(
            ('conv.weight', 'branch_identity.weight', 'head.fc.weight')
        )
        assert group['weight_decay'] == (1e-4 if decayed else 0), key
    assert not names


@pytest.mark.parametrize(
    ('name', 'epochs', 'warm_up'),
    [('repvgg_a0_imagenet', 120, 0), ('repvgg_b2_imagenet', 200, 5)],
)
def test_learning_rate_is_a_cosine_to_zero(load, name, epochs, warm_up):
    cfg, parameter = load(name), nn.Parameter(torch.zeros(()))
    assert cfg.train_cfg.max_iters == epochs * EPOCH
    assert cfg.train_cfg.val_interval == EPOCH
    optimizer = torch.optim.SGD([parameter], lr=cfg.optim_wrapper.optimizer.lr)
    # A step for each epoch: mmengine computes each rate from the one before.
    schedulers = [
        PARAM_SCHEDULERS.build(
            {**each, 'begin': each.begin // EPOCH, 'end': each.end // EPOCH},
            default_args=dict(optimizer=optimizer),
        )
        for each in cfg.param_scheduler
    ]
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert rates[warm_up] == pytest.approx(0.1)
    assert rates[:warm_up] == sorted(rates[:warm_up])
    assert (rates[0] < 0.01) == (warm_up > 0)
    assert rates[(epochs + warm_up) // 2] == pytest.approx(0.05, rel=0.03)
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize('name', ['repvgg_a0_imagenet', 'repvgg_b2_imagenet'])
def test_backbone_is_the_undilated_one(load, name):
    cfg = load(name)
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model.backbone)
    (image,) = backbone(torch.empty(1, 3, 224, 224, device='meta'))
    assert image.shape == (1, cfg.model.head.in_channels, 7, 7)
    batch = cfg.train_dataloader.batch_size
    assert cfg.auto_scale_lr.base_batch_size == 8 * batch


def test_checkpoint_of_a_classifier_fills_a_backbone(tmp_path):
    net = Net()
    torch.save({'state_dict': net.state_dict(), 'meta': {}}, tmp_path / 'iter_2.pth')
    start = dict(type='Pretrained', checkpoint=str(tmp_path / 'iter_2.pth'))
    backbone = MODELS.build(dict(type='RepVGG', arch=TINY, init_cfg=start))
    backbone.init_weights()
    for key, value in net.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[key], value), key
