"""The ImageNet recipe trains by mmpretrain, and its checkpoint starts a segmentor.

Run by `make test-peers`, in an environment of its own.
"""

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from PIL import Image

from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.training import prepare_training

pytest.importorskip('mmpretrain', reason='needs mmpretrain: make test-peers')

TINY = dict(depths=(1, 2, 2, 1), a=0.25, b=0.25)


@pytest.fixture
def images(tmp_path):
    """Two classes of four pictures each, for training and validation."""
    generator = np.random.default_rng(0)
    for split in ('train', 'val'):
        for number, name in enumerate(('dark', 'bright')):
            folder = tmp_path / 'imagenet' / split / name
            folder.mkdir(parents=True)
            for index in range(4):
                pixels = generator.integers(0, 100, (50, 60, 3)) + 150 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{index}.jpg')
    return tmp_path / 'imagenet'


def small(name, images, work_dir):
    cfg = load_config(
        name,
        {
            'model.head.in_channels': 128,
            'model.head.num_classes': 2,
            'model.data_preprocessor.num_classes': 2,
            'train_cfg.max_iters': 2,
            'train_cfg.val_interval': 2,
            'default_hooks.checkpoint.interval': 2,
        },
        work_dir=str(work_dir),
    )
    cfg.model.backbone.arch = TINY
    if 'num_classes' in cfg.model.head.loss:
        cfg.model.head.loss.num_classes = 2
    cfg.val_evaluator.topk = (1,)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=4, num_workers=0, persistent_workers=False)
        loader.dataset.update(
            data_root=str(images), metainfo=dict(classes=('bright', 'dark'))
        )
        for step in loader.dataset.pipeline:
            if step.type in ('RandomResizedCrop', 'ResizeEdge'):
                step.scale = 40
            if step.type == 'CenterCrop':
                step.crop_size = 32
    return cfg


@pytest.mark.parametrize('name', ['repvgg_a0_imagenet', 'repvgg_b2_imagenet'])
def test_checkpoint_of_the_recipe_starts_a_segmentor(images, tmp_path, name):
    cfg = small(name, images, tmp_path / 'work')
    prepare_training(cfg)
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    checkpoint = tmp_path / 'work' / 'iter_2.pth'
    init_default_scope('mmseg')
    pretrained = dict(type='Pretrained', checkpoint=str(checkpoint))
    for dilation in (None, 'fast'):
        backbone = MODELS.build(
            dict(type='RepVGG', arch=TINY, dilation=dilation, init_cfg=pretrained)
        )
        backbone.init_weights()
        trained = torch.load(checkpoint, weights_only=False)['state_dict']
        for key, value in backbone.state_dict().items():
            assert torch.equal(value, trained[f'backbone.{key}']), key
