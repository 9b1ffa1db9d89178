"""One training per work dir, for as long as its process lives."""

import errno
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmseg_repvgg.engine import work_dir_lock
from mmseg_repvgg.engine.processes import RANK_VARIABLES
from mmseg_repvgg.engine.training import prepare_training
from mmseg_repvgg.engine.work_dir_lock import LOCK, lock_work_dir
from mmseg_repvgg.errors import TrainingError

pytestmark = pytest.mark.skipif(not work_dir_lock.fcntl, reason='needs fcntl')

# The child stands for a dataloader's worker that outlives a killed trainer.
TRAINING = """
import os, signal, sys
from mmengine.config import Config
from mmseg_repvgg.engine.work_dir_lock import lock_work_dir
lock_work_dir(Config(dict(work_dir=sys.argv[1])))
if os.fork():
    print('locked', flush=True)
signal.pause()
"""


@pytest.fixture
def training(start, tmp_path):
    """Start another process that trains in ``tmp_path / 'work'``."""
    process = start(sys.executable, '-c', TRAINING, tmp_path / 'work', cwd=tmp_path)
    process.wait_until(lambda: 'locked' in process.said())
    return process


@pytest.fixture
def cfg(tmp_path):
    return Config(dict(work_dir=str(tmp_path / 'work'), launcher='none'))


def test_a_second_training_is_refused_until_the_first_is_dead(
    training, cfg, street_config, tmp_path
):
    who = f'process {training.pid} on {socket.gethostname()}'
    for _ in range(2):
        with pytest.raises(TrainingError, match=f'already runs in .*work: {who}. Wait'):
            lock_work_dir(cfg)
    with pytest.raises(TrainingError, match=who):
        prepare_training(street_config, resume=True)
    assert [path.name for path in Path(cfg.work_dir).iterdir()] == [LOCK]
    os.kill(training.pid, signal.SIGKILL)
    training.wait()
    lock_work_dir(cfg)
    assert str(os.getpid()) in Path(cfg.work_dir, LOCK).read_text()


@pytest.mark.parametrize('launcher', RANK_VARIABLES)
def test_only_the_first_process_of_a_training_locks(cfg, monkeypatch, launcher):
    rank = RANK_VARIABLES[launcher]
    monkeypatch.setenv(rank, '1')
    cfg.launcher = launcher
    lock_work_dir(cfg)
    assert not Path(cfg.work_dir).exists()
    # The variable of another launcher is ignored.
    cfg.launcher = 'none'
    lock_work_dir(cfg)
    Path(cfg.work_dir, LOCK).unlink()
    monkeypatch.setenv(rank, '0')
    cfg.launcher = launcher
    lock_work_dir(cfg)
    assert Path(cfg.work_dir, LOCK).exists()


def test_a_process_may_train_again(cfg):
    for _ in range(3):
        lock_work_dir(cfg)


def test_where_there_are_no_locks_a_training_runs(cfg, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(work_dir_lock.fcntl, 'lockf', no_locks)
    lock_work_dir(cfg)
    monkeypatch.setattr(work_dir_lock, 'fcntl', None)
    lock_work_dir(cfg)


def test_a_folder_that_cannot_be_made_is_left_to_the_runner(cfg, tmp_path):
    (tmp_path / 'work').touch()
    lock_work_dir(cfg)
