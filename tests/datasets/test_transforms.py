"""Loading that stops at a broken file and names it."""

import re

import numpy as np
import pytest
from mmseg.datasets import CityscapesDataset
from mmseg.registry import TRANSFORMS
from PIL import Image

from mmseg_repvgg.errors import DataError, ImageError, UserError


@pytest.fixture
def sample(tmp_path):
    rng = np.random.default_rng(0)
    image, label = tmp_path / 'image.jpg', tmp_path / 'label.png'
    pixels = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image, quality=95)
    Image.fromarray(pixels[..., 0] % 11).save(label)
    return {
        'img_path': str(image),
        'seg_map_path': str(label),
        'label_map': None,
        'reduce_zero_label': False,
        'seg_fields': [],
    }


def load(sample):
    results = TRANSFORMS.build(dict(type='LoadCheckedImage'))(dict(sample))
    return TRANSFORMS.build(dict(type='LoadCheckedAnnotations'))(results)


def test_loads_as_mmseg_does(sample):
    results = load(sample)
    plain = TRANSFORMS.build(dict(type='LoadImageFromFile'))(dict(sample))
    assert results['img'].shape == (40, 60, 3)
    assert results['gt_seg_map'].shape == (40, 60)
    # BGR either way; two JPEG decoders may round differently.
    assert np.abs(results['img'].astype(int) - plain['img']).mean() < 2


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
@pytest.mark.parametrize('keep', [0, 0.1, 0.5, 0.98])
def test_truncated_file_is_named(sample, key, keep):
    path = sample[key]
    with open(path, 'rb') as file:
        data = file.read()
    with open(path, 'wb') as file:
        file.write(data[: int(len(data) * keep)])
    with pytest.raises(ImageError, match=f'{path} cannot be read whole'):
        load(sample)


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
def test_missing_file_is_named(sample, key):
    sample[key] += '.gone'
    with pytest.raises(DataError, match=f'{sample[key]}'):
        load(sample)


def test_label_of_another_size_is_named(sample):
    Image.fromarray(np.zeros((40, 61), np.uint8)).save(sample['seg_map_path'])
    with pytest.raises(ImageError, match=r'\(40, 61\) but its image .* of \(40, 60\)'):
        load(sample)


@pytest.mark.parametrize(
    ('name', 'mode'), [('i.png', 'I;16'), ('i.tif', 'I;16'), ('i.tif', 'F')]
)
def test_more_than_8_bits_are_refused(sample, tmp_path, name, mode):
    """Pillow would make them white."""
    sample['img_path'] = str(tmp_path / name)
    pixels = np.linspace(0, 60000, 40 * 60).reshape(40, 60)
    kind = np.float32 if mode == 'F' else np.uint16
    Image.fromarray(pixels.astype(kind)).save(sample['img_path'])
    with pytest.raises(ImageError, match=f'{name} is of mode {mode}'):
        load(sample)


def test_opencv_loads_16_bits_as_it_does(sample, tmp_path):
    """By their upper 8."""
    sample['img_path'] = str(tmp_path / 'i.png')
    pixels = np.linspace(0, 60000, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(pixels).save(sample['img_path'])
    found = [
        TRANSFORMS.build(dict(type=name, imdecode_backend='cv2'))(dict(sample))['img']
        for name in ('LoadCheckedImage', 'LoadImageFromFile')
    ]
    np.testing.assert_array_equal(*found)
    assert np.abs(found[0][..., 0] - pixels / 256).max() <= 1


@pytest.mark.parametrize('mode', ['L', 'P', '1', 'LA', 'RGBA', 'CMYK'])
def test_8_bits_are_loaded_as_mmcv_does(sample, tmp_path, mode):
    name = tmp_path / ('i.tif' if mode == 'CMYK' else 'i.png')
    with Image.open(sample['img_path']) as image:
        image.convert(mode).save(name)
    sample['img_path'] = str(name)
    plain = dict(type='LoadImageFromFile', imdecode_backend='pillow')
    plain = TRANSFORMS.build(plain)(dict(sample))
    np.testing.assert_array_equal(load(sample)['img'], plain['img'])


@pytest.mark.parametrize(
    ('values', 'wrong'),
    [
        ({}, None),
        ({0: 18, 1: 255}, None),
        ({0: 19}, [19]),
        ({0: 40, 1: 254}, [40, 254]),
    ],
)
def test_label_that_is_no_class_is_named(sample, values, wrong):
    labels = np.zeros((40, 60), np.uint8)
    for column, value in values.items():
        labels[3, column] = value
    path = sample['seg_map_path']
    Image.fromarray(labels).save(path)
    load(sample)  # of how many classes, nobody has said
    step = TRANSFORMS.build(dict(type='LoadCheckedAnnotations', num_classes=19))
    if wrong is None:
        np.testing.assert_array_equal(step(dict(sample))['gt_seg_map'], labels)
    else:
        with pytest.raises(ImageError, match=re.escape(f'{path} holds {wrong}, but')):
            step(dict(sample))


def test_labels_are_checked_as_they_will_be_used(sample):
    """After a zero that does not count, chosen classes, another label to ignore."""
    labels = np.array([[0, 1, 2, 3]] * 40, np.uint8).repeat(15, axis=1)
    Image.fromarray(labels).save(sample['seg_map_path'])
    step = dict(type='LoadCheckedAnnotations', num_classes=3)
    with pytest.raises(ImageError, match=r'holds \[3\]'):
        TRANSFORMS.build(step)(dict(sample))
    TRANSFORMS.build(step)({**sample, 'reduce_zero_label': True})
    TRANSFORMS.build(step)({**sample, 'label_map': {3: 255}})
    TRANSFORMS.build({**step, 'ignore_index': 3})(dict(sample))
    # The zero is 255 by now, whatever else is ignored.
    other = TRANSFORMS.build({**step, 'ignore_index': 254})
    other({**sample, 'reduce_zero_label': True})


def test_error_from_a_worker_process_names_the_file(street_root, tmp_path, sample):
    from torch.utils.data import DataLoader

    with open(sample['img_path'], 'r+b') as file:
        file.truncate(500)
    dataset = CityscapesDataset(
        data_root=str(street_root),
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=[dict(type='LoadCheckedImage')],
        serialize_data=False,
    )
    dataset.data_list[0]['img_path'] = sample['img_path']
    with pytest.raises(UserError, match='image.jpg cannot be read whole'):
        list(DataLoader(dataset, num_workers=1, collate_fn=list))


def test_blur_blurs_as_often_as_asked():
    blur = TRANSFORMS.build(dict(type='RandomGaussianBlur', prob=0.5))
    np.random.seed(0)
    image = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    changed = [
        not np.array_equal(blur({'img': image.copy()})['img'], image) for _ in range(200)
    ]
    assert 70 < sum(changed) < 130
    assert blur({'img': image.copy()})['img'].dtype == np.uint8


@pytest.mark.parametrize('bad', [dict(prob=1.5), dict(kernel_size=4)])
def test_bad_blur_arguments_are_named(bad):
    with pytest.raises(ValueError, match=f'{next(iter(bad))} must be'):
        TRANSFORMS.build(dict(type='RandomGaussianBlur', **bad))
