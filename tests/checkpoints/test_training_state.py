"""The state of every scheduler and optimizer survives a checkpoint."""

import pytest
import torch
from mmengine.optim import ReduceOnPlateauParamScheduler
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS
from torch.optim import lr_scheduler

from mmseg_repvgg.checkpoints.files import read_checkpoint, write_checkpoint

# The arguments of each family of schedulers, by name without its ending of KINDS.
SCHEDULERS = {
    'Constant': [{}],
    'CosineAnnealing': [dict(T_max=4)],
    'CosineRestart': [dict(periods=[3, 6], restart_weights=[1, 0.5], eta_min=0)],
    'Exponential': [dict(gamma=0.9)],
    'Linear': [{}],
    'MultiStep': [dict(milestones=[1, 3])],
    'OneCycle': [
        dict(eta_max=0.5, total_steps=9),
        dict(eta_max=0.5, total_steps=9, anneal_strategy='linear', three_phase=True),
    ],
    'Poly': [dict(end=9)],
    'ReduceOnPlateau': [dict(monitor='loss', patience=1)],
    'Step': [dict(step_size=2)],
}
KINDS = ('ParamScheduler', 'Momentum', 'LR')
PYTORCH = {
    'ConstantLR': {},
    'CosineAnnealingLR': dict(T_max=4),
    'CosineAnnealingWarmRestarts': dict(T_0=2),
    'CyclicLR': dict(base_lr=0.1, max_lr=0.5),
    'ExponentialLR': dict(gamma=0.9),
    'LinearLR': {},
    'MultiStepLR': dict(milestones=[1, 3]),
    'OneCycleLR': dict(max_lr=0.5, total_steps=9),
    'PolynomialLR': {},
    'ReduceLROnPlateau': dict(patience=1),
    'StepLR': dict(step_size=2),
}
# Optimizer is the base class; ZeroRedundancyOptimizer needs a process group.
NOT_BUILT = {'Optimizer', 'ZeroRedundancyOptimizer'}


def cases():
    for name in PARAM_SCHEDULERS.module_dict:
        kind = next(kind for kind in KINDS if name.endswith(kind))
        for arguments in SCHEDULERS[name.removesuffix(kind)]:
            named = dict(param_name='lr') if kind == 'ParamScheduler' else {}
            yield PARAM_SCHEDULERS.get(name), {**arguments, **named}
    for name, arguments in PYTORCH.items():
        yield getattr(lr_scheduler, name), arguments


def sgd():
    parameters = [torch.nn.Parameter(torch.ones(2))]
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def step(scheduler):
    scheduler.optimizer.step()
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(1.0)
    elif isinstance(scheduler, ReduceOnPlateauParamScheduler):
        scheduler.step({'loss': 1.0})
    else:
        scheduler.step()
    group = scheduler.optimizer.param_groups[0]
    return {key: value for key, value in group.items() if key != 'params'}


def through_a_file(folder, state):
    write_checkpoint({'state': state}, folder / 'a.pth')
    return read_checkpoint(folder / 'a.pth')['state']


@pytest.mark.parametrize(('kind', 'arguments'), cases())
def test_scheduler_resumes_from_a_checkpoint(tmp_path, assert_same, kind, arguments):
    first, second = kind(sgd(), **arguments), kind(sgd(), **arguments)
    for _ in range(3):
        step(first)
    state = through_a_file(tmp_path, first.state_dict())
    assert_same(state, first.state_dict())
    second.load_state_dict(state)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    for _ in range(4):
        assert step(second) == step(first)


def train(optimizer, weight, steps):
    def loss():
        optimizer.zero_grad()
        value = ((weight - 0.5) ** 3).abs().sum()
        value.backward()
        if isinstance(optimizer, torch.optim.SparseAdam):
            weight.grad = weight.grad.to_sparse()
        return value

    for _ in range(steps):
        optimizer.step(loss)


@pytest.mark.parametrize('name', sorted(OPTIMIZERS.module_dict.keys() - NOT_BUILT))
def test_optimizer_resumes_from_a_checkpoint(tmp_path, assert_same, name):
    def build(weight):
        kind = OPTIMIZERS.get(name)
        amsgrad = dict(amsgrad=True) if name in ('Adam', 'AdamW') else {}
        momentum = dict(momentum=0.9) if name in ('SGD', 'RMSprop') else {}
        return kind([weight], lr=0.01, **amsgrad, **momentum)

    first = torch.nn.Parameter(torch.rand(2, 3))
    optimizer = build(first)
    train(optimizer, first, 3)
    state = through_a_file(tmp_path, optimizer.state_dict())
    assert optimizer.state_dict()['state']
    assert_same(state, optimizer.state_dict())
    second = torch.nn.Parameter(first.detach().clone())
    resumed = build(second)
    resumed.load_state_dict(state)
    train(optimizer, first, 3)
    train(resumed, second, 3)
    assert torch.equal(second, first)
