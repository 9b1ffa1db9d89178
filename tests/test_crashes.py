"""After kills, SIGTERM, a full disk or corruption nothing is lost; resuming is exact.

Every run is a process of its own, as a user's would be.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[1]
ITERATIONS = 24


@pytest.fixture(scope='module')
def config(street_root, small_street_config, tmp_path_factory):
    """Write the demo's config with EMA and a checkpoint every 2 iterations."""
    folder = tmp_path_factory.mktemp('config')
    cfg = small_street_config(street_root, folder)
    cfg.optim_wrapper.update(type='AutocastOptimWrapper', dtype='float32')
    cfg.train_cfg.update(max_iters=ITERATIONS, val_interval=15)
    cfg.param_scheduler[1].end = ITERATIONS
    cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
    cfg.default_hooks.checkpoint.update(interval=2, max_keep_ckpts=3)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    path = folder / 'config.py'
    cfg.dump(path)
    return path


def train(start, config, work_dir, *options, prefix=(), **env):
    tool = REPO / 'tools' / 'train.py'
    command = [*prefix, sys.executable, tool, config, '--work-dir', work_dir, *options]
    return start(*command, cwd=config.parent, **env)


def final(work_dir):
    return torch.load(work_dir / f'iter_{ITERATIONS}.pth', weights_only=False)


def newest(work_dir):
    steps = [int(path.stem[5:]) for path in work_dir.glob('iter_*.pth')]
    return max(steps, default=0)


# Where a run is ended (tests/plugins/dying.py says what is where), how, and from which
# iteration the next one resumes: 10 SIGKILLs, 5 of them during a save, and 2 SIGTERMs.
ENDS = [
    ('empty:2', 'SIGKILL', None),
    ('train:4', 'SIGKILL', 2),
    ('half:4', 'SIGKILL', 2),
    ('train:5', 'SIGKILL', 4),
    ('train:9', 'SIGTERM', 9),
    ('whole:10', 'SIGKILL', 9),
    ('train:12', 'SIGKILL', 10),
    ('placed:12', 'SIGKILL', 10),  # last_checkpoint is not yet written
    ('val:15', 'SIGKILL', 14),
    ('val:15', 'SIGTERM', 15),
    ('half:18', 'SIGKILL', 16),
    ('train:19', 'SIGKILL', 18),
]


def resumed(output):
    (iteration,) = re.findall(r'resumed epoch: 0, iter: (\d+)', output) or [None]
    return iteration and int(iteration)


def test_resuming_after_kills_is_bit_for_bit_exact(config, tmp_path, start, assert_same):
    cfg = Config.fromfile(config)
    cfg.custom_imports.imports.append('dying')
    # With the trainer its workers die, as on a machine that goes away; and a SIGTERM is
    # to every process of the job, as Slurm sends it.
    cfg.custom_hooks.append(dict(type='DyingHook', group=True))
    config = tmp_path / 'mortal.py'
    cfg.dump(config)
    straight, broken = tmp_path / 'straight', tmp_path / 'broken'
    undisturbed = train(start, config, straight)

    saved = None
    for place, how, then in ENDS:
        note = tmp_path / f'{how} {place}'
        end = dict(DIE_AT=place, DIE_BY=how, DIE_NOTE=str(note))
        run = train(start, config, broken, '--resume', **end)
        output = run.finish()
        assert note.exists(), output[-3000:]
        assert resumed(output) == saved
        if how == 'SIGTERM':
            assert run.returncode == 143, output[-3000:]
            assert 'SIGTERM: saved' in output
        else:
            assert run.returncode == -signal.SIGKILL, output[-3000:]
        in_the_middle = place.startswith(('empty', 'half', 'whole'))
        assert len(list(broken.glob('.iter_*.????????.partial'))) == in_the_middle
        saved = then
    assert resumed(train(start, config, broken, '--resume').succeed()) == saved
    undisturbed.succeed()

    ours, theirs = final(broken), final(straight)
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_same(ours[part], theirs[part], part)
    assert not list(broken.glob('.*.pth.*')), 'temporary files were left behind'


SIX = ['--cfg-options', 'train_cfg.max_iters=6']
SHORT = ['--resume', '--cfg-options', 'train_cfg.max_iters=8']


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory, starter):
    """Train a work dir with checkpoints at iterations 2, 4 and 6."""
    work_dir = tmp_path_factory.mktemp('trained') / 'work'
    with starter() as start:
        train(start, config, work_dir, *SIX).succeed()
    return work_dir


@pytest.fixture
def half_way(trained, tmp_path):
    """Copy that work dir, so that a test may damage it."""
    copy = tmp_path / 'work'
    shutil.copytree(trained, copy)  # with the times of the files
    (copy / 'last_checkpoint').write_text(str(copy / 'iter_6.pth'))
    return copy


