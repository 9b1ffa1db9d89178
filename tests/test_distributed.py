"""Several processes under torchrun train, evaluate and end as one does."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from torch.distributed import TCPStore

from demo.street import write_street_scenes

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[1]
ITERATIONS = 20
GLOBAL_BATCH = 4

# In float32 each iteration amplifies the rounding of the one before, so that even one
# process differs in the third digit if its batch is split. Norms in training mode would
# depend on how the batch is dealt out.
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
    """Draw 5 images to test on."""
    root = folder / 'scenes'
    write_street_scenes(root, counts={'train': 1, 'val': 5}, size=(64, 128), seed=1)
    return root


@pytest.fixture(scope='module')
def config(street_root, scenes, small_street_config, folder):
    """Write the demo's config with EMA and small images."""
    cfg = small_street_config(street_root, folder)
    cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=ITERATIONS)
    cfg.param_scheduler[1].end = ITERATIONS
    cfg.train_dataloader.update(batch_size=2, num_workers=1)
    # One process validates two images, the other one.
    cfg.val_dataloader.sampler.round_up = False
    cfg.default_hooks.checkpoint.update(interval=5, max_keep_ckpts=2)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    cfg.custom_imports.imports.append('dying')
    cfg.custom_hooks.append(dict(type='DyingHook'))
    cfg.test_dataloader.dataset.data_root = str(scenes)
    path = folder / 'config.py'
    cfg.dump(path)
    return path


@pytest.fixture(scope='module')
def exact_config(street_root, small_street_config, folder):
    """Write a config whose loss on a batch is the mean over its parts."""
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


def dist_train(start, config, processes, work_dir, *options, **env):
    tool = REPO / 'tools' / 'dist_train.sh'
    command = ['bash', tool, config, processes, '--work-dir', work_dir, *options]
    return start(*command, cwd=config.parent, **env)


def final(work_dir):
    return torch.load(work_dir / f'iter_{ITERATIONS}.pth', weights_only=False)


# The same training ------------------------------------------------------------------


def train_exactly(start, config, processes):
    """Train; return the losses of the iterations and the weights."""
    work_dir = config.parent / f'exact_{processes}'
    share = f'train_dataloader.batch_size={GLOBAL_BATCH // processes}'
    dist_train(start, config, processes, work_dir, '--cfg-options', share).succeed()
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    losses = [line['loss'] for line in lines if 'loss' in line]
    return torch.tensor(losses), final(work_dir)['state_dict']


@pytest.fixture(scope='module')
def alone(exact_config, starter):
    with starter() as start:
        return train_exactly(start, exact_config, 1)


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_train_as_one_does(exact_config, alone, start, processes):
    losses, weights = train_exactly(start, exact_config, processes)
    assert len(losses) == ITERATIONS
    assert losses[-5:].mean() < 0.9 * losses[:5].mean(), 'nothing was learned'
    # The log is in float32.
    torch.testing.assert_close(losses, alone[0], rtol=1e-6, atol=0)
    for name, value in weights.items():
        scale = float(value.abs().max())
        assert torch.allclose(value, alone[1][name], rtol=0, atol=1e-8 * scale), name


# The same metric --------------------------------------------------------------------


@pytest.fixture(scope='module')
def straight(config, folder, starter):
    """Return the work dir and the log of an undisturbed training by two processes."""
    work_dir = folder / 'straight'
    with starter() as start:
        return work_dir, dist_train(start, config, 2, work_dir).succeed()


def scores(output):
    """Return the table of classes and the means of a logged evaluation."""
    lines = output.splitlines()
    table = [x for x in lines if x.startswith('|')]
    means = [x.split('aAcc:')[1].split('data_time')[0] for x in lines if 'mIoU:' in x]
    assert len(means) == 1
    return table, means[0].split()


@pytest.mark.parametrize('images', [1, 3, 5])
def test_each_image_counts_once(config, straight, tmp_path, start, images):
    args = [
        *['--work-dir', tmp_path, '--cfg-options'],
        f'test_dataloader.dataset.indices={images}',
    ]
    checkpoint = straight[0] / f'iter_{ITERATIONS}.pth'
    tools = REPO / 'tools'
    alone = start(
        sys.executable, tools / 'test.py', config, checkpoint, *args, cwd=tmp_path
    )
    expected = scores(alone.succeed())
    two = start(
        'bash', tools / 'dist_test.sh', config, checkpoint, 2, *args, cwd=tmp_path
    )
    assert scores(two.succeed()) == expected


def test_validation_evaluates_the_model_that_is_saved(
    config, straight, street_root, tmp_path, start
):
    """Each process has its own running statistics, but only one saves them."""
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
    assert scores(output) == scores(alone.succeed())


# The same end -----------------------------------------------------------------------


