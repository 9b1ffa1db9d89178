"""Missing data is found before anything is built, and broken files while loading."""

import copy
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile, RandomFlip
from mmengine.config import Config, ConfigDict
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS, MODELS

from mmseg_repvgg.datasets.checks import build_lazily, check_dataset, check_loading
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.testing import prepare_testing
from mmseg_repvgg.engine.training import prepare_training
from mmseg_repvgg.errors import ConfigError, DataError, ImageError


def cityscapes(root):
    return dict(
        type='CityscapesDataset',
        data_root=str(root),
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
    )


def test_complete_data_passes(street_root):
    check_dataset(cityscapes(street_root))


def test_missing_root_tells_how_to_get_the_data(tmp_path):
    with pytest.raises(
        DataError, match=r'(?s)nowhere.*does not exist.*cityscapes-dataset'
    ):
        check_dataset(cityscapes(tmp_path / 'nowhere'))


def test_empty_root_is_an_error(tmp_path):
    (tmp_path / 'leftImg8bit' / 'train').mkdir(parents=True)
    with pytest.raises(DataError, match=r'has no image \*_leftImg8bit.png'):
        check_dataset(cityscapes(tmp_path))


def test_nested_data_sets_are_checked(street_root, tmp_path):
    both = [cityscapes(street_root), cityscapes(tmp_path / 'nowhere')]
    mixed = dict(type='MultiImageMixDataset', pipeline=[], dataset=both[1])
    for cfg in (dict(type='ConcatDataset', datasets=both), mixed):
        with pytest.raises(DataError, match='nowhere'):
            check_dataset(dict(type='RepeatDataset', times=2, dataset=cfg))


def test_classes_must_not_be_a_string(street_root, tmp_path):
    cfg = dict(cityscapes(street_root), type='BaseSegDataset', img_suffix='.png')
    with pytest.raises(ConfigError, match=r"string 'water'.* \('water',\)"):
        check_dataset(dict(cfg, metainfo=dict(classes=('water'))))
    # The name of a file of names is what mmengine takes.
    names = tmp_path / 'classes.txt'
    names.write_text('water\nland\n')
    with pytest.raises(DataError, match='have no label map'):
        check_dataset(dict(cfg, metainfo=dict(classes=str(names))))


def test_image_without_label_is_named(street_root, tmp_path):
    root = tmp_path / 'copy'
    shutil.copytree(street_root, root)
    label = sorted(root.glob('gtFine/train/*/*_labelTrainIds.png'))[2]
    label.unlink()
    stem = label.name.replace('_gtFine_labelTrainIds.png', '')
    with pytest.raises(DataError, match=f'1 of 8 images .*{stem}_leftImg8bit.png'):
        check_dataset(cityscapes(root))


def test_error_of_camvid_names_its_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv('CAMVID_ROOT', str(tmp_path / 'gone'))
    cfg = dict(type='CamVidDataset', data_prefix=dict(img_path='leftImg8bit/train'))
    with pytest.raises(DataError, match='gone.*CAMVID_ROOT'):
        check_dataset(cfg)


def test_remote_data_set_is_not_built():
    """This one looks for its images when it is, by a client that is not there."""
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    cfg = dict(
        type='DRIVEDataset',
        data_root='s3://drive',
        data_prefix=dict(img_path='images', seg_map_path='annotations'),
        backend_args=dict(backend='petrel'),
        pipeline=steps,
    )
    check_dataset(cfg)
    check_loading(cfg)
    names = ['LoadCheckedImage', 'LoadCheckedAnnotations']
    assert [step['type'] for step in cfg['pipeline']] == names


def test_other_data_sets_are_not_checked():
    check_dataset(dict(type='RepeatDataset', times=2))


def dataset(root, *steps):
    return ConfigDict(
        type='CityscapesDataset',
        data_root=str(root),
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=list(steps),
    )


@pytest.mark.parametrize('backend', [None, 'cv2', 'pillow'])
def test_checked_pipeline_loads_the_same(street_root, backend):
    load = dict(type='LoadImageFromFile', to_float32=True)
    if backend:
        load['imdecode_backend'] = backend
    plain = dataset(street_root, load, dict(type='mmseg.LoadAnnotations'))
    checked = copy.deepcopy(plain)
    check_loading(checked)
    assert [dict(step) for step in checked.pipeline] == [
        dict(load, type='LoadCheckedImage', imdecode_backend=backend or 'cv2'),
        dict(type='LoadCheckedAnnotations', num_classes=19, ignore_index=255),
    ]
    ours, theirs = (DATASETS.build(cfg)[0] for cfg in (checked, plain))
    for key in ('img', 'gt_seg_map'):
        np.testing.assert_array_equal(ours[key], theirs[key])
        assert ours[key].dtype == theirs[key].dtype


