"""The tools run as processes of their own on real files."""

import os
import runpy
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmseg_repvgg.errors import ConfigError

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def training(street_root, small_street_config, tmp_path_factory, run_tool):
    """Train 2 iterations; return config, folder and the finished process."""
    folder = tmp_path_factory.mktemp('training')
    cfg = small_street_config(street_root, folder)
    cfg.dump(folder / 'config.py')
    options = ['--cfg-options', 'train_cfg.max_iters=2']
    result = run_tool('train.py', folder / 'config.py', *options, cwd=folder)
    assert result.returncode == 0, result.stderr
    return cfg, folder, result


@pytest.fixture
def trained(training, tmp_path):
    """Copy that; return config, checkpoint and the finished process."""
    cfg, folder, result = training
    work, config = tmp_path / 'work', tmp_path / 'street_config.py'
    shutil.copytree(folder / 'work', work)
    checkpoint = work / 'iter_2.pth'
    (work / 'last_checkpoint').write_text(str(checkpoint))
    Config({**cfg, 'work_dir': str(work)}).dump(config)
    return config, checkpoint, result


def metrics(result):
    """Return aAcc and mIoU from the summary line of a test."""
    line = [x for x in result.stdout.splitlines() if 'mIoU:' in x][-1]
    words = line.split('aAcc:')[1].split()
    return float(words[0]), float(words[2])


