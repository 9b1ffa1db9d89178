"""What the tests share: randomised norms, a small data set, a small config."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

import mmseg_repvgg  # noqa: F401  (registers)
from mmseg_repvgg.datasets.street import write_street_scenes

REPO = Path(__file__).parents[1]

# Tests run beside each other's processes: waiting threads must not spin.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove what a run that passed has written."""
    factory = session.config._tmp_path_factory
    if exitstatus == 0 and factory._basetemp and not factory._given_basetemp:
        shutil.rmtree(factory._basetemp, ignore_errors=True)


@pytest.fixture(autouse=True)
def _seeded_and_scoped():
    torch.manual_seed(0)
    init_default_scope('mmseg')


RUNNERS = itertools.count()


@pytest.fixture(autouse=True)
def _runners_are_strangers(monkeypatch):
    """Give each Runner a name of its own.

    mmengine names them by the second they begin in: of two in the same one, the second
    would write into the first one's folder, with its visualizer and message hub.
    """
    setup = Runner.setup_env

    def setup_env(self, env_cfg):
        setup(self, env_cfg)
        self._timestamp += f'_{next(RUNNERS):04d}'

    monkeypatch.setattr(Runner, 'setup_env', setup_env)


@pytest.fixture
def one_thread():
    """With two, the last bits of a net's gradients may vary from run to run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='session')
def repo() -> Path:
    return REPO


@pytest.fixture(scope='session')
def street_root(tmp_path_factory) -> Path:
    """A drawn data set of 64x128: 8 training, 3 validation images."""
    root = tmp_path_factory.mktemp('data') / 'street'
    write_street_scenes(root, counts={'train': 8, 'val': 3}, size=(64, 128), seed=0)
    return root


@pytest.fixture
def street_config(street_root, tmp_path) -> Config:
    """The demo's config on that data set: a real one, cut to a few iterations."""
    return small_street_config(street_root, tmp_path)


def small_street_config(street_root: Path, folder: Path) -> Config:
    cfg = Config.fromfile(REPO / 'configs' / 'pspnet_repvgg_a0_street.py')
    cfg.merge_from_dict(
        {
            'work_dir': str(folder / 'work'),
            'train_dataloader.batch_size': 2,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'val_dataloader.num_workers': 0,
            'val_dataloader.persistent_workers': False,
            'test_dataloader.num_workers': 0,
            'test_dataloader.persistent_workers': False,
            'model.data_preprocessor.size': (64, 64),
            'optim_wrapper.type': 'OptimWrapper',
            'train_cfg.max_iters': 4,
            'train_cfg.val_interval': 2,
            'default_hooks.checkpoint.interval': 2,
            'default_hooks.logger.interval': 1,
        }
    )
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'RandomCrop':
            step.crop_size = (64, 64)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(street_root)
    return cfg


@pytest.fixture(scope='session', name='small_street_config')
def _small_street_config():
    return small_street_config


@pytest.fixture
def street_config_file(street_config, tmp_path) -> Path:
    path = tmp_path / 'street_config.py'
    street_config.dump(path)
    return path


def randomize_norms(model: nn.Module) -> nn.Module:
    """Give every batch norm numbers as after training; fresh ones hide fusion bugs."""
    for module in model.modules():
        if getattr(module, 'running_mean', None) is not None:
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.3, 2)
            nn.init.uniform_(module.weight, 0.3, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model


@pytest.fixture(name='randomize_norms')
def _randomize_norms():
    return randomize_norms


def assert_same(ours, theirs, where=''):
    """Compare what a checkpoint holds, however nested, bit for bit."""
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key in theirs:
            assert_same(ours[key], theirs[key], f'{where}.{key}')
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs), where
        for index, (a, b) in enumerate(zip(ours, theirs)):
            assert_same(a, b, f'{where}[{index}]')
    else:
        assert ours == theirs, where


@pytest.fixture(name='assert_same')
def _assert_same():
    return assert_same


def run_tool(*args: object, cwd: Path, env: dict | None = None, timeout: int = 300):
    """Start a tool as a process of its own and wait for it."""
    tool, *rest = map(str, args)
    return subprocess.run(
        [sys.executable, str(REPO / 'tools' / tool), *rest],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(name='run_tool')
def _run_tool():
    return run_tool
