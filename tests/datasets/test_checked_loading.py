"""The tools' pipelines check what they load, and load the same."""

import copy

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.config import ConfigDict
from mmseg.registry import DATASETS, MODELS

from mmseg_repvgg.datasets.checked_loading import check_loading
from mmseg_repvgg.datasets.checks import check_dataset
from mmseg_repvgg.engine.launch import prepare_testing, prepare_training
from mmseg_repvgg.errors import ImageError


def dataset(root, *steps):
    return ConfigDict(
        type='CityscapesDataset',
        data_root=str(root),
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=list(steps),
    )


@pytest.mark.parametrize('backend', [None, 'cv2', 'pillow'])
def test_the_same_is_loaded(street_root, backend):
    load = dict(type='LoadImageFromFile', to_float32=True)
    if backend:
        load['imdecode_backend'] = backend
    plain = dataset(street_root, load, dict(type='mmseg.LoadAnnotations'))
    checked = copy.deepcopy(plain)
    check_dataset(checked)
    assert [dict(step) for step in checked.pipeline] == [
        dict(load, type='LoadCheckedImage', imdecode_backend=backend or 'cv2'),
        dict(type='LoadCheckedAnnotations', num_classes=19, ignore_index=255),
    ]
    ours, theirs = (DATASETS.build(cfg)[0] for cfg in (checked, plain))
    for key in ('img', 'gt_seg_map'):
        np.testing.assert_array_equal(ours[key], theirs[key])
        assert ours[key].dtype == theirs[key].dtype


def test_steps_within_steps_and_sets_within_sets(street_root):
    steps = [
        dict(type=LoadImageFromFile),
        dict(type='TestTimeAug', transforms=[[dict(type='LoadAnnotations')]]),
        dict(type='RandomFlip', prob=0.5),
        dict(type='LoadImageFromNDArray'),
    ]
    parts = [dataset(street_root, *steps), dataset(street_root, *steps)]
    cfg = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=parts)
    )
    check_loading(cfg)
    for part in cfg['dataset']['datasets']:
        load, augment, *rest = part.pipeline
        assert load.type == 'LoadCheckedImage'
        assert augment.transforms[0][0].type == 'LoadCheckedAnnotations'
        assert rest == steps[2:]


def test_training_checks_but_leaves_what_mmseg_reads(street_config):
    """What a run dumps of its config serves MMSegInferencer."""
    plain = copy.deepcopy(street_config)
    prepare_training(street_config)
    for loader in ('train_dataloader', 'val_dataloader'):
        pipeline = street_config[loader].dataset.pipeline
        load, labels = (step for step in pipeline if step.type.startswith('Load'))
        assert load.type == 'LoadCheckedImage'
        assert labels.type == 'LoadCheckedAnnotations'
        assert labels.num_classes == 19
    assert street_config.test_pipeline == plain.test_pipeline
    assert street_config.test_dataloader == plain.test_dataloader


@pytest.mark.parametrize('tta', [False, True])
def test_testing_stops_at_a_label_that_is_no_class(street_config, tmp_path, tta):
    checkpoint = tmp_path / 'fresh.pth'
    torch.save(
        dict(state_dict=MODELS.build(street_config.model).state_dict()), checkpoint
    )
    prepare_testing(street_config, str(checkpoint), tta=tta)
    data = DATASETS.build(street_config.test_dataloader.dataset)
    data[0]
    path = data.get_data_info(1)['seg_map_path']
    labels = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    labels[5, 7] = 33
    wrong = tmp_path / 'wrong.png'
    cv2.imwrite(str(wrong), labels)
    info = {**data.get_data_info(1), 'seg_map_path': str(wrong)}
    with pytest.raises(ImageError, match=r'wrong.png holds \[33\]'):
        data.pipeline(info)
