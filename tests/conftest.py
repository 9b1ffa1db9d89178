"""What the tests share: randomised norms, a small data set, a small config."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.datasets import CityscapesDataset
from mmseg.registry import MODELS
from torch import nn

import mmseg_repvgg  # noqa: F401  (registers)
from demo.street import write_street_scenes

REPO = Path(__file__).parents[1]

T = TypeVar('T')

# Tests run beside each other's processes: waiting threads must not spin.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

# Servers of the tests are not asked through a proxy.
os.environ.update(NO_PROXY='127.0.0.1,localhost', no_proxy='127.0.0.1,localhost')

# What a launcher may have set where the tests are started, or a test may set.
LAUNCHER = [
    *['RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'],
    *['NNODES', 'NODE_RANK', 'PORT', 'MAX_RESTARTS'],
    *['GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK', 'SRUN_ARGS'],
]
LAUNCHERS = ('SLURM_', 'OMPI_', 'TORCHELASTIC_')

# torch.compile must not reuse code that it cached for another instruction set.
os.environ['TORCHINDUCTOR_CACHE_DIR'] = tempfile.mkdtemp(prefix='inductor_')

# Seconds for what takes one minute: on a busy machine too, only what hangs takes more.
TIMEOUT = 900


def leave_launcher() -> None:
    for name in list(os.environ):
        if name in LAUNCHER or name.startswith(LAUNCHERS):
            del os.environ[name]


# Fixtures of a wider scope than a test's come before those of the test.
leave_launcher()


@pytest.fixture(autouse=True)
def close_log_files():
    """Close the log files of Runners, whose folders pytest deletes after the test."""
    yield
    for logger in MMLogger._instance_dict.values():
        for handler in [*logger.handlers]:
            if isinstance(handler, logging.FileHandler):
                handler.close()
                logger.removeHandler(handler)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove what a run that passed has written."""
    shutil.rmtree(os.environ['TORCHINDUCTOR_CACHE_DIR'], ignore_errors=True)
    factory = session.config._tmp_path_factory
    if exitstatus == 0 and factory._basetemp and not factory._given_basetemp:
        shutil.rmtree(factory._basetemp, ignore_errors=True)


@pytest.fixture(autouse=True)
def _environment():
    """No test is one of several processes, and none leaves anything to the next."""
    leave_launcher()
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    for name, value in before.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def _seeded_and_scoped():
    torch.manual_seed(0)
    init_default_scope('mmseg')


RUNNERS = itertools.count()


@pytest.fixture(autouse=True)
def _runners_have_names_of_their_own(monkeypatch):
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
    """The demo's config, of a narrow network and few iterations, on that data set."""
    return small_street_config(street_root, tmp_path)


def small_street_config(street_root: Path, folder: Path) -> Config:
    path = REPO / 'configs' / 'pspnet_repvgg_a0_street.py'
    # Formatting by yapf, once a checkpoint, takes longer than an iteration.
    cfg = Config.fromfile(path, format_python_code=False)
    # 0.2 million parameters, in place of 10: checkpoints of 3 MB.
    cfg.model.backbone.arch = dict(depths=(1, 2, 6, 1), a=0.25, b=0.25)
    cfg.model.decode_head.update(in_channels=128, channels=16)
    cfg.model.auxiliary_head.update(in_channels=64, channels=16)
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


@pytest.fixture(scope='session', name='randomize_norms')
def _randomize_norms():
    return randomize_norms


@pytest.fixture(scope='session')
def trained(street_root, tmp_path_factory) -> tuple[str, str]:
    """The files of a config of a narrow network and of a checkpoint of it."""
    folder = tmp_path_factory.mktemp('trained')
    torch.manual_seed(0)
    init_default_scope('mmseg')
    cfg = small_street_config(street_root, folder)
    cfg.model.backbone.arch.depths = (1, 2, 2, 1)
    model = randomize_norms(MODELS.build(cfg.model))
    meta = {'dataset_meta': CityscapesDataset.METAINFO}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, folder / 'small.pth')
    cfg.dump(folder / 'small.py')
    return str(folder / 'small.py'), str(folder / 'small.pth')


@pytest.fixture(scope='session')
def street_images(street_root) -> list[Path]:
    """The 3 validation images, 64x128."""
    return sorted((street_root / 'leftImg8bit' / 'val').rglob('*.png'))


FIVE_BANDS = dict(
    type='BandDataPreProcessor',
    mean=[3000.0, 2500.0, 2000.0, 4000.0, 1000.0],
    std=[1500.0, 1200.0, 1000.0, 1600.0, 500.0],
)


