"""Mixed precision where the machine computes it fast, and what --amp chooses."""

import sys

import pytest
import torch
from mmengine.runner import Runner

from mmseg_repvgg.engine import precision
from mmseg_repvgg.engine.precision import (
    AutocastOptimWrapper,
    choose_dtype,
    measure_bfloat16_slowdown,
    use_amp,
)
from mmseg_repvgg.errors import ConfigError


@pytest.fixture
def measured(monkeypatch):
    """Return a function that sets what the trial finds and counts its runs."""

    def set_slowdown(slowdown):
        runs = []
        monkeypatch.setattr(
            precision, 'measure_bfloat16_slowdown', lambda: runs.append(1) or slowdown
        )
        return runs

    return set_slowdown


def wrapper(dtype='auto'):
    parameter = torch.nn.Parameter(torch.zeros(1))
    return AutocastOptimWrapper(dtype, optimizer=torch.optim.SGD([parameter], lr=0.1))


@pytest.mark.parametrize(
    ('slowdown', 'dtype'), [(0.5, 'bfloat16'), (0.95, 'float32'), (12.0, 'float32')]
)
def test_auto_takes_bfloat16_only_where_it_is_faster(measured, slowdown, dtype):
    measured(slowdown)
    assert choose_dtype()[0] == dtype
    assert wrapper().dtype == dtype


def test_the_choice_is_logged_with_its_reason(measured, street_config):
    measured(12.0)
    street_config.optim_wrapper.type = 'AutocastOptimWrapper'
    street_config.train_cfg.max_iters = 1
    runner = Runner.from_cfg(street_config)
    runner.train()
    with open(runner.logger.log_file) as log:
        (line,) = (line for line in log if 'Precision' in line)
    assert 'float32, since this CPU trains 12.0x slower in bfloat16' in line


def test_the_trial_draws_no_random_numbers_and_is_a_ratio(one_thread):
    before = torch.get_rng_state()
    assert 0 < measure_bfloat16_slowdown() < float('inf')
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_only_the_forward_passes_of_training_run_in_the_chosen_precision(
    street_config, dtype
):
    street_config.optim_wrapper.update(type='AutocastOptimWrapper', dtype=dtype)
    street_config.train_cfg.max_iters = 1
    runner = Runner.from_cfg(street_config)
    dtypes = set()

    def look(module, inputs, output):
        # deploy calls it with a map of ones, of one pixel.
        if output[0, 0].numel() > 1:
            dtypes.add((module.training, output.dtype))

    conv = runner.model.backbone.stage_1[0].conv.branch_3x3.conv
    conv.register_forward_hook(look)
    runner.train()
    # DeployHook compares the training form with the fused one, in float32.
    assert dtypes == {(True, getattr(torch, dtype)), (False, torch.float32)}
    assert {p.dtype for p in runner.model.parameters()} == {torch.float32}


def test_gradients_are_accumulated(street_config):
    street_config.optim_wrapper.update(
        type='AutocastOptimWrapper', dtype='bfloat16', accumulative_counts=2
    )
    runner = Runner.from_cfg(street_config)
    runner.train()
    steps = [state['step'] for state in runner.optim_wrapper.optimizer.state.values()]
    assert runner.iter == 4
    assert set(map(int, steps)) == {2}


def test_a_resumed_run_keeps_its_precision_on_another_machine(measured):
    measured(0.5)
    state = wrapper().state_dict()
    measured(12.0)
    resumed = wrapper()
    assert resumed.dtype == 'float32'
    resumed.load_state_dict(state)
    assert resumed.dtype == 'bfloat16'


def test_a_requested_precision_outlives_a_resume(measured):
    measured(0.5)
    state = wrapper().state_dict()
    resumed = wrapper('float32')
    resumed.load_state_dict(state)
    assert resumed.dtype == 'float32'


