"""Checkpoints in a real Runner are whole and checked before old ones are removed."""

import copy
import shutil
from pathlib import Path

import pytest
from mmengine.runner import Runner

from mmseg_repvgg.checkpoints.files import read_checkpoint
from mmseg_repvgg.errors import CheckpointError, ConfigError
from mmseg_repvgg.hooks import checkpoint_hook


@pytest.fixture
def runner(street_config):
    street_config.train_cfg.update(max_iters=4, val_interval=4)
    street_config.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=2)
    return Runner.from_cfg(street_config)


def names(runner):
    return sorted(path.name for path in Path(runner.work_dir).iterdir() if path.is_file())


def test_the_newest_are_kept_with_their_checksums(runner):
    runner.train()
    files = [name for name in names(runner) if name.startswith('iter')]
    assert files == ['iter_3.pth', 'iter_3.pth.sha256', 'iter_4.pth', 'iter_4.pth.sha256']
    assert Path(runner.work_dir, 'last_checkpoint').read_text().endswith('iter_4.pth')
    (best,) = Path(runner.work_dir).glob('best_mIoU_*.pth')
    for path in [best, *Path(runner.work_dir).glob('iter_*.pth')]:
        assert read_checkpoint(path)['state_dict']


def test_a_failed_write_keeps_the_old_checkpoints(runner, monkeypatch):
    write = checkpoint_hook.write_with_checksum

    def full_disk(data, path):
        if Path(path).name == 'iter_3.pth':
            raise CheckpointError(f'{path} cannot be written: No space left on device')
        write(data, path)

    monkeypatch.setattr(checkpoint_hook, 'write_with_checksum', full_disk)
    with pytest.raises(CheckpointError, match='No space left'):
        runner.train()
    assert [n for n in names(runner) if n.endswith('.pth')] == [
        'iter_1.pth',
        'iter_2.pth',
    ]
    assert Path(runner.work_dir, 'last_checkpoint').read_text().endswith('iter_2.pth')
    for name in ('iter_1.pth', 'iter_2.pth'):
        read_checkpoint(Path(runner.work_dir, name))


def test_a_best_by_another_metric_is_named(street_config):
    street_config.train_cfg.update(max_iters=1, val_interval=1)
    street_config.val_evaluator.iou_metrics = ['mDice']
    with pytest.raises(ConfigError, match='save_best names mIoU, but .* aAcc, mDice'):
        Runner.from_cfg(street_config).train()


def test_a_validation_alone_saves_nothing(street_config):
    """This holds before and after a training."""
    street_config.train_cfg.update(max_iters=1, val_interval=1)
    runner = Runner.from_cfg(street_config)
    assert 'mIoU' in runner.val()
    assert not list(Path(runner.work_dir).rglob('*.pth'))
    runner.train()
    saved = names(runner)
    runner.test()
    assert 'mIoU' in runner.val()
    assert names(runner) == saved


@pytest.mark.parametrize('copied', [False, True])
def test_the_best_checkpoint_of_another_work_dir_is_kept(street_config, copied):
    street_config.train_cfg.update(max_iters=2, val_interval=2)
    street_config.default_hooks.checkpoint.update(interval=1)
    branch = copy.deepcopy(street_config)
    Runner.from_cfg(street_config).train()
    folder = Path(street_config.work_dir)
    before = sorted(folder.glob('*.pth'))
    assert folder / 'best_mIoU_iter_2.pth' in before
    branch.work_dir = f'{folder}_branch'
    if copied:
        shutil.copytree(folder, branch.work_dir)
    branch.train_cfg.max_iters = 4
    branch.load_from, branch.resume = str(folder / 'iter_2.pth'), True
    # Any mIoU is better than none.
    runner = Runner.from_cfg(branch)
    runner.load_or_resume()
    runner.message_hub.update_info('best_score', -1.0)
    runner.train()
    assert sorted(folder.glob('*.pth')) == before
    (best,) = Path(branch.work_dir).glob('best_*.pth')
    assert best.name == 'best_mIoU_iter_4.pth'
    assert runner.message_hub.get_info('best_ckpt') == str(best)


@pytest.mark.parametrize('name', ['intervals', 'backend_args'])
def test_unknown_arguments_are_refused_before_the_training(street_config, name):
    street_config.default_hooks.checkpoint[name] = None
    with pytest.raises(ConfigError, match=f'takes no {name}, only interval, by_epoch'):
        Runner.from_cfg(street_config)
