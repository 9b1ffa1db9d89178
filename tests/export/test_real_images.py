import copy

import numpy as np
import pytest
from mmengine.logging import MMLogger

from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.export.real_images import CalibrationImages, Validation

for package in ('onnx', 'onnxscript', 'onnxruntime', 'openvino', 'nncf'):
    pytest.importorskip(package, reason="needs pip install -e '.[export,quantize]'")

SIZE = (64, 128)


def resize_images(cfg, size):
    """Validate at another size, (W, H)."""
    cfg.val_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=size))


def test_calibration_takes_training_images_as_validation_sees_them(
    int8, read_image, street_root
):
    cfg, _, done = int8
    images = CalibrationImages(cfg, str(done.path), 5)
    given = list(images)
    assert len(given) == len(images) == 5
    files = street_root.glob('leftImg8bit/train/*/*.png')
    training = [read_image(cfg, file) for file in files]
    assert len(training) == 8
    found = [
        [index for index, other in enumerate(training) if np.allclose(image, other)]
        for image in given
    ]
    assert len({index for (index,) in found}) == 5
    again, other = (CalibrationImages(cfg, str(done.path), 5, seed) for seed in (0, 1))
    assert all(map(np.array_equal, given, again))
    assert not all(map(np.array_equal, given, other))


def test_calibration_takes_each_image_of_a_mixed_set_once(int8):
    cfg, _, done = int8
    expected = list(CalibrationImages(cfg, str(done.path), 8))
    cfg = copy.deepcopy(cfg)
    cfg.pop('test_dataloader')
    inner = cfg.train_dataloader.dataset
    mosaic = dict(type='RandomMosaic', prob=1.0, img_scale=SIZE)
    mixed = dict(
        type='MultiImageMixDataset',
        dataset=inner,
        pipeline=[mosaic, dict(type='PackSegInputs')],
    )
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=3, dataset=mixed)
    validation = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[validation] * 2)
    images = CalibrationImages(cfg, str(done.path), 9)
    assert len(images) == 8
    assert all(map(np.array_equal, images, expected))
    assert len(Validation(cfg, str(done.path))) == 6


def test_too_few_images_are_a_warning(int8, caplog, monkeypatch):
    cfg, _, done = int8
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handlers', [caplog.handler])
    assert len(CalibrationImages(cfg, str(done.path), 9)) == 8
    assert 'has only 8 of 9 images to calibrate on' in caplog.text


def test_calibration_takes_one_window_of_an_image(int8):
    cfg, _, done = int8
    cfg = copy.deepcopy(cfg)
    resize_images(cfg, (256, 128))
    cfg.model.test_cfg = dict(mode='slide', crop_size=SIZE, stride=SIZE)
    images = CalibrationImages(cfg, str(done.path), 8)
    places = []
    for index, image in enumerate(images):
        assert image.shape == (1, 3, *SIZE)
        windows = images._images.inputs(index)
        assert len(windows) == 4
        found = [np.array_equal(window, image) for window in windows]
        places.append(found.index(True))
    assert len(set(places)) > 1


def test_validation_images_are_left_out(int8):
    cfg, _, done = int8
    cfg = copy.deepcopy(cfg)
    cfg.train_dataloader.dataset.data_prefix = cfg.val_dataloader.dataset.data_prefix
    with pytest.raises(ConfigError, match='all 3 images of the training set are in the'):
        CalibrationImages(cfg, str(done.path), 4)
