"""Training configs on a folder of your own."""

import pytest
from PIL import Image

from mmseg_repvgg.engine.own_data import fit_crop, folder_datasets, use_folder
from mmseg_repvgg.errors import DataError


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_text('road 128 64 128\nsky 70 130 180\nignore 0 0 0\n')
    return str(path)


def test_config_reads_the_folder_with_its_own_pipelines(street_config, tmp_path, classes):
    pipeline = street_config.train_dataloader.dataset.pipeline
    for split in ('train', 'val'):
        (tmp_path / 'images' / split).mkdir(parents=True)
    assert folder_datasets(street_config) == []
    use_folder(street_config, str(tmp_path), classes)
    assert [split for split, _ in folder_datasets(street_config)] == ['train', 'val']
    dataset = street_config.train_dataloader.dataset
    assert dataset.data_prefix == dict(
        img_path='images/train', seg_map_path='masks/train'
    )
    assert dataset.metainfo.classes == ['road', 'sky']
    assert dataset.ignored_colors == [[0, 0, 0]]
    assert dataset.pipeline == pipeline
    test = street_config.test_dataloader.dataset
    assert test.data_prefix.img_path == 'images/val'
    for head in ('decode_head', 'auxiliary_head'):
        assert street_config.model[head].num_classes == 2


def test_a_head_of_edges_keeps_its_two_classes(street_config, tmp_path, classes):
    three = tmp_path / 'three.txt'
    three.write_text('road\nsky\ntree\n')
    for split in ('train', 'val'):
        (tmp_path / 'images' / split).mkdir(parents=True)
    street_config.model.auxiliary_head = [dict(type='STDCHead', num_classes=2)]
    use_folder(street_config, str(tmp_path), str(three))
    assert street_config.model.auxiliary_head[0].num_classes == 2
    assert street_config.model.decode_head.num_classes == 3


def test_options_for_the_data_set_are_kept(load, tmp_path, classes):
    for split in ('train', 'val'):
        (tmp_path / 'images' / split).mkdir(parents=True)
    options = {'train_dataloader.dataset.ignore_index': 250}
    cfg = load('pspnet_repvgg_a0_fast_folder', **options)
    use_folder(cfg, str(tmp_path), classes)
    assert cfg.train_dataloader.dataset.ignore_index == 250
    assert cfg.train_dataloader.dataset.metainfo.classes == ['road', 'sky']


def test_crops_fit_photos_that_loading_turns(load, tmp_path, classes):
    for split in ('train', 'val'):
        (tmp_path / 'images' / split).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (200, 100)).save(tmp_path / 'images/train/a.jpg', exif=exif)
    cfg = load('pspnet_repvgg_a0_fast_folder')
    use_folder(cfg, str(tmp_path), classes)
    assert fit_crop(cfg) == (224, 128)


def test_lists_take_the_place_of_folders(street_config, tmp_path, classes):
    (tmp_path / 'images').mkdir()
    for split in ('train', 'val'):
        (tmp_path / f'{split}.txt').touch()
    use_folder(street_config, str(tmp_path), classes)
    dataset = street_config.val_dataloader.dataset
    assert dataset.ann_file == 'val.txt'
    assert dataset.data_prefix == dict(img_path='images', seg_map_path='masks')


def test_folder_of_another_layout_is_refused(street_config, tmp_path, classes):
    with pytest.raises(DataError, match='neither images/train nor train.txt. Put images'):
        use_folder(street_config, str(tmp_path), classes)


@pytest.mark.parametrize(
    ('sizes', 'crop'),
    [
        ([(96, 100), (60, 120)], (96, 128)),
        ([(600, 100)], (512, 128)),
        ([(2000, 1000), (96, 100)], (512, 512)),
        ([], (512, 512)),
    ],
)
def test_crops_are_no_larger_than_the_images(load, tmp_path, classes, sizes, crop):
    for split in ('train', 'val'):
        (tmp_path / 'images' / split).mkdir(parents=True)
    for index, (height, width) in enumerate(sizes):
        Image.new('RGB', (width, height)).save(tmp_path / f'images/train/{index}.png')
    (tmp_path / 'images/train/torn.png').write_bytes(b'no image')
    cfg = load('pspnet_repvgg_a0_fast_folder')
    use_folder(cfg, str(tmp_path), classes)
    assert fit_crop(cfg) == crop
    assert tuple(cfg.model.data_preprocessor.size) == crop