@pytest.fixture(scope='session')
def five_bands(street_root, tmp_path_factory) -> tuple[str, str, list[Path]]:
    """A config and a checkpoint for images of 5 bands, 16 bits; its 3 TIFF files."""
    tifffile = pytest.importorskip('tifffile')
    folder = tmp_path_factory.mktemp('five_bands')
    torch.manual_seed(0)
    init_default_scope('mmseg')
    cfg = small_street_config(street_root, folder)
    cfg.model.backbone.arch.depths = (1, 2, 2, 1)
    cfg.model.backbone.in_channels = 5
    cfg.model.data_preprocessor = dict(**FIVE_BANDS, size=(64, 64))
    cfg.test_dataloader.dataset.update(
        data_root=str(folder),
        img_suffix='_leftImg8bit.tif',
        pipeline=[
            dict(type='LoadBands', bands=5),
            dict(type='Resize', scale=(96, 48), keep_ratio=True),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    shutil.copytree(street_root / 'gtFine', folder / 'gtFine')
    files = []
    layouts = [dict(tile=(32, 32)), dict(rowsperstrip=7), dict()]
    for path, layout in zip(sorted(street_root.glob('leftImg8bit/val/*/*.png')), layouts):
        # Smooth values, for labels that form regions.
        coarse = torch.rand(1, 5, 5, 9) * 6000
        image = nn.functional.interpolate(coarse, (64, 128), mode='bilinear')[0]
        image = image.numpy().astype('uint16')
        separate = not layout
        layout['planarconfig'] = 'separate' if separate else 'contig'
        image = image if separate else image.transpose(1, 2, 0)
        file = folder / path.relative_to(street_root).with_suffix('.tif')
        file.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(file, image, photometric='minisblack', **layout)
        files.append(file)
    model = randomize_norms(MODELS.build(cfg.model))
    meta = {'dataset_meta': CityscapesDataset.METAINFO}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, folder / 'five.pth')
    cfg.dump(folder / 'five.py')
    return str(folder / 'five.py'), str(folder / 'five.pth'), files


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


def assert_best_labels(labels, scores, tolerance=1e-3):
    """Check that each label has the best score, up to the rounding of two runtimes.

    Labels of two runtimes may differ where scores are equal up to rounding.

    Args:
        labels: Shape (H, W).
        scores: Logits or probabilities of the other runtime, (classes, H, W).
        tolerance: Largest difference of scores, of the largest one.
    """
    assert labels.shape == scores.shape[1:]
    assert len(np.unique(labels)) > 1
    found = np.take_along_axis(scores, labels[None].astype(np.intp), 0)[0]
    assert (scores.max(0) - found).max() <= tolerance * np.abs(scores).max()


@pytest.fixture(scope='session', name='assert_best_labels')
def _assert_best_labels():
    return assert_best_labels


def run_tool(*args: object, cwd: Path, env: dict | None = None, timeout: int = TIMEOUT):
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


@pytest.fixture(scope='session', name='run_tool')
def _run_tool():
    return run_tool


@contextlib.contextmanager
def full_disk(size: int):
    """Limit every file that this process writes to ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope='session', name='full_disk')
def _full_disk():
    return full_disk


class Process(subprocess.Popen):
    """In a process group of its own; what it says goes to a file, which is never full."""

    def __init__(self, command, **kwargs):
        self.log = tempfile.TemporaryFile('a+', errors='replace')  # noqa: SIM115
        super().__init__(
            list(map(str, command)),
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **kwargs,
        )

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def wait_until(self, holds: Callable[[], T], every: float = 0.05) -> T:
        """Wait until ``holds`` returns a true value, and return it.

        Fails if the process ends before.
        """
        end = time.monotonic() + TIMEOUT
        while not (found := holds()):
            assert self.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(every)
        return found

    def finish(self) -> str:
        """Wait for its end; returns what it has said."""
        self.wait(TIMEOUT)
        return self.said()

    def succeed(self) -> str:
        said = self.finish()
        assert self.returncode == 0, said[-5000:]
        return said


class Starter:
    """Starts processes, none of which outlives the block, nor what they have started."""

    timeout = TIMEOUT

    def __init__(self):
        self.mark = uuid.uuid4().hex
        self.started: list[Process] = []

    def __call__(self, *command: object, cwd: Path, **env: str) -> Process:
        """Start a process that finds the plugins, those in its folder too."""
        paths = [str(REPO / 'tests' / 'plugins'), str(cwd)]
        process = Process(
            command,
            cwd=cwd,
            env={
                **os.environ,
                'PYTHON': sys.executable,
                'PYTHONPATH': os.pathsep.join(
                    [*paths, *filter(None, [os.environ.get('PYTHONPATH')])]
                ),
                # With two, the last bits may vary.
                'OMP_NUM_THREADS': '1',
                'MARK': self.mark,
                **env,
            },
        )
        self.started.append(process)
        return process

    def left(self) -> list[int]:
        """Return the ids of the living processes, and of those that they have started."""
        found = []
        for path in Path('/proc').glob('[0-9]*/environ'):
            with contextlib.suppress(OSError):  # It has ended, or is another user's.
                if f'MARK={self.mark}'.encode() in path.read_bytes().split(b'\0'):
                    found.append(int(path.parent.name))
        return found

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        # torchrun's processes are in groups of their own.
        while pids := self.left():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)


@pytest.fixture(scope='session')
def starter():
    """For fixtures of a wider scope: ``with starter() as start``."""
    return Starter


@pytest.fixture
def start():
    with Starter() as start:
        yield start


def free_port() -> int:
    """A port that is free, and that nobody is given who asks the system for any."""
    dealt = Path('/proc/sys/net/ipv4/ip_local_port_range')
    low, high = map(int, dealt.read_text().split()) if dealt.exists() else (32768, 65535)
    others = [port for port in range(1024, 65536) if not low <= port <= high]
    # Seeded by nothing: other tests that run now must find others.
    for port in random.SystemRandom().sample(others, len(others)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(('', port))
            return port
    raise OSError('no port is free')


@pytest.fixture(name='free_port')
def _free_port():
    return free_port


BROWSER_OPTIONS = [
    *['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
    *['--disable-component-update', '--disable-sync', '--no-first-run'],
    '--disable-quic',
]


# The scope is a module, since asyncio.run fails in the thread of a running Playwright.
@pytest.fixture(scope='module')
def browser():
    """A headless Chromium of the system."""
    sync_api = pytest.importorskip('playwright.sync_api')
    program = shutil.which('chromium') or shutil.which('google-chrome')
    if program is None:
        pytest.skip('neither chromium nor google-chrome is installed')
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=BROWSER_OPTIONS
        )
        yield browser
        browser.close()
