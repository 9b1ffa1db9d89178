"""The commands and the config of docs/own_data.md run on a folder of drawn scenes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.street import TRAIN_IDS, draw_scene

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[1]
PAGE = (REPO / 'docs' / 'own_data.md').read_text()
COMMANDS = [
    shlex.split(block.replace('\\\n', ' '))
    for block in re.findall(r'^```\n(mmseg-repvgg .*?)^```', PAGE, flags=re.S | re.M)
]
COLORS = np.array([[128, 64, 128], [0, 0, 142], [70, 70, 70], [0, 0, 0]], np.uint8)
PROGRAM = shlex.join([sys.executable, '-m', 'repvgg_runtime.command'])
FEW = [
    'train_dataloader.batch_size=2',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')),
    'train_dataloader.dataset.pipeline.4.crop_size=(64,64)',
    'model.data_preprocessor.size=(64,64)',
    'optim_wrapper.type=OptimWrapper',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
]


@pytest.fixture
def folder(tmp_path):
    """Draw 6 scenes for training and 2 for validation, with masks of numbers."""
    rng = np.random.default_rng(0)
    # Road and car are classes; 3 is what does not count.
    labels = np.full(256, 2, np.uint8)
    labels[[0, 13, 255]] = 0, 1, 3
    for split, count in (('train', 6), ('val', 2)):
        for index in range(count):
            scene = draw_scene(rng, (64, 128))
            ids = np.array(TRAIN_IDS, np.uint8)[scene.label_ids]
            write(tmp_path / f'data/mine/images/{split}/{index}.jpg', scene.image)
            write(tmp_path / f'data/mine/masks/{split}/{index}.png', labels[ids])
    write(tmp_path / 'photo.jpg', scene.image)
    (classes,) = re.findall(r'^```\n(road .*?)^```', PAGE, flags=re.S | re.M)
    (tmp_path / 'data/mine/classes.txt').write_text(classes)
    return tmp_path / 'data/mine'


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def masks_of(folder):
    return sorted(folder.glob('masks/*/*.png'))


def paint(folder):
    """Turn masks of numbers into masks of colours."""
    for path in masks_of(folder):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write(path, COLORS[labels][..., ::-1])


def run(command, cwd, *options):
    assert command[0] == 'mmseg-repvgg'
    return subprocess.run(
        [sys.executable, '-m', 'repvgg_runtime.command', *command[1:], *options],
        cwd=cwd,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
        capture_output=True,
        text=True,
        timeout=900,
    )


def train(command, cwd, *options):
    done = run(command, cwd, '--cfg-options', *FEW, *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def test_training_checks_stops_early_and_writes_a_folder_for_use(folder, tmp_path):
    paint(folder)
    done = train(
        COMMANDS[0],
        tmp_path,
        'train_cfg.max_iters=6',
        'default_hooks.checkpoint.interval=2',
        'default_hooks.early_stopping.patience=1',
        'default_hooks.early_stopping.min_delta=100',
    )
    table = done.stdout[: done.stdout.index('Iter(train)')]
    for name in ('road', 'car', 'background'):
        assert re.search(rf'\| {name} +\|.*%.*of 6', table)
    work = tmp_path / 'work_dirs' / 'mine'
    assert list(work.glob('best_mIoU_iter_*.pth'))
    assert (work / 'iter_4.pth').is_file()
    assert not (work / 'iter_6.pth').exists()
    card = (work / 'segmenter' / 'README.md').read_text()
    assert 'data/mine' in card
    assert 'train --data data/mine' in card

    (code,) = re.findall(r'^```python\n(from .*?)^```', PAGE, flags=re.S | re.M)
    code += '\nprint(labels.shape, labels.dtype, labels.max() < 3)'
    shown = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
        capture_output=True,
        text=True,
    )
    assert '(64, 128) uint8 True' in shown.stdout, shown.stderr

    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photo.jpg').rename(tmp_path / 'photos' / 'photo.jpg')
    (block,) = re.findall(r'^```\n(mine=.*?)^```', PAGE, flags=re.S | re.M)
    best = re.findall(r'best_mIoU_iter_\d+\.pth', done.stdout)[-1]
    block = re.sub(r'best_mIoU_iter_\d+\.pth', best, block)
    block = re.sub(r'^mmseg-repvgg web.*', '', block, flags=re.M)
    subprocess.run(
        ['bash', '-ec', f'mmseg-repvgg() {{ {PROGRAM} "$@"; }}\n{block}'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
        check=True,
        timeout=900,
    )
    assert (tmp_path / 'results/labels/photo.png').is_file()
    assert (tmp_path / 'mine.onnx').is_file()
    assert list(tmp_path.glob('**/report.html'))


@pytest.mark.parametrize('command', COMMANDS[1:-1])
def test_other_commands_train(folder, tmp_path, command):
    paint(folder)
    train(command, tmp_path)
    work = tmp_path / command[command.index('--work-dir') + 1]
    assert (work / 'segmenter/model.safetensors').is_file()


@pytest.mark.parametrize('rooted', [True, False])
def test_config_of_ten_lines_trains(folder, tmp_path, rooted):
    for path in masks_of(folder):
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write(path, np.where(labels == 3, 255, labels).astype(np.uint8))
    (copy,) = re.findall(r'`(mmseg-repvgg configs --copy [^`]*)`', PAGE)
    assert run(shlex.split(copy), tmp_path).returncode == 0
    (text,) = re.findall(r'^```python\n(_base_ .*?)^```', PAGE, flags=re.S | re.M)
    assert len(text.splitlines()) <= 10
    if not rooted:
        text = text.replace("data_root='data/mine', ", '')
        for split in ('train', 'val', 'val'):
            files = {
                f'{key}_path': str(folder / part / split)
                for key, part in (('img', 'images'), ('seg_map', 'masks'))
            }
            text = text.replace(
                'dataset=data)', f'dataset=dict(data, data_prefix={files}))', 1
            )
    (tmp_path / COMMANDS[-1][-1]).write_text(text)
    done = train(COMMANDS[-1], tmp_path)
    assert 'pixels of train' in done.stdout
    assert (tmp_path / 'work_dirs/ten_lines/segmenter/model.safetensors').is_file()


def test_wrong_mask_ends_the_run_before_training(folder, tmp_path):
    wrong = folder / 'masks' / 'val' / '1.png'
    for path in masks_of(folder):
        write(path, np.full((64, 128), 9 if path == wrong else 0, np.uint8))
    done = run(COMMANDS[0], tmp_path)
    assert done.returncode == 2
    assert 'data/mine/masks/val/1.png holds [9]' in done.stderr
    assert 'never in train: car, background' in done.stdout
    assert not list((tmp_path / 'work_dirs').rglob('*.pth'))
    assert 'Traceback' not in done.stderr
