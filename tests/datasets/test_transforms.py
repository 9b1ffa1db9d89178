"""Loading that stops at a broken file and names it."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from mmseg.datasets import CityscapesDataset
from mmseg.registry import TRANSFORMS
from PIL import Image

from mmseg_repvgg.errors import ConfigError, DataError, ImageError, UserError


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


def test_checked_transforms_load_the_same_as_mmseg(sample):
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
    with pytest.raises(ImageError, match=f'{path} is truncated or not an image'):
        load(sample)


def test_file_with_a_hostile_chunk_is_named(sample):
    path = Path(sample['seg_map_path'])
    data = path.read_bytes()
    body = b'iCCP' + b'a\0'
    chunk = struct.pack('>I', 2) + body + struct.pack('>I', zlib.crc32(body))
    path.write_bytes(data[:-12] + chunk + data[-12:])
    with pytest.raises(ImageError, match=str(path)):
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
    with pytest.raises(ImageError, match=f'{name} has more than 8 bits .* .mode {mode}'):
        load(sample)


def test_opencv_loads_16_bits(sample, tmp_path):
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
def test_8_bits_are_loaded_as_in_mmcv(sample, tmp_path, mode):
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
def test_invalid_label_is_named(sample, values, wrong):
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


def test_labels_are_checked_after_mapping(sample):
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


@pytest.mark.parametrize(
    ('suffix', 'kind', 'value'),
    [
        ('.png', np.uint16, 256),
        ('.png', np.uint16, 257),
        ('.tif', np.int32, 256),
        ('.tif', np.int32, 65536),
        ('.tif', np.int32, -1),
        ('.tif', np.float32, 0.5),
        ('.tif', np.float32, np.inf),
        ('.tif', np.float32, np.nan),
    ],
)
@pytest.mark.parametrize('reduces', [False, True])
def test_labels_are_checked_before_they_are_cast(
    sample, tmp_path, suffix, kind, value, reduces
):
    """All of these are classes once they are cast to 8 bits."""
    labels = np.ones((40, 60), kind)
    labels[3, 4] = value
    path = tmp_path / f'label{suffix}'
    Image.fromarray(labels).save(path)
    sample.update(seg_map_path=str(path), reduce_zero_label=reduces)
    step = TRANSFORMS.build(dict(type='LoadCheckedAnnotations', num_classes=2))
    with pytest.raises(ImageError, match=re.escape(f'{path} holds [{value}], but')):
        step(sample)


@pytest.mark.parametrize('reduces', [False, True])
@pytest.mark.parametrize('label_map', [None, {0: 1, 1: 0, 2: 255}])
@pytest.mark.parametrize(
    ('backend', 'mode'),
    # OpenCV gives the colours of a palette, and 255 for 1.
    [
        *(('pillow', mode) for mode in ('L', 'P', '1', 'I;16', 'I', 'F')),
        *(('cv2', mode) for mode in ('L', 'I;16', 'I', 'F')),
    ],
)
def test_labels_of_8_bits_are_loaded_as_in_mmseg(
    sample, tmp_path, mode, reduces, label_map, backend
):
    values = [0, 1] if mode == '1' else [0, 1, 2, 254, 255]
    labels = np.resize(np.array(values, np.uint8), (40, 60))
    if mode == 'P':
        image = Image.fromarray(labels)
        image.putpalette(np.random.default_rng(0).bytes(768))
    else:
        kinds = {'1': bool, 'I;16': np.uint16, 'I': np.int32, 'F': np.float32}
        image = Image.fromarray(labels.astype(kinds.get(mode, np.uint8)))
    assert image.mode == mode
    path = tmp_path / ('label.tif' if mode in 'IF' else 'label.png')
    image.save(path)
    sample.update(seg_map_path=str(path), reduce_zero_label=reduces, label_map=label_map)
    ours, theirs = (
        TRANSFORMS.build(dict(type=name, imdecode_backend=backend))(
            {**sample, 'seg_fields': []}
        )
        for name in ('LoadCheckedAnnotations', 'LoadAnnotations')
    )
    np.testing.assert_array_equal(ours['gt_seg_map'], theirs['gt_seg_map'])
    assert ours['gt_seg_map'].dtype == theirs['gt_seg_map'].dtype
    assert ours['seg_fields'] == theirs['seg_fields']


@pytest.mark.parametrize(('count', 'dtype'), [(256, np.uint8), (300, np.uint16)])
def test_colours_of_many_classes(sample, tmp_path, count, dtype):
    labels = np.resize(np.arange(count), (40, 60))
    colors = {(7, label // 256, label % 256): label for label in range(count)}
    painted = np.array(list(colors), np.uint8)[labels]
    Image.fromarray(painted).save(tmp_path / 'label.png')
    path = str(tmp_path / 'label.png')
    sample.update(
        seg_map_path=path, colors=colors, reduce_zero_label=False, seg_fields=[]
    )
    found = TRANSFORMS.build(dict(type='LoadCheckedAnnotations'))(sample)['gt_seg_map']
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == dtype


def test_more_than_255_classes_reach_the_loss(sample):
    """Through transforms that resize, rotate, flip and crop, and into a sample."""
    labels = np.full((40, 60), 299, np.uint16)
    labels[:, :30] = 256
    Image.fromarray(labels).save(sample['seg_map_path'])
    classes = dict(num_classes=300, ignore_index=65535)
    steps = [
        dict(type='LoadCheckedImage'),
        dict(type='LoadCheckedAnnotations', **classes),
        dict(type='RandomResize', scale=(80, 60), ratio_range=(2, 2), keep_ratio=True),
        dict(type='RandomRotate', prob=1, degree=10, seg_pad_val=65535),
        dict(type='RandomFlip', prob=1.0),
        dict(type='RandomCrop', crop_size=(70, 90), ignore_index=65535),
        dict(type='PackSegInputs'),
    ]
    for step in steps:
        sample = TRANSFORMS.build(step)(sample)
    found = set(sample['data_samples'].gt_sem_seg.data.unique().tolist())
    assert {256, 299} <= found <= {256, 299, 65535}


def test_all_label_maps_of_a_data_set_have_one_dtype(sample):
    """Those of 300 classes are of uint16, even if all labels of an image are small."""
    for classes, kind in ((300, np.uint16), (255, np.uint8)):
        step = dict(type='LoadCheckedAnnotations', num_classes=classes)
        assert TRANSFORMS.build(step)(dict(sample))['gt_seg_map'].dtype == kind


def test_ignored_label_must_not_be_a_class(sample):
    labels = np.full((40, 60), 255, np.uint16)
    Image.fromarray(labels).save(sample['seg_map_path'])
    step = dict(type='LoadCheckedAnnotations', num_classes=300)
    with pytest.raises(ImageError, match='holds 255, .* 300 classes and also .* ignored'):
        TRANSFORMS.build(step)(dict(sample))
    found = TRANSFORMS.build({**step, 'ignore_index': 65535})(dict(sample))
    np.testing.assert_array_equal(found['gt_seg_map'], labels)


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'LA'])
def test_colours_are_not_labels(sample, mode):
    path = sample['seg_map_path']
    with Image.open(path) as image:
        image.convert(mode).save(path)
    says = f'{path} has the shape .* colours are not labels'
    with pytest.raises(ImageError, match=says):
        TRANSFORMS.build(dict(type='LoadCheckedAnnotations'))(sample)


def test_reduce_zero_label_must_match_the_data_set(sample):
    with pytest.warns(UserWarning, match='deprecated'):
        step = TRANSFORMS.build(
            dict(type='LoadCheckedAnnotations', reduce_zero_label=True)
        )
    with pytest.raises(ConfigError, match='is True, but that of the data set is False'):
        step(sample)


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
def test_image_too_large_for_pillow_is_named(sample, monkeypatch, key):
    big = sample[key] = sample[key] + '.png'
    Image.new('L', (100, 100)).save(big)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 4000)  # refused beyond twice that
    with pytest.raises(ImageError, match=f'{big} is too large .*MAX_IMAGE_PIXELS'):
        load(sample)


@pytest.mark.parametrize('name', ['LoadCheckedImage', 'LoadCheckedAnnotations'])
def test_image_too_large_for_opencv_is_named(sample, name):
    """A header that claims more pixels than OpenCV accepts."""
    key = 'img_path' if name == 'LoadCheckedImage' else 'seg_map_path'
    header = struct.pack('>4sIIBBBBB', b'IHDR', 1 << 17, 1 << 17, 8, 0, 0, 0, 0)
    data = b'\x89PNG\r\n\x1a\n' + struct.pack('>I', 13) + header
    data += struct.pack('>I', zlib.crc32(header))
    with open(sample[key], 'wb') as file:
        file.write(data)
    step = TRANSFORMS.build(dict(type=name, imdecode_backend='cv2'))
    with pytest.raises(ImageError, match=f'{sample[key]} is truncated or not an image'):
        step(sample)


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
    with pytest.raises(UserError, match='image.jpg is truncated or not an image'):
        list(DataLoader(dataset, num_workers=1, collate_fn=list))


def test_blur_follows_its_probability():
    blur = TRANSFORMS.build(dict(type='RandomGaussianBlur', prob=0.5))
    np.random.seed(0)
    image = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    changed = [
        not np.array_equal(blur({'img': image.copy()})['img'], image) for _ in range(200)
    ]
    assert 70 < sum(changed) < 130
    assert blur({'img': image.copy()})['img'].dtype == np.uint8


@pytest.mark.parametrize('bad', [dict(prob=1.5), dict(kernel_size=4)])
def test_wrong_blur_arguments_are_named(bad):
    with pytest.raises(ValueError, match=f'{next(iter(bad))} must be'):
        TRANSFORMS.build(dict(type='RandomGaussianBlur', **bad))


def test_bands_are_loaded_for_the_network_or_the_file_is_named(tmp_path):
    tifffile = pytest.importorskip('tifffile')
    path = str(tmp_path / 'field.tif')
    image = np.arange(4 * 6 * 5, dtype=np.uint16).reshape(4, 6, 5) * 500
    for kind, expected in ((np.uint16, np.float32), (np.uint8, np.uint8)):
        given = image.astype(kind)
        tifffile.imwrite(path, given, planarconfig='contig', photometric='minisblack')
        load = TRANSFORMS.build(dict(type='LoadBands', bands=5))
        found = load(dict(img_path=path, seg_fields=[]))
        assert found['img'].dtype == expected
        assert np.array_equal(found['img'], given)
        assert found['img_shape'] == found['ori_shape'] == (4, 6)
    with pytest.raises(ImageError, match='has 5 bands, but the model takes 4'):
        TRANSFORMS.build(dict(type='LoadBands', bands=4))(dict(img_path=path))
