"""Sliding windows in batches: mmseg's logits, calls and memory."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmseg.models import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_repvgg import deploy
from mmseg_repvgg.errors import ConfigError

TINY = dict(depths=(1, 1, 2, 1), a=0.25, b=0.125)
WINDOW = dict(mode='slide', crop_size=(65, 57), stride=(43, 38))


def config(repo, **test_cfg):
    """PSPNet-RepVGG of the Cityscapes configs, narrow, with a small window."""
    cfg = Config.fromfile(repo / 'configs' / 'pspnet_repvgg_a0_cityscapes.py').model
    cfg.backbone.arch = TINY
    cfg.decode_head.update(in_channels=64, channels=16)
    cfg.auxiliary_head.update(in_channels=64, channels=16)
    cfg.test_cfg.update(WINDOW, **test_cfg)
    return cfg


def build(cfg):
    return revert_sync_batchnorm(MODELS.build(cfg)).eval()


@pytest.fixture
def model(repo, randomize_norms):
    return randomize_norms(build(config(repo)))


def metas(images):
    shape = tuple(images.shape[2:])
    meta = dict(ori_shape=shape, img_shape=shape, pad_shape=shape)
    return [dict(meta) for _ in images]


# One window; two with most of them shared; an exact fit; last windows that overlap by
# more; smaller than the window in one direction and in both.
SIZES = [(65, 57), (66, 58), (108, 95), (129, 144), (50, 171), (41, 33)]


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('size', SIZES)
@torch.no_grad()
def test_logits_are_those_of_mmseg(model, size, batch):
    images = torch.randn(batch, 3, *size)
    expected = EncoderDecoder.slide_inference(model, images, metas(images))
    for windows in (1, 2, 5, 100):
        model.test_cfg.windows_per_batch = windows
        for form in (model, deploy(model)):
            actual = form.slide_inference(images, given := metas(images))
            assert actual.shape == expected.shape
            assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()
            assert given == metas(images)


@torch.no_grad()
def test_predictions_are_those_of_mmseg(model):
    """From uint8 images to labels: scaled to the original size, and flipped back."""
    fused = deploy(model)
    theirs = copy.copy(fused)
    theirs.__class__ = EncoderDecoder

    def predict(segmentor):
        sizes = dict(img_shape=(120, 150), pad_shape=(120, 150), ori_shape=(97, 121))
        flip = dict(flip=True, flip_direction='horizontal')
        samples = [SegDataSample(metainfo={**sizes, **more}) for more in ({}, flip)]
        return segmentor.test_step(dict(inputs=list(images), data_samples=samples))

    images = torch.randint(0, 255, (2, 3, 120, 150), dtype=torch.uint8)
    fused.test_cfg.windows_per_batch = 4
    for actual, expected in zip(predict(fused), predict(theirs)):
        a, b = actual.seg_logits.data, expected.seg_logits.data
        assert a.shape == b.shape == (19, 97, 121)
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


@torch.no_grad()
def test_windows_go_in_batches(model):
    shapes = []
    model.backbone.register_forward_pre_hook(lambda _, x: shapes.append(x[0].shape))
    images = torch.randn(2, 3, 129, 144)
    model.slide_inference(images, metas(images))
    assert shapes == [(2, 3, 65, 57)] * 12
    shapes.clear()
    model.test_cfg.windows_per_batch = 5
    model.slide_inference(images, metas(images))
    assert shapes == [(10, 3, 65, 57)] * 2 + [(4, 3, 65, 57)]


@pytest.mark.parametrize(
    ('bad', 'says'),
    [
        (
            dict(windows_per_batch=0),
            'windows_per_batch must be a positive integer, got 0',
        ),
        (dict(windows_per_batch='2'), "got '2'"),
        (dict(stride=(43, 58)), r'crop_size=\(65, 57\).* got \(43, 58\)'),
        (dict(stride=(0, 38)), r'got \(0, 38\)'),
    ],
)
def test_bad_windows(repo, bad, says):
    with pytest.raises(ConfigError, match=says):
        build(config(repo, **bad))


@pytest.mark.slow
def test_full_size_on_a_cpu(repo):
    """1024x2048 with A0, fused, in a process of its own; 0.6 GB beyond the imports."""
    script = """
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg_repvgg import deploy

def memory(field):
    # Not getrusage's: that begins with what pytest, which starts this, takes.
    with open('/proc/self/status') as status:
        (line,) = (line for line in status if line.startswith(field + ':'))
    return int(line.split()[1]) / 2**20

init_default_scope('mmseg')
cfg = Config.fromfile('configs/pspnet_repvgg_a0_cityscapes.py')
model = deploy(revert_sync_batchnorm(MODELS.build(cfg.model)))
size = (1024, 2048)
sample = SegDataSample(metainfo=dict(ori_shape=size, img_shape=size, pad_shape=size))
image = torch.randint(0, 255, (3, *size), dtype=torch.uint8)
# The peak from here on: that of building would hide what running takes.
Path('/proc/self/clear_refs').write_text('5')
before = memory('VmRSS')
with torch.no_grad():
    (result,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
print(before, memory('VmHWM'), *result.seg_logits.data.shape)
"""
    # Each thread has memory of its own.
    result = subprocess.run(
        [sys.executable, '-c', script],
        cwd=repo,
        env={**os.environ, 'OMP_NUM_THREADS': '2'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    before, peak, *shape = map(float, result.stdout.split()[-5:])
    assert shape == [19, 1024, 2048]
    assert peak < 4
    assert 0.1 < peak - before < 1
