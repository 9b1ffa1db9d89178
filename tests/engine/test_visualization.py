"""TensorBoard and sample predictions show a training and change nothing."""

import os
import random
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmseg.registry import VISBACKENDS

from mmseg_repvgg import deploy
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.training import prepare_training
from mmseg_repvgg.engine.visualization import apply_tensorboard_key
from mmseg_repvgg.models.wrappers import predict
from mmseg_repvgg.reparam import is_deployed
from repvgg_runtime.painting import paint

LOCAL = dict(type='LocalVisBackend')
BOARD = dict(type='OptionalTensorboardVisBackend')


def events(folder):
    """Return every tag's values by step; images are decoded to BGR."""
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


@pytest.mark.parametrize('wanted', [True, False])
def test_tensorboard_is_used_unless_the_config_says_false(street_config, wanted):
    street_config.tensorboard = wanted
    backends = build_runner(street_config).visualizer._vis_backends
    expected = {'LocalVisBackend', 'OptionalTensorboardVisBackend'}
    assert set(backends) == (expected if wanted else {'LocalVisBackend'})


def test_the_tensorboard_key_keeps_other_backends():
    others = [LOCAL, dict(type='MLflowVisBackend')]
    boards = [BOARD, dict(type='TensorboardVisBackend', save_dir='elsewhere')]
    cfg = Config(dict(visualizer=dict(vis_backends=[*others, *boards])))
    apply_tensorboard_key(cfg)
    assert cfg.visualizer.vis_backends == [*others, *boards]
    cfg.tensorboard = False
    apply_tensorboard_key(cfg)
    assert cfg.visualizer.vis_backends == others
    apply_tensorboard_key(Config(dict(tensorboard=False)))


def test_missing_tensorboard_is_a_warning_once(street_config, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    runner = build_runner(street_config)
    runner.visualizer.add_scalar('loss', 1.0)
    log = Path(runner.logger.log_file).read_text()
    (line,) = [line for line in log.splitlines() if 'TensorBoard is off' in line]
    assert 'WARNING' in line
    assert 'pip install tensorboard' in line


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


def states():
    return torch.get_rng_state(), np.random.get_state()[1], random.getstate()


@pytest.mark.slow
def test_a_shown_training_learns_the_same(
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
    shown = build_runner(cfg)
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

    # The last pictures show the final weights.
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
    unwatched = build_runner(silent)
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
def test_one_of_two_processes_writes(street_config_file, tmp_path, repo, start):
    pytest.importorskip('tensorboard')
    script = repo / 'tools' / 'dist_train.sh'
    options = ['--cfg-options', 'train_cfg.max_iters=2']
    start('bash', script, street_config_file, 2, *options, cwd=tmp_path).succeed()
    found = events(tmp_path / 'work')
    assert set(found['loss']) == {1, 2}
    # Of the three images, the first process has the first and the last.
    assert len([tag for tag in found if tag.startswith('sample_')]) == 2