def test_resume_takes_the_last_checkpoint_not_the_highest_number(config, half_way, start):
    """A second, shorter training in the same folder is the one to resume."""
    (half_way / 'last_checkpoint').write_text(str(half_way / 'iter_4.pth'))
    output = train(start, config, half_way, *SHORT).succeed()
    assert resumed(output) == 4
    assert newest(half_way) == 8


@pytest.mark.parametrize('damage', ['torn', 'flipped', 'empty', 'no last_checkpoint'])
def test_resume_takes_the_newest_whole_checkpoint(config, half_way, start, damage):
    path = half_way / 'iter_6.pth'
    data = bytearray(path.read_bytes())
    whole = 4
    if damage == 'torn':
        path.write_bytes(data[: len(data) // 3])
    elif damage == 'flipped':
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == 'empty':
        path.write_bytes(b'')
    else:
        (half_way / 'last_checkpoint').unlink()
        whole = 6
    output = train(start, config, half_way, *SHORT).succeed()
    assert resumed(output) == whole
    assert (f'skipped when resuming: the checkpoint {path}' in output) == (whole == 4)


def test_no_whole_checkpoint_is_an_error(config, half_way, start):
    for path in half_way.glob('iter_*.pth'):
        os.truncate(path, 1000)
    process = train(start, config, half_way, *SHORT)
    output = process.finish()
    assert process.returncode == 2
    assert 'none of the 3 checkpoints' in output
    assert 'Traceback' not in output


def test_a_full_disk_is_an_error_and_damages_nothing(config, half_way, start):
    before = {p.name: p.read_bytes() for p in half_way.glob('iter_*.pth')}
    # No file may grow beyond 1 MiB: writing fails as on a full disk.
    full = ['bash', '-c', 'ulimit -f 1024; exec "$@"', '-']
    process = train(start, config, half_way, *SHORT, prefix=full)
    output = process.finish()
    assert process.returncode == 2
    assert 'iter_8.pth' in output
    assert 'cannot be written' in output
    assert 'Traceback' not in output
    assert {p.name: p.read_bytes() for p in half_way.glob('iter_*.pth')} == before
    assert not list(half_way.glob('.iter_8*'))


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_nothing_in_a_checkpoint_runs(config, half_way, tmp_path):
    fuse = tmp_path / 'the file that must never appear'
    checkpoint = torch.load(half_way / 'iter_6.pth', weights_only=False)
    checkpoint['extra'] = Bomb(fuse)
    hostile = tmp_path / 'hostile.pth'
    torch.save(checkpoint, hostile)
    tools = REPO / 'tools'
    work = tmp_path / 'elsewhere'
    work.mkdir()
    torch.save(checkpoint, work / 'iter_6.pth')
    init = 'model.backbone.init_cfg'
    commands = {
        'resume': ['train.py', config, '--work-dir', work, '--resume'],
        'init_cfg': [
            'train.py',
            config,
            '--cfg-options',
            f'{init}.type=Pretrained',
            f'{init}.checkpoint={hostile}',
        ],
        'load_from': ['train.py', config, '--cfg-options', f'load_from={hostile}'],
        'test': ['test.py', config, hostile],
        'compare_forms': ['compare_forms.py', config, hostile],
        'convert': ['convert_checkpoint.py', hostile, tmp_path / 'converted.pth'],
    }
    for name, (tool, *args) in commands.items():
        result = subprocess.run(
            [sys.executable, str(tools / tool), *map(str, args)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert result.returncode == 2, (name, result.stderr[-2000:])
        assert 'open' in result.stderr, name
        assert '--trust-checkpoint' in result.stderr, name
        assert 'Traceback' not in result.stderr, name
        assert not fuse.exists(), name
    assert not (tmp_path / 'converted.pth').exists()
    # A string that mmengine would execute as a config file.
    del checkpoint['extra']
    checkpoint['meta']['config'] = f'open({str(fuse)!r}, "w")'
    torch.save(checkpoint, work / 'iter_6.pth')
    options = ['--work-dir', work, '--resume', '--cfg-options', 'train_cfg.max_iters=7']
    command = [sys.executable, tools / 'train.py', config, *options]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'resumed epoch: 0, iter: 6' in result.stdout
    assert not fuse.exists()
    # With the flag it is the user's word.
    trusted = [sys.executable, str(tools / 'test.py'), str(config), str(hostile)]
    subprocess.run([*trusted, '--trust-checkpoint'], capture_output=True, cwd=tmp_path)
    assert fuse.exists()