def test_nested_steps_and_data_sets_are_replaced(street_root):
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


def test_unusual_steps_are_kept(street_root):
    flip = RandomFlip(prob=0.5)
    steps = [
        dict(type='RandomApply', prob=0.5, transforms=dict(type='LoadAnnotations')),
        dict(type='KeyMapper', transforms=None),
        flip,
    ]
    cfg = dataset(street_root, *steps)
    check_loading(cfg)
    apply, mapper, built = cfg.pipeline
    assert apply.transforms.type == 'LoadCheckedAnnotations'
    assert mapper.transforms is None
    assert built is flip
    DATASETS.build(cfg)


def test_num_classes_of_the_config_is_kept(street_root):
    load = dict(type='LoadAnnotations')
    cfg = dataset(street_root, dict(load, type='LoadCheckedAnnotations', num_classes=40))
    check_loading(cfg)
    assert cfg.pipeline[0].num_classes == 40


def test_data_set_without_lazy_init(street_root):
    """Its class does not take lazy_init: what it knows of labels is not asked."""

    class AtOnce(CityscapesDataset):
        def __init__(self, data_root, data_prefix, pipeline):
            super().__init__(
                data_root=data_root, data_prefix=data_prefix, pipeline=pipeline
            )

    cfg = dataset(street_root, dict(type='LoadAnnotations'))
    cfg.type = AtOnce
    check_dataset(cfg)
    check_loading(cfg)
    assert cfg.pipeline == [dict(type='LoadCheckedAnnotations')]
    assert build_lazily(cfg).metainfo['classes'][0] == 'road'


def test_run_is_checked_but_dumped_config_is_not_changed(street_config, tmp_path):
    """MMSegInferencer runs the configs that a training and a test dump."""
    plain = copy.deepcopy(street_config)
    checkpoint = tmp_path / 'fresh.pth'
    torch.save(
        dict(state_dict=MODELS.build(street_config.model).state_dict()), checkpoint
    )
    trained, tested = copy.deepcopy(street_config), street_config
    prepare_training(trained)
    prepare_testing(tested, str(checkpoint))
    for cfg, names in (trained, ('train', 'val')), (tested, ('test',)):
        cfg.experiment_name = names[0]
        runner = build_runner(cfg)
        for name in names:
            pipeline = getattr(runner, f'_{name}_dataloader')['dataset']['pipeline']
            load, labels = (step for step in pipeline if step.type.startswith('Load'))
            assert load.type == 'LoadCheckedImage'
            assert labels.type == 'LoadCheckedAnnotations'
            assert labels.num_classes == 19
        (dumped,) = Path(cfg.work_dir).glob('*.py')
        said = Config.fromfile(dumped)
        for name in ('train', 'val', 'test'):
            dataset = said[f'{name}_dataloader'].dataset
            assert dataset.pipeline == plain[f'{name}_dataloader'].dataset.pipeline
            assert dataset.pipeline == runner.cfg[f'{name}_dataloader'].dataset.pipeline


@pytest.mark.parametrize('tta', [False, True])
def test_testing_stops_at_an_invalid_label(street_config, tmp_path, tta):
    checkpoint = tmp_path / 'fresh.pth'
    torch.save(
        dict(state_dict=MODELS.build(street_config.model).state_dict()), checkpoint
    )
    prepare_testing(street_config, str(checkpoint), tta=tta)
    data = build_runner(street_config).test_dataloader.dataset
    data[0]
    path = data.get_data_info(1)['seg_map_path']
    labels = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    labels[5, 7] = 33
    wrong = tmp_path / 'wrong.png'
    cv2.imwrite(str(wrong), labels)
    info = {**data.get_data_info(1), 'seg_map_path': str(wrong)}
    with pytest.raises(ImageError, match=r'wrong.png holds \[33\]'):
        data.pipeline(info)


def test_empty_list_is_named(street_config, tmp_path):
    (tmp_path / 'val.txt').touch()
    dataset = street_config.val_dataloader.dataset
    dataset.ann_file = str(tmp_path / 'val.txt')
    with pytest.raises(DataError, match=r'the list .*val.txt of .* names no image'):
        check_dataset(dataset)
    (tmp_path / 'val.txt').unlink()
    with pytest.raises(DataError, match=r'the list .*val.txt of .* does not exist'):
        check_dataset(dataset)
