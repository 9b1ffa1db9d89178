"""Tests of training with the tools: mixed precision, exact resuming, processes."""

import json
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
ITERATIONS = 6


@pytest.fixture
def config(street_config, tmp_path):
    """Config of the demo with a few iterations, on a size that the pooling bins divide.

    A pixel in several bins would get its gradient by several atomic additions.
    """
    cfg = street_config
    cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=ITERATIONS)
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=-1)
    # A worker draws from a generator of its own, not from that of dropout.
    cfg.train_dataloader.num_workers = 1
    cfg.model.data_preprocessor.size = (48, 48)
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'RandomCrop':
            step.crop_size = (48, 48)
    cfg.custom_imports.imports += ['dying', 'telling']
    cfg.custom_hooks += [dict(type='DyingHook'), dict(type='TellingHook')]
    path = tmp_path / 'config.py'
    cfg.dump(path)
    return path


def train(start, config, device, work_dir, *options, processes=None, **env):
    command = [sys.executable, REPO / 'tools' / 'train.py', config]
    if processes is not None:
        command = ['bash', REPO / 'tools' / 'dist_train.sh', config, processes]
    if device == 'cpu':
        env['CUDA_VISIBLE_DEVICES'] = ''
    return start(*command, '--work-dir', work_dir, *options, cwd=config.parent, **env)


def log(work_dir):
    return '\n'.join(path.read_text() for path in work_dir.glob('*/*.log'))


def losses(work_dir):
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line['loss'] for line in lines if 'loss' in line]


def checkpoint(work_dir, iteration=ITERATIONS):
    return torch.load(work_dir / f'iter_{iteration}.pth', weights_only=False)


@pytest.mark.parametrize(
    ('device', 'amp'),
    [
        ('cpu', 'bfloat16'),
        pytest.param('cuda', 'float16', marks=pytest.mark.cuda),
        pytest.param('cuda', 'bfloat16', marks=pytest.mark.cuda),
    ],
)
def test_mixed_precision_trains(config, device, amp, tmp_path, start):
    work_dir = tmp_path / 'work'
    train(start, config, device, work_dir, '--amp', amp).succeed()
    assert f'on {device}' in log(work_dir)
    assert 'evaluating the fused model' in log(work_dir)
    assert torch.tensor(losses(work_dir)).isfinite().all()
    first, last = checkpoint(work_dir, 2), checkpoint(work_dir)
    name = 'backbone.stem.conv.branch_3x3.conv.weight'
    assert last['state_dict'][name].dtype == torch.float32
    assert not torch.equal(first['state_dict'][name], last['state_dict'][name])
    assert ('loss_scaler' in last['optimizer']) == (amp == 'float16')


def test_resuming_is_exact_with_deterministic_algorithms(
    config, device, tmp_path, start, assert_same
):
    straight, broken = tmp_path / 'straight', tmp_path / 'broken'
    # cuBLAS is deterministic only with this setting.
    env = dict(CUBLAS_WORKSPACE_CONFIG=':4096:8')
    options = ['--cfg-options', 'randomness.deterministic=True']
    train(start, config, device, straight, *options, **env).succeed()
    assert f'on {device}' in log(straight)
    death = dict(DIE_AT='train:5', DIE_NOTE=str(tmp_path / 'note'))
    killed = train(start, config, device, broken, *options, **env, **death)
    killed.finish()
    assert killed.returncode == -9
    train(start, config, device, broken, '--resume', *options, **env).succeed()
    ours, theirs = checkpoint(broken), checkpoint(straight)
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(ours[part], theirs[part], part)


def all_gpus() -> int:
    """Return the number of GPUs, or skip the test if there is one at most."""
    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip(f'needs 2 CUDA devices: torch.cuda.device_count() is {count}')
    return count


@pytest.mark.parametrize(
    ('device', 'processes'),
    [
        ('cpu', 'one'),
        pytest.param('cuda', 'one', marks=pytest.mark.cuda),
        pytest.param('cuda', 'all', marks=pytest.mark.cuda),
    ],
)
def test_norms_are_synchronized_by_nccl(config, device, processes, tmp_path, start):
    count = 1 if processes == 'one' else all_gpus()
    work_dir = tmp_path / 'work'
    train(start, config, device, work_dir, processes=count).succeed()
    gloo, nccl = 'gloo on cpu, norms: BatchNorm2d', 'nccl on cuda, norms: SyncBatchNorm'
    expected = gloo if device == 'cpu' else nccl
    assert f'{count} processes by {expected}' in log(work_dir)
    assert torch.tensor(losses(work_dir)).isfinite().all()


@pytest.mark.cuda
def test_processes_compute_the_loss_of_one(config, tmp_path, start):
    count = all_gpus()
    # Parts of a batch have different numbers of labelled pixels to average over.
    options = [
        f'model.{head}.{option}'
        for head in ('decode_head', 'auxiliary_head')
        for option in ('dropout_ratio=0', 'loss_decode.avg_non_ignore=False')
    ]
    found = []
    for processes in (1, count):
        work_dir = tmp_path / str(processes)
        batch = f'train_dataloader.batch_size={2 * count // processes}'
        settings = ['--cfg-options', *options, batch]
        run = train(start, config, 'cuda', work_dir, *settings, processes=processes)
        run.succeed()
        found.append(losses(work_dir)[0])
    # Convolutions compute in TF32; synchronized norms share their statistics.
    assert found[1] == pytest.approx(found[0], rel=1e-2)
