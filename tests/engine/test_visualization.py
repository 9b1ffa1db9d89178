"""What a training shows of itself, and that showing changes nothing."""

import os
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import VISBACKENDS
from mmseg.structures import SegDataSample

from mmseg_repvgg import deploy
from mmseg_repvgg.datasets.painting import paint, side_by_side
from mmseg_repvgg.engine.launch import build_runner, prepare_training
from mmseg_repvgg.engine.visualization import watch
from mmseg_repvgg.hooks import SampleHook
from mmseg_repvgg.hooks.sample_hook import _spread
from mmseg_repvgg.models.wrappers import predict
from mmseg_repvgg.reparam import is_deployed

LOCAL = dict(type='LocalVisBackend')
BOARD = dict(type='OptionalTensorboardVisBackend')


def config(**more):
    visualizer = dict(type='SegLocalVisualizer', vis_backends=[LOCAL])
    return Config(dict(default_hooks={}, visualizer=visualizer, **more))


def events(folder):
    """Every tag's values by step, of the only event file; images decoded, BGR."""
    reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    (path,) = folder.rglob('events.out.tfevents.*')
    loaded = reader.EventAccumulator(str(path), {'scalars': 0, 'images': 0}).Reload()
    found = {}
    for tag in loaded.Tags()['scalars']:
        found[tag] = {e.step: e.value for e in loaded.Scalars(tag)}
    for tag in loaded.Tags()['images']:
        found[tag] = {
            e.step: cv2.imdecode(np.frombuffer(e.encoded_image_string, np.uint8), 1)
            for e in loaded.Images(tag)
        }
    return found


def test_tensorboard_is_added_once():
    pytest.importorskip('tensorboard')
    cfg = config()
    for _ in range(2):
        watch(cfg)
        assert cfg.visualizer.vis_backends == [LOCAL, BOARD]
    cfg.tensorboard = False
    watch(cfg)
    assert cfg.visualizer.vis_backends == [LOCAL]


def test_backends_of_the_config_are_kept():
    pytest.importorskip('tensorboard')
    mine = dict(type='TensorboardVisBackend', save_dir='elsewhere')
    cfg = config()
    cfg.visualizer.vis_backends = [mine, dict(type='MLflowVisBackend')]
    watch(cfg)
    assert cfg.visualizer.vis_backends == [mine, dict(type='MLflowVisBackend')]