def test_train_then_test(trained, tmp_path, run_tool):
    config, checkpoint, training = trained
    assert checkpoint.is_file()
    assert 'DeployHook: evaluating the fused model' in training.stdout
    assert 'eta:' in training.stdout
    assert 'the global batch size is 2' in training.stdout

    fused = run_tool(
        'test.py',
        config,
        checkpoint,
        '--work-dir',
        tmp_path / 'tested',
        '--out',
        tmp_path / 'predictions',
        '--show-dir',
        tmp_path / 'shown',
        cwd=tmp_path,
    )
    assert fused.returncode == 0, fused.stderr
    assert 'evaluating the fused model' in fused.stdout
    labels = sorted((tmp_path / 'predictions').glob('*.png'))
    assert len(labels) == 3
    assert cv2.imread(str(labels[0]), cv2.IMREAD_UNCHANGED).shape == (64, 128)
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 3
    assert list((tmp_path / 'tested').rglob('*.json'))

    plain = run_tool('test.py', config, checkpoint, '--no-deploy', cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    assert 'evaluating the fused model' not in plain.stdout
    assert metrics(plain) == pytest.approx(metrics(fused), abs=0.05)


def test_winograd_scores_the_same(trained, tmp_path, run_tool):
    config, checkpoint, _ = trained
    scores = []
    for engine in ('torch', 'winograd', 'auto'):
        options = ('--engine', engine)
        result = run_tool('test.py', config, checkpoint, *options, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        scores.append(metrics(result))
        assert ('of its convs by Winograd' in result.stdout) == (engine != 'torch')
        # With `auto`, a trial decides, which depends on the machine.
        assert engine == 'auto' or ', 0 of its convs' not in result.stdout
    assert scores[1] == pytest.approx(scores[0], abs=0.05)
    assert scores[2] == pytest.approx(scores[0], abs=0.05)
    refused = run_tool(
        'test.py', config, checkpoint, '--no-deploy', *options, cwd=tmp_path
    )
    assert refused.returncode == 2
    assert 'not allowed with argument' in refused.stderr


def test_test_time_augmentation(trained, tmp_path, run_tool):
    _, checkpoint, _ = trained
    work = checkpoint.parent
    # The config that the training wrote, into the work dir of the test.
    config = work / 'config.py'
    before = config.read_bytes()
    options = ['--tta', '--work-dir', work]
    result = run_tool('test.py', config, checkpoint, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'evaluating the fused model' in result.stdout
    metrics(result)
    assert config.read_bytes() == before


def test_resume_and_amp(trained, tmp_path, run_tool):
    config, _, _ = trained
    result = run_tool('train.py', config, '--resume', '--amp', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert 'resumed epoch: 0, iter: 2' in result.stdout
    assert 'Precision: ' in result.stdout
    assert (tmp_path / 'work' / 'iter_4.pth').is_file()


def test_auto_scale_lr(street_config_file, tmp_path, run_tool):
    result = run_tool(
        'train.py',
        street_config_file,
        '--auto-scale-lr',
        '--cfg-options',
        'train_cfg.max_iters=1',
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert 'Scaling the original LR by 0.25' in result.stdout
    assert 'the global batch size' not in result.stdout


def test_compare_forms(trained, tmp_path, run_tool):
    config, checkpoint, _ = trained
    result = run_tool(
        'compare_forms.py', config, checkpoint, '--pictures', 2, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    for words in ('mIoU', 'time per image', 'logit difference', 'another label'):
        assert words in result.stdout
    pictures = sorted((tmp_path / 'work' / 'pictures').glob('*.png'))
    assert len(pictures) == 2
    picture = cv2.imread(str(pictures[0]))
    assert picture.shape == (64, 3 * 128 + 2 * 4, 3)
    assert np.ptp(picture) > 100


def test_forms_of_five_bands_are_painted(five_bands, tmp_path, run_tool):
    config, checkpoint, _ = five_bands
    result = run_tool(
        'compare_forms.py', config, checkpoint, '--work-dir', 'work', cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    pictures = [cv2.imread(str(path)) for path in (tmp_path / 'work').rglob('*.png')]
    assert len(pictures) == 3
    assert all(np.ptp(picture[:, :128]) > 100 for picture in pictures)


@pytest.fixture
def dist(start):
    """``dist(script, *args)`` runs a launcher, of which no process outlives the test."""

    def run(script, *args, cwd, **env):
        process = start('bash', REPO / 'tools' / script, *args, cwd=cwd, **env)
        said = process.finish()
        return SimpleNamespace(returncode=process.returncode, stdout=said, stderr=said)

    return run


def test_two_processes(trained, tmp_path, dist):
    # SyncBN in the config without a GPU needs no option.
    config, checkpoint, _ = trained
    work = tmp_path / 'dist'
    result = dist(
        'dist_train.sh', config, 2, '--work-dir', work, '--verbose', cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('evaluating the fused model') == 2
    assert 'MMDistributedDataParallel' in result.stdout
    keys = torch.load(work / 'iter_4.pth', weights_only=False)['state_dict']
    assert 'backbone.stem.conv.branch_3x3.conv.weight' in keys

    # Validation between iterations does not change the training.
    silent = tmp_path / 'silent'
    result = dist(
        'dist_train.sh',
        config,
        2,
        '--work-dir',
        silent,
        '--cfg-options',
        'train_cfg.val_interval=100',
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count('evaluating the fused model') == 1
    for key, value in torch.load(silent / 'iter_4.pth', weights_only=False)[
        'state_dict'
    ].items():
        assert torch.equal(value, keys[key]), key

    tested = dist('dist_test.sh', config, checkpoint, 2, cwd=tmp_path)
    assert tested.returncode == 0, tested.stderr
    assert 'evaluating the fused model' in tested.stdout
    metrics(tested)


def test_port_in_use(street_config_file, tmp_path, dist):
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = dist(
            'dist_train.sh', street_config_file, 2, cwd=tmp_path, PORT=str(port)
        )
    assert result.returncode != 0
    assert f'port {port} is in use. Set PORT' in result.stderr
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('bad', ['0', 'two'])
def test_bad_number_of_processes(street_config_file, tmp_path, bad, dist):
    result = dist('dist_train.sh', street_config_file, bad, cwd=tmp_path)
    assert result.returncode != 0
    assert f"got '{bad}'" in result.stderr


def test_torchrun_is_started_for_several_nodes(tmp_path, dist):
    fake = tmp_path / 'python'
    fake.write_text('#!/usr/bin/env bash\n[ "$1" = -c ] || echo "$@"\n')
    fake.chmod(0o755)
    nodes = dict(PYTHON=str(fake), NNODES='2', NODE_RANK='1', PORT='29400')
    result = dist(
        'dist_train.sh', 'c.py', 4, '--amp', cwd=tmp_path, MASTER_ADDR='h', **nodes
    )
    assert result.stdout.startswith(
        '-m torch.distributed.run --nnodes 2 --nproc_per_node 4'
    )
    assert '--node_rank 1 --master_addr h --master_port 29400' in result.stdout
    assert result.stdout.strip().endswith('train.py c.py --launcher pytorch --amp')
    lost = dist('dist_train.sh', 'c.py', 4, cwd=tmp_path, **nodes)
    assert lost.returncode != 0
    assert 'set MASTER_ADDR' in lost.stderr


@pytest.mark.parametrize(
    ('script', 'rest', 'ends'),
    [
        ('slurm_train.sh', ['c.py', '--amp'], 'train.py c.py --amp --launcher slurm'),
        ('slurm_test.sh', ['c.py', 'x.pth'], 'test.py c.py x.pth --launcher slurm'),
    ],
)
def test_slurm_starts_one_process_per_gpu(tmp_path, script, rest, ends, dist):
    srun = tmp_path / 'srun'
    srun.write_text('#!/usr/bin/env bash\necho "$@"\n')
    srun.chmod(0o755)
    path = f'{tmp_path}:{os.environ["PATH"]}'
    result = dist(script, 'gpu', 'job', *rest, cwd=tmp_path, PATH=path, GPUS='16')
    assert '-p gpu --job-name=job --gres=gpu:8 --ntasks=16' in result.stdout
    assert result.stdout.strip().endswith(ends)
    assert dist(script, 'gpu', cwd=tmp_path, PATH=path).returncode == 2


def test_slurm_works_without_a_gpu(street_config_file, tmp_path, free_port, dist):
    """Use a stand-in for Slurm that starts the requested tasks."""
    (tmp_path / 'scontrol').write_text('#!/usr/bin/env bash\necho 127.0.0.1\n')
    (tmp_path / 'srun').write_text(
        '#!/usr/bin/env bash\n'
        'while [[ $1 == -* ]]; do [ "$1" = -p ] && shift; shift; done\n'
        'export SLURM_NTASKS=2 SLURM_NODELIST=here\n'
        'SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & other=$!\n'
        'SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait $other && exit\n'
        'kill $other; exit 1\n'
    )
    for name in ('srun', 'scontrol'):
        (tmp_path / name).chmod(0o755)
    for _ in range(2):  # Another process may take the port first.
        result = dist(
            'slurm_train.sh',
            'partition',
            'job',
            street_config_file,
            '--verbose',
            '--cfg-options',
            'train_cfg.max_iters=1',
            cwd=tmp_path,
            PATH=f'{tmp_path}:{os.environ["PATH"]}',
            GPUS='2',
            MASTER_PORT=str(free_port()),
        )
        if 'EADDRINUSE' not in result.stderr:
            break
    assert result.returncode == 0, result.stderr
    assert 'MMDistributedDataParallel' in result.stdout
    assert (tmp_path / 'work' / 'iter_1.pth').is_file()


# Bad input --------------------------------------------------------------------------


def fails(result, *says, work=None):
    """Check that a tool failed with one line of error and started nothing."""
    assert result.returncode not in (0, None)
    (line,) = [x for x in result.stderr.splitlines() if x.startswith('error')]
    text = result.stderr[result.stderr.index(line) :]
    for words in says:
        assert words in text, text
    assert 'Traceback' not in result.stderr
    if work is not None:
        assert not list(Path(work).rglob('*.pth'))


@pytest.mark.parametrize(
    ('option', 'says'),
    [
        ('model.backbone.arch=B7', ['arch must be one of A0', 'D2se', "'B7'"]),
        (
            'train_dataloader.dataset.data_root=/nowhere',
            ['mmseg-repvgg prepare-cityscapes /nowhere'],
        ),
    ],
)
def test_bad_option_to_train(street_config_file, tmp_path, run_tool, option, says):
    result = run_tool(
        'train.py', street_config_file, '--cfg-options', option, cwd=tmp_path
    )
    fails(result, *says, work=tmp_path / 'work')


def test_missing_config(tmp_path, run_tool):
    fails(run_tool('train.py', 'gone.py', cwd=tmp_path), 'gone.py does not exist')


def change_data(config_file, tmp_path, change):
    cfg = Config.fromfile(config_file)
    root = tmp_path / 'changed'
    shutil.copytree(cfg.train_dataloader.dataset.data_root, root)
    change(root)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(root)
    cfg.train_dataloader.num_workers = 1
    cfg.dump(config_file)


def test_image_without_a_label(street_config_file, tmp_path, run_tool):
    def change(root):
        next(root.glob('gtFine/train/*/*_labelTrainIds.png')).unlink()

    change_data(street_config_file, tmp_path, change)
    result = run_tool('train.py', street_config_file, cwd=tmp_path)
    fails(result, '1 of 8 images', 'have no label map', work=tmp_path / 'work')


def test_truncated_images(street_config_file, tmp_path, run_tool):
    def change(root):
        for path in root.glob('leftImg8bit/train/*/*.png'):
            os.truncate(path, path.stat().st_size // 2)

    change_data(street_config_file, tmp_path, change)
    result = run_tool('train.py', street_config_file, cwd=tmp_path)
    fails(result, '_leftImg8bit.png is truncated or not an image', work=tmp_path / 'work')


def test_nan_loss(street_config_file, tmp_path, run_tool):
    options = ['optim_wrapper.optimizer.lr=1e30', 'param_scheduler=[]']
    result = run_tool(
        'train.py', street_config_file, '--cfg-options', *options, cwd=tmp_path
    )
    fails(result, 'at iteration', 'the training stops', 'Lower the learning rate')


def test_bad_checkpoints(trained, tmp_path, run_tool):
    config, checkpoint, _ = trained

    def test(path, *options):
        return run_tool('test.py', config, path, *options, cwd=tmp_path)

    torn = tmp_path / 'torn.pth'
    torn.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    fails(test(torn), 'torn.pth cannot be read')

    fails(
        test(checkpoint, '--cfg-options', 'model.backbone.arch=A1'),
        'of another arch',
        'iter_2.pth',
    )

    from mmseg_repvgg import RepVGG, deploy

    state = torch.load(checkpoint, weights_only=False)['state_dict']
    backbone = RepVGG(Config.fromfile(config).model.backbone.arch)
    backbone.load_state_dict(
        {k[9:]: v for k, v in state.items() if k.startswith('backbone.')}
    )
    fused = {f'backbone.{k}': v for k, v in deploy(backbone).state_dict().items()}
    heads = {k: v for k, v in state.items() if not k.startswith('backbone.')}
    torch.save({'state_dict': {**fused, **heads}}, tmp_path / 'fused.pth')
    # Testing a fused checkpoint builds the fused form and logs it.
    result = test(tmp_path / 'fused.pth')
    assert result.returncode == 0, result.stderr
    assert 'the model is built in the fused form' in result.stdout
    # Training from one is an error.
    load = f'load_from={tmp_path / "fused.pth"}'
    fails(
        run_tool('train.py', config, '--overwrite', '--cfg-options', load, cwd=tmp_path),
        'fused.pth',
        'it is fused, and the model is in the training form',
    )


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (['--budget', 'nan'], '--budget must be at least 0 seconds, but got nan'),
        (
            ['--forms', 'fused', 'int8', 'fused'],
            '--forms fused int8 fused names one twic',
        ),
    ],
)
def test_benchmark_refuses_impossible_options(monkeypatch, options, says):
    main = main_of('benchmark.py', monkeypatch, 'A0', '--backbone-only', *options)
    with pytest.raises(ConfigError, match=says):
        main()


def main_of(tool, monkeypatch, *args):
    path = str(REPO / 'tools' / tool)
    monkeypatch.setattr(sys, 'argv', [path, *args])
    # As Python does for a script; run_path does it for a folder only.
    monkeypatch.syspath_prepend(str(REPO / 'tools'))
    return runpy.run_path(path)['main']


@pytest.mark.parametrize(
    ('tool', 'offered'),
    [
        ('train.py', ['--launcher', '--trust-checkpoint']),
        ('test.py', ['--launcher', '--trust-checkpoint']),
        ('export.py', ['--trust-checkpoint']),
        ('benchmark.py', ['--trust-checkpoint']),
        ('evaluate_backend.py', []),
        ('get_flops.py', []),
    ],
)
def test_a_tool_offers_only_options_that_it_uses(monkeypatch, capsys, tool, offered):
    with pytest.raises(SystemExit):
        main_of(tool, monkeypatch, '--help')()
    said = capsys.readouterr().out
    assert '--cfg-options' in said
    assert 'rank' not in said
    options = ('--launcher', '--trust-checkpoint')
    assert [option for option in options if option in said] == offered
