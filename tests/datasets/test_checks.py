"""Missing data is found before anything is built."""

import shutil
from pathlib import Path

import pytest

from mmseg_repvgg.datasets.checked_loading import check_loading
from mmseg_repvgg.datasets.checks import check_dataset
from mmseg_repvgg.errors import ConfigError, DataError


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
    assert Path.cwd()