def test_without_tensorboard(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    cfg = config()
    # Such as a run has dumped on a machine that has it.
    cfg.visualizer.vis_backends = [LOCAL, BOARD]
    watch(cfg)
    assert cfg.visualizer.vis_backends == [LOCAL]
    (line,) = capsys.readouterr().out.splitlines()
    assert "pip install 'mmseg_repvgg[tensorboard]'" in line
    monkeypatch.setenv('RANK', '1')
    watch(cfg)
    cfg.tensorboard = False
    monkeypatch.setenv('RANK', '0')
    watch(cfg)
    assert capsys.readouterr().out == ''


def test_dumped_config_is_tested_without_tensorboard(street_config, monkeypatch):
    """Where it imports or not, mmengine would import it to record the config."""
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    street_config.merge_from_dict({'visualizer.name': 'elsewhere'})
    street_config.visualizer.vis_backends = [LOCAL, BOARD]
    runner = build_runner(street_config)
    assert list(runner.visualizer._vis_backends) == ['LocalVisBackend']


def test_config_without_a_visualizer():
    cfg = Config(dict(default_hooks={}, tensorboard=False))
    watch(cfg)
    assert cfg.visualizer.vis_backends == [LOCAL]


def test_samples_are_the_configs_choice():
    cfg = config(tensorboard=False)
    watch(cfg)
    assert cfg.default_hooks.samples == dict(type='SampleHook')
    cfg.default_hooks.samples = None
    watch(cfg)
    assert cfg.default_hooks.samples == dict(type='SampleHook', count=0)


@pytest.mark.parametrize(
    ('count', 'length', 'expected'),
    [
        (4, 500, {62, 187, 312, 437}),
        (4, 3, {0, 1, 2}),
        (1, 3, {1}),
        (0, 3, set()),
        (4, 0, {0}),
    ],
)
def test_samples_are_spread(count, length, expected):
    assert _spread(count, length) == expected


def test_negative_count():
    with pytest.raises(ValueError, match='-1'):
        SampleHook(-1)


def test_a_picture_that_fails_is_a_warning_once(street_config, tmp_path):
    runner = Runner.from_cfg(street_config)
    (tmp_path / 'a.npy').write_bytes(b'of a loader of the user')
    labels = PixelData(data=torch.zeros(1, 4, 4, dtype=torch.int64))
    sample = SegDataSample(metainfo=dict(img_path=str(tmp_path / 'a.npy')))
    sample.pred_sem_seg = labels
    hook = SampleHook(3)
    for index in range(3):
        hook.after_val_iter(runner, index, outputs=[sample])
    assert Path(runner.logger.log_file).read_text().count('a.npy') == 1


def test_tensorboard_that_fails_is_a_warning_once(tmp_path, monkeypatch):
    tensorboard = pytest.importorskip('torch.utils.tensorboard')

    def fail(*args):
        raise OSError('No space left on device')

    monkeypatch.setattr(tensorboard.SummaryWriter, 'add_scalar', fail)
    log = tmp_path / 'log'
    MMLogger.get_instance('full', log_file=str(log))
    backend = VISBACKENDS.build(dict(BOARD, save_dir=str(tmp_path)))
    for step in range(3):
        backend.add_scalars(dict(loss=1.0), step)
        backend.add_image('picture', np.zeros((4, 4, 3), np.uint8), step)
    backend.close()
    assert log.read_text().count('No space left on device') == 1


def test_any_number_of_classes_is_painted():
    palette = [[i % 256, i // 256, 7] for i in range(300)]
    labels = np.array([[0, 255, 256, 299, 300, -1, 65535]])
    expected = [[0, 0, 7], [255, 0, 7], [0, 1, 7], [43, 1, 7], *[[0, 0, 0]] * 3]
    assert paint(labels, palette)[0, :, ::-1].tolist() == expected
    assert not paint(labels.astype(np.uint8), []).any()


def test_side_by_side_shrinks_without_mixing_labels():
    # Stripes of labels 0 and 3; 1 and 2 are what lies between.
    labels = np.tile(np.arange(1200) // 7 % 2 * 3, (600, 1))
    palette = [[10, 0, 0], [0, 20, 0], [0, 0, 30], [40, 40, 40]]
    image = np.full((50, 100, 3), 7, np.uint8)
    picture = side_by_side(image, [labels, labels], palette, max_width=350)
    assert picture.shape == (175, 3 * 350 + 2 * 4, 3)
    assert (picture[:, :350] == 7).all()
    colours = np.unique(picture[:, 354:704].reshape(-1, 3), axis=0)
    assert sorted(map(tuple, colours)) == [(0, 0, 10), (40, 40, 40)]


def states():
    return torch.get_rng_state(), np.random.get_state()[1], random.getstate()


@pytest.mark.slow
def test_training_shows_itself_and_learns_the_same(
    street_config, street_root, small_street_config, tmp_path, one_thread
):
    short = {
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 1,
        'default_hooks.checkpoint.interval': 9,
        'default_hooks.checkpoint.save_best': None,
    }
    cfg = street_config
    cfg.merge_from_dict(short)
    prepare_training(cfg)
    shown = Runner.from_cfg(cfg)
    forms = []
    add = shown.visualizer.add_image

    def recording(*args, **kwargs):
        forms.append(is_deployed(shown.model))
        add(*args, **kwargs)

    shown.visualizer.add_image = recording
    shown.train()
    after = states()

    folder = next((tmp_path / 'work').glob('*/vis_data'))
    names = sorted(path.name for path in (folder / 'vis_image').iterdir())
    dataset = shown.val_dataloader.dataset
    stems = [os.path.basename(info['img_path'])[:-4] for info in dataset.load_data_list()]
    assert names == sorted(f'sample_{s}.png_{step}.png' for s in stems for step in (1, 2))
    assert forms == [True] * 6

    # The last pictures are of the weights that are there now.
    palette = dataset.metainfo['palette']
    fused = deploy(shown.model)
    for stem, batch in zip(stems, shown.val_dataloader):
        (sample,) = predict(fused, batch)
        picture = cv2.imread(str(folder / 'vis_image' / f'sample_{stem}.png_2.png'))
        panes = picture[:, :128], picture[:, 132:260], picture[:, 264:]
        image = cv2.imread(sample.img_path)
        truth, prediction = sample.gt_sem_seg.data[0], sample.pred_sem_seg.data[0]
        np.testing.assert_array_equal(panes[0], image)
        np.testing.assert_array_equal(panes[1], paint(truth.numpy(), palette))
        np.testing.assert_array_equal(panes[2], paint(prediction.numpy(), palette))

    silent = small_street_config(street_root, tmp_path / 'silent')
    silent.merge_from_dict(
        {
            **short,
            'tensorboard': False,
            'default_hooks.samples.count': 0,
        }
    )
    prepare_training(silent)
    unwatched = Runner.from_cfg(silent)
    unwatched.train()
    assert not list((tmp_path / 'silent').rglob('vis_image'))
    assert not list((tmp_path / 'silent').rglob('events.*'))
    for name, value in unwatched.model.state_dict().items():
        assert torch.equal(value, shown.model.state_dict()[name]), name
    for ours, theirs in zip(after, states()):
        np.testing.assert_array_equal(
            np.asarray(ours, dtype=object), np.asarray(theirs, dtype=object)
        )

    found = events(folder)
    assert set(found['loss']) == set(found['lr']) == {1, 2}
    assert set(found['mIoU']) == {1, 2}
    for stem in stems:
        pictures = found[f'sample_{stem}.png']
        written = cv2.imread(str(folder / 'vis_image' / f'sample_{stem}.png_1.png'))
        np.testing.assert_array_equal(pictures[1], written)
        assert set(pictures) == {1, 2}


@pytest.mark.slow
def test_one_of_two_processes_writes(street_config_file, tmp_path, repo):
    pytest.importorskip('tensorboard')
    script = str(repo / 'tools' / 'dist_train.sh')
    result = subprocess.run(
        [
            'bash',
            script,
            street_config_file,
            '2',
            '--cfg-options',
            'train_cfg.max_iters=2',
        ],
        cwd=tmp_path,
        env={**os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    found = events(tmp_path / 'work')
    assert set(found['loss']) == {1, 2}
    # Of the three images, the first process has the first and the last.
    assert len([tag for tag in found if tag.startswith('sample_')]) == 2