@pytest.mark.parametrize('place', ['train:6', 'val:20'])
def test_sigterm_to_one_process_saves_and_ends_all(
    config, straight, tmp_path, start, assert_same, place
):
    """In the validation that process has fewer images than the other."""
    work, note = tmp_path / 'work', tmp_path / 'note'
    end = dict(DIE_AT=place, DIE_BY='SIGTERM', DIE_RANK='1', DIE_NOTE=str(note))
    run = dist_train(start, config, 2, work, **end)
    output = run.finish()
    assert note.exists(), output[-3000:]
    assert run.returncode != 0
    assert 'SIGTERM: saved' in output
    output = dist_train(start, config, 2, work, '--resume').succeed()
    assert f'resumed epoch: 0, iter: {place.partition(":")[2]}' in output
    ours, theirs = final(work), final(straight[0])
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_same(ours[part], theirs[part], part)


def time_of_death(start, process, note):
    """Wait until one of the processes has killed itself; return the time."""
    limit = time.monotonic() + start.timeout
    while process.poll() is None and not note.exists() and time.monotonic() < limit:
        time.sleep(0.1)
    assert note.exists(), process.said()[-5000:]
    return note.stat().st_mtime


def wait_for_all(start, since):
    """Wait for all to end; this process may be slow to notice, so the limit is long."""
    while True:
        now, left = time.time(), start.left()
        if not left:
            return
        assert now < since + start.timeout, left
        time.sleep(0.1)


def test_killed_worker_ends_all_and_a_restart_resumes(
    config, straight, folder, tmp_path, start, assert_same
):
    broken, note = folder / 'broken', tmp_path / 'the other process'
    end = dict(DIE_AT='train:6', DIE_RANK='1', DIE_NOTE=str(note))
    torchrun = dist_train(start, config, 2, broken, **end)
    wait_for_all(start, time_of_death(start, torchrun, note))
    output = torchrun.finish()
    assert torchrun.returncode != 0
    assert 'SIGKILL' in output or 'Signal 9' in output
    assert not (broken / f'iter_{ITERATIONS}.pth').exists()

    # The main process dies this time, and torchrun starts both again.
    note = tmp_path / 'the main process'
    end = dict(DIE_AT='train:11', DIE_NOTE=str(note), MAX_RESTARTS='1')
    output = dist_train(start, config, 2, broken, '--resume', **end).succeed()
    assert note.exists()
    assert 'resumed epoch: 0, iter: 5' in output
    assert 'resumed epoch: 0, iter: 10' in output
    wait_for_all(start, time.time())
    ours, theirs = final(broken), final(straight[0])
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_same(ours[part], theirs[part], part)


def test_restarts_need_resume(config, tmp_path, start):
    process = dist_train(start, config, 2, tmp_path / 'work', MAX_RESTARTS='3')
    assert 'MAX_RESTARTS=3 needs --resume' in process.finish()
    assert process.returncode == 2
    process = dist_train(start, config, 2, tmp_path / 'work', MAX_RESTARTS='often')
    assert "MAX_RESTARTS must be 0 or more, but got 'often'" in process.finish()
    assert process.returncode == 2


def test_restarts_on_a_given_port_meet_anew(config, tmp_path, start):
    fake = tmp_path / 'python'
    fake.write_text(
        '#!/usr/bin/env bash\n'
        '[ "$1" = -c ] || echo $TORCH_DISABLE_SHARE_RDZV_TCP_STORE "$@"\n'
    )
    fake.chmod(0o755)
    options = dict(PYTHON=str(fake), PORT='29400', MAX_RESTARTS='3')
    said = dist_train(start, config, 2, tmp_path, '--resume', **options).succeed()
    assert said.startswith('1 -m torch.distributed.run --nnodes 1 --nproc_per_node 2')
    assert '--max_restarts 3 --rdzv_backend c10d' in said
    assert '--rdzv_endpoint 127.0.0.1:29400 --rdzv_id 29400' in said


def test_nodes_that_see_different_checkpoints_do_not_start(
    config, straight, tmp_path, start
):
    """Two nodes without a common file system: only the first finds the checkpoint."""
    # They meet where torchrun would have them meet; the system chooses the port.
    store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
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
            MASTER_PORT=str(store.port),
            TORCHELASTIC_USE_AGENT_STORE='True',
            TORCHELASTIC_RESTART_COUNT='0',
        )
        for rank, where in enumerate([config.parent, tmp_path / 'node'])
    ]
    for rank, node in enumerate(nodes):
        output = node.finish()
        assert node.returncode == 2, output[-3000:]
        assert f'error (rank {rank}): the processes would start from' in output
        assert f'iter_{ITERATIONS}.pth' in output
    assert not list(tmp_path.rglob('*.pth'))
