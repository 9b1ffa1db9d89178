"""Many processes, as torchrun starts them: training, metric and end are as of one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from mmseg_repvgg.datasets.street import write_street_scenes

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[1]
ITERATIONS = 20
GLOBAL_BATCH = 4

# In float32 such a training is chaotic: the rounding of one iteration is amplified by
# the next, and one process differs in the third digit from itself with the batch cut in
# two. Norms in training mode would depend on how the batch is dealt out.
PLUGIN = """
import torch
from mmengine.hooks import Hook
from mmseg.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm

torch.set_default_dtype(torch.float64)


@HOOKS.register_module()
class FrozenNormsHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('distributed')


@pytest.fixture(scope='module')
def scenes(folder):
    """5 images to test on."""
    root = folder / 'scenes'
    write_street_scenes(root, counts={'train': 1, 'val': 5}, size=(64, 128), seed=1)
    return root


@pytest.fixture(scope='module')
def config(street_root, scenes, small_street_config, folder):
    """The demo's with EMA, on small images."""
    cfg = small_street_config(street_root, folder)
    cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=ITERATIONS)
    cfg.param_scheduler[1].end = ITERATIONS
    cfg.train_dataloader.update(batch_size=2, num_workers=1)
    cfg.default_hooks.checkpoint.update(interval=5, max_keep_ckpts=2)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    cfg.test_dataloader.dataset.data_root = str(scenes)
    path = folder / 'config.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def exact_config(street_root, small_street_config, folder):
    """What a batch gives is the mean of what its parts give, but for the rounding."""
    cfg = small_street_config(street_root, folder)
    cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=1000)
    cfg.train_dataloader.batch_size = GLOBAL_BATCH
    cfg.default_hooks.checkpoint.interval = ITERATIONS
    cfg.log_processor.window_size = 1
    cfg.work_dir = str(folder / 'start')
    torch.manual_seed(0)
    Runner.from_cfg(cfg).train()

    # Random weights with the initial statistics would explode.
    cfg.load_from = str(folder / 'start' / f'iter_{ITERATIONS}.pth')
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.01, momentum=0.9)
    cfg.param_scheduler = []
    (folder / 'plugin.py').write_text(PLUGIN)
    cfg.custom_imports = dict(imports=['mmseg_repvgg', 'plugin'])
    cfg.custom_hooks.append(dict(type='FrozenNormsHook'))
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.dropout_ratio = 0
        # The parts hold different numbers of labelled pixels.
        head.loss_decode.avg_non_ignore = False
    path = folder / 'exact_config.py'
    cfg.dump(path)
    return path


