"""Test-time augmentation predicts mmseg's labels and holds one view at a time."""

import weakref

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmseg.models import SegTTAModel
from mmseg.registry import DATASETS, MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_repvgg import deploy
from mmseg_repvgg.models import RunningMeanTTAModel
from mmseg_repvgg.reparam import RepConv, is_deployed

ORIGINAL = (80, 112)


@pytest.fixture
def segmentor(randomize_norms):
    head = dict(in_channels=64, channels=16, num_classes=5, align_corners=True)
    cfg = ConfigDict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[120] * 3, std=[60] * 3),
        backbone=dict(type='RepVGG', arch=dict(depths=(1, 1, 2, 1), a=0.25, b=0.125)),
        decode_head=dict(type='PSPHead', in_index=3, **head),
        test_cfg=dict(mode='slide', crop_size=(65, 65), stride=(43, 43)),
    )
    model = randomize_norms(MODELS.build(cfg)).eval()
    # With large scores, mean probabilities and mean logits give different labels.
    nn.init.normal_(model.decode_head.conv_seg.weight)
    return model


def batch(images=2):
    """Return views as a dataloader yields them: three sizes, flipped and not."""
    inputs, samples = [], []
    for size in ((48, 72), ORIGINAL, (96, 130)):
        for flip in (False, True):
            meta = dict(ori_shape=ORIGINAL, img_shape=size, pad_shape=size, flip=flip)
            meta.update(flip_direction='horizontal')
            inputs.append(torch.randint(0, 255, (images, 3, *size), dtype=torch.uint8))
            samples.append(
                [
                    SegDataSample(metainfo={**meta, 'img_path': f'{image}.png'})
                    for image in range(images)
                ]
            )
    return dict(inputs=[list(views) for views in inputs], data_samples=samples)


def cloned(data):
    samples = [[sample.clone() for sample in view] for view in data['data_samples']]
    return {**data, 'data_samples': samples}


@pytest.mark.parametrize('form', [lambda model: model, deploy])
@torch.no_grad()
def test_labels_equal_those_of_mmseg(segmentor, form):
    data = batch()
    ours, theirs = (
        form(kind(segmentor)).eval().test_step(cloned(data))
        for kind in (RunningMeanTTAModel, SegTTAModel)
    )
    single = segmentor.test_step({key: value[0] for key, value in cloned(data).items()})
    for index, (a, b) in enumerate(zip(ours, theirs)):
        labels = a.pred_sem_seg.data
        assert labels.shape == (1, *ORIGINAL)
        assert labels.dtype == torch.int64
        assert torch.equal(labels, b.pred_sem_seg.data)
        assert not torch.equal(labels, single[index].pred_sem_seg.data)
        assert a.img_path == f'{index}.png'
        assert 'seg_logits' not in a


@torch.no_grad()
def test_logits_of_one_view_are_held_at_a_time(segmentor):
    held = []
    plain = segmentor.test_step

    def test_step(data):
        assert not [logits for logits in held if logits() is not None]
        samples = plain(data)
        held.extend(weakref.ref(sample.seg_logits.data) for sample in samples)
        return samples

    segmentor.test_step = test_step
    RunningMeanTTAModel(segmentor).test_step(batch())
    assert len(held) == 12


def test_deploy_keeps_the_tta_model(segmentor):
    fused = deploy(RunningMeanTTAModel(segmentor))
    assert isinstance(fused, RunningMeanTTAModel)
    assert type(fused.module) is type(segmentor)
    assert is_deployed(fused)
    assert not is_deployed(segmentor)


def test_runner_augments_the_fused_model(street_config, monkeypatch):
    """No multi-branch block runs in a test with the demo's config."""
    cfg = street_config
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = {**cfg.tta_model, 'module': cfg.model}
    cfg.custom_hooks = [dict(type='DeployHook', verify=False)]
    runner = Runner.from_cfg(cfg)
    calls = []
    monkeypatch.setattr(RepConv, 'forward', lambda *_: calls.append('unfused'))
    assert 0 <= runner.test()['mIoU'] <= 100
    assert not calls


def test_views_of_cityscapes_are_six_scales_each_flipped_and_not(repo, street_root):
    cfg = Config.fromfile(repo / 'configs' / 'pspnet_repvgg_b2_cityscapes.py')
    dataset = cfg.test_dataloader.dataset
    dataset.update(data_root=str(street_root), pipeline=cfg.tta_pipeline)
    views = DATASETS.build(dataset)[0]
    found = [
        (tuple(image.shape[1:]), bool(sample.flip))
        for image, sample in zip(views['inputs'], views['data_samples'])
    ]
    scales = (0.5, 0.75, 1, 1.25, 1.5, 1.75)
    sizes = [(int(64 * scale), int(128 * scale)) for scale in scales]
    assert sorted(found) == [(size, flip) for size in sizes for flip in (False, True)]