def test_bfloat16_by_name_warns_where_it_is_emulated(measured, caplog, street_config):
    runs = measured(12.0)
    street_config.optim_wrapper.update(type='AutocastOptimWrapper', dtype='bfloat16')
    street_config.train_cfg.max_iters = 1
    runner = Runner.from_cfg(street_config)
    runner.train()
    assert runs == [1]
    with open(runner.logger.log_file) as log:
        (line,) = (line for line in log if '12.0x slower' in line)
    assert 'WARNING' in line
    assert '--amp auto' in line


def test_an_unknown_precision_is_named():
    with pytest.raises(ConfigError, match="'auto', 'bfloat16', 'float32'.*'fp16'"):
        wrapper('fp16')


def choose(cfg, monkeypatch, amp, kind='OptimWrapper', gpu=None, **arguments):
    """Return the optimizer wrapper that train.py --amp would build.

    Args:
        gpu: None for a CPU, or the compute capability.
    """
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: gpu)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'Old GPU')
    cfg.optim_wrapper.update(type=kind, **arguments)
    use_amp(cfg, amp)
    chosen = dict(cfg.optim_wrapper)
    del chosen['optimizer']
    return chosen


OLD, NEW = (7, 5), (8, 0)
FLOAT16 = dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')
BFLOAT16 = dict(type='AutocastOptimWrapper', dtype='bfloat16')
AUTO = dict(type='AutocastOptimWrapper', dtype='auto')


@pytest.mark.parametrize(
    'kind', ['OptimWrapper', 'AmpOptimWrapper', 'AutocastOptimWrapper']
)
@pytest.mark.parametrize(
    ('amp', 'gpu', 'expected'),
    [
        ('auto', None, AUTO),
        ('auto', NEW, AUTO),
        ('auto', OLD, FLOAT16),
        ('float16', NEW, FLOAT16),
        ('bfloat16', NEW, BFLOAT16),
        ('bfloat16', None, BFLOAT16),
    ],
)
def test_amp_chooses(street_config, monkeypatch, kind, amp, gpu, expected):
    assert choose(street_config, monkeypatch, amp, kind, gpu) == expected


def test_amp_leaves_no_scaling_to_bfloat16(street_config, monkeypatch):
    scaled = dict(kind='AmpOptimWrapper', loss_scale=512.0, dtype='float16')
    assert choose(street_config, monkeypatch, 'bfloat16', **scaled) == BFLOAT16
    scaled = dict(kind='AmpOptimWrapper', loss_scale=512.0, gpu=NEW)
    chosen = choose(street_config, monkeypatch, 'float16', **scaled)
    assert chosen == dict(FLOAT16, loss_scale=512.0)


@pytest.mark.parametrize(
    ('amp', 'options', 'says'),
    [
        ('float16', {}, 'float16 needs a CUDA device'),
        ('bfloat16', dict(gpu=OLD), 'Old GPU lacks.*float16'),
        ('auto', dict(kind='Mine'), "'Mine'"),
    ],
)
def test_unsupported_amp_is_an_error(street_config, monkeypatch, amp, options, says):
    with pytest.raises(ConfigError, match=says):
        choose(street_config, monkeypatch, amp, **options)


@pytest.mark.parametrize(('capability', 'dtype'), [(NEW, 'bfloat16'), (OLD, 'float32')])
def test_a_gpu_is_asked_for_bfloat16_units(monkeypatch, capability, dtype):
    monkeypatch.setattr(precision, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: capability)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a GPU')
    assert choose_dtype()[0] == dtype


AGREE = """
import sys
from torch import distributed
from mmseg_repvgg.engine import precision

rank, meeting = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group('gloo', f'file://{meeting}', rank=rank, world_size=2)
precision.measure_bfloat16_slowdown = lambda: [0.5, 12.0][rank]
assert precision.choose_dtype()[0] == 'bfloat16'
distributed.barrier()
distributed.destroy_process_group()
"""


def test_all_processes_use_the_choice_of_the_first(start, tmp_path):
    processes = [
        start(sys.executable, '-c', AGREE, rank, tmp_path / 'meeting', cwd=tmp_path)
        for rank in range(2)
    ]
    for process in processes:
        process.succeed()