def start(*command, cwd, **env):
    """Start a process that finds the plugin."""
    paths = [str(cwd), os.environ.get('PYTHONPATH', '')]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=cwd,
        env={
            **os.environ,
            'PYTHON': sys.executable,
            'PYTHONPATH': os.pathsep.join(filter(None, paths)),
            'OMP_NUM_THREADS': '1',
            **env,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def dist_train(config, processes, work_dir, *options, **env):
    tool = REPO / 'tools' / 'dist_train.sh'
    command = ['bash', tool, config, processes, '--work-dir', work_dir, *options]
    return start(*command, cwd=config.parent, **env)


def finish(process):
    output, _ = process.communicate(timeout=300)
    return output


def succeed(process):
    output = finish(process)
    assert process.returncode == 0, output[-5000:]
    return output


def final(work_dir):
    return torch.load(work_dir / f'iter_{ITERATIONS}.pth', weights_only=False)


# The same training ------------------------------------------------------------------


def train_exactly(config, processes):
    """Train; returns the losses of the iterations and the weights."""
    work_dir = config.parent / f'exact_{processes}'
    share = f'train_dataloader.batch_size={GLOBAL_BATCH // processes}'
    succeed(dist_train(config, processes, work_dir, '--cfg-options', share))
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    return torch.tensor(losses), final(work_dir)['state_dict']


@pytest.fixture(scope='module')
def alone(exact_config):
    return train_exactly(exact_config, 1)


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_train_as_one_does(exact_config, alone, processes):
    losses, weights = train_exactly(exact_config, processes)
    assert len(losses) == ITERATIONS
    assert losses[-5:].mean() < 0.9 * losses[:5].mean(), 'nothing was learned'
    # The log is in float32.
    torch.testing.assert_close(losses, alone[0], rtol=1e-6, atol=0)
    for name, value in weights.items():
        scale = float(value.abs().max())
        assert torch.allclose(value, alone[1][name], rtol=0, atol=1e-8 * scale), name


# The same metric --------------------------------------------------------------------


@pytest.fixture(scope='module')
def straight(config, folder):
    """The work dir and the log of a training by two processes that nothing disturbs."""
    work_dir = folder / 'straight'
    return work_dir, succeed(dist_train(config, 2, work_dir))


def scores(output):
    """The table of the classes and the means, as an evaluation logs them."""
    lines = output.splitlines()
    table = [x for x in lines if x.startswith('|')]
    means = [x.split('aAcc:')[1].split('data_time')[0] for x in lines if 'mIoU:' in x]
    assert len(means) == 1
    return table, means[0].split()


@pytest.mark.parametrize('images', [1, 3, 5])
def test_each_image_counts_once(config, straight, tmp_path, images):
    args = [
        *['--work-dir', tmp_path, '--cfg-options'],
        f'test_dataloader.dataset.indices={images}',
    ]
    checkpoint = straight[0] / f'iter_{ITERATIONS}.pth'
    tools = REPO / 'tools'
    alone = start(
        sys.executable, tools / 'test.py', config, checkpoint, *args, cwd=tmp_path
    )
    expected = scores(succeed(alone))
    two = start(
        'bash', tools / 'dist_test.sh', config, checkpoint, 2, *args, cwd=tmp_path
    )
    assert scores(succeed(two)) == expected


def test_validation_is_of_what_is_saved(config, straight, street_root, tmp_path):
    """Each process has its own running statistics; one process's are saved."""
    work_dir, output = straight
    root = f'test_dataloader.dataset.data_root={street_root}'
    # The checkpoint holds the averaged weights, which the validation was of.
    checkpoint = work_dir / f'iter_{ITERATIONS}.pth'
    tool = REPO / 'tools' / 'test.py'
    alone = start(
        *[sys.executable, tool, config, checkpoint, '--work-dir', tmp_path],
        *['--cfg-options', root],
        cwd=tmp_path,
    )
    assert scores(output) == scores(succeed(alone))


# The same end -----------------------------------------------------------------------


def kill_worker(torchrun, rank, work_dir, iteration):
    """SIGKILL to one process once a checkpoint is written."""
    last = work_dir / 'last_checkpoint'
    while not (last.exists() and last.read_text().endswith(f'iter_{iteration}.pth')):
        assert torchrun.poll() is None, finish(torchrun)[-5000:]
        time.sleep(0.01)
    children = Path(f'/proc/{torchrun.pid}/task/{torchrun.pid}/children').read_text()
    (worker,) = [pid for pid in children.split() if f'RANK={rank}' in environment(pid)]
    os.kill(int(worker), signal.SIGKILL)


def environment(pid):
    try:
        return Path(f'/proc/{pid}/environ').read_text(errors='replace').split('\0')
    except OSError:  # It has ended.
        return []


def left_over(mark):
    pids = [path.name for path in Path('/proc').iterdir() if path.name.isdecimal()]
    return [pid for pid in pids if f'MARK={mark}' in environment(pid)]


def test_killed_worker_ends_all_and_a_restart_resumes(
    config, straight, folder, assert_same
):
    broken, mark = folder / 'broken', uuid.uuid4().hex
    torchrun = dist_train(config, 2, broken, MARK=mark)
    kill_worker(torchrun, 1, broken, 5)
    killed = time.monotonic()
    output = finish(torchrun)
    assert torchrun.returncode != 0
    assert 'SIGKILL' in output or 'Signal 9' in output
    while left_over(mark) and time.monotonic() < killed + 60:
        time.sleep(0.1)
    assert time.monotonic() < killed + 60, left_over(mark)
    assert not (broken / f'iter_{ITERATIONS}.pth').exists()

    # The main process dies this time, and torchrun starts both again.
    torchrun = dist_train(config, 2, broken, '--resume', MARK=mark, MAX_RESTARTS='1')
    kill_worker(torchrun, 0, broken, 10)
    output = succeed(torchrun)
    assert 'resumed epoch: 0, iter: 5' in output
    assert 'resumed epoch: 0, iter: 10' in output
    assert not left_over(mark)
    ours, theirs = final(broken), final(straight[0])
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_same(ours[part], theirs[part], part)


def test_restarts_need_resume(config, tmp_path):
    process = dist_train(config, 2, tmp_path / 'work', MAX_RESTARTS='3')
    assert 'MAX_RESTARTS=3 needs --resume' in finish(process)
    assert process.returncode == 2
    process = dist_train(config, 2, tmp_path / 'work', MAX_RESTARTS='often')
    assert "MAX_RESTARTS must be 0 or more, but got 'often'" in finish(process)
    assert process.returncode == 2


def test_restarts_on_a_given_port_meet_anew(config, tmp_path):
    fake = tmp_path / 'python'
    fake.write_text(
        '#!/usr/bin/env bash\n'
        '[ "$1" = -c ] || echo $TORCH_DISABLE_SHARE_RDZV_TCP_STORE "$@"\n'
    )
    fake.chmod(0o755)
    options = dict(PYTHON=str(fake), PORT='29400')
    said = succeed(
        dist_train(config, 2, tmp_path, '--resume', MAX_RESTARTS='3', **options)
    )
    assert said.startswith('1 -m torch.distributed.run --nnodes 1 --nproc_per_node 2')
    assert '--max_restarts 3 --rdzv_backend c10d' in said
    assert '--rdzv_endpoint 127.0.0.1:29400 --rdzv_id 29400' in said


def test_nodes_that_see_different_checkpoints_do_not_start(config, straight, tmp_path):
    """Two nodes without a common file system: only the first finds the checkpoint."""
    with socket.socket() as probe:
        probe.bind(('', 0))
        port = probe.getsockname()[1]
    command = [sys.executable, REPO / 'tools' / 'train.py', config, '--resume']
    options = ['--launcher', 'pytorch', '--work-dir', 'straight']
    (tmp_path / 'node').mkdir()
    nodes = [
        start(
            *[*command, *options],
            cwd=where,
            RANK=str(rank),
            LOCAL_RANK='0',
            WORLD_SIZE='2',
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
        )
        for rank, where in enumerate([config.parent, tmp_path / 'node'])
    ]
    for rank, node in enumerate(nodes):
        output = finish(node)
        assert node.returncode == 2, output[-3000:]
        assert f'error (rank {rank}): the processes would start from' in output
        assert f'iter_{ITERATIONS}.pth' in output
    assert not list(tmp_path.rglob('*.pth'))
