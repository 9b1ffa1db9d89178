"""Exported files segment images as the checkpoint does."""

import numpy as np
import pytest
from mmengine.config import Config

from mmseg_repvgg import Segmenter
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.export.exported import export
from repvgg_runtime.errors import ConfigError
from repvgg_runtime.images import read_image
from repvgg_runtime.segmenter import BaseSegmenter, ExportedSegmenter


@pytest.fixture
def assert_alike(assert_best_labels):
    """Check the labels of images against the probabilities of the checkpoint."""

    def check(labels, probabilities):
        assert all(each.dtype == np.uint8 for each in labels)
        for each, scores in zip(labels, probabilities, strict=True):
            assert_best_labels(each, scores)

    return check


@pytest.fixture
def images(street_images):
    """Images of two sizes."""
    first, *rest = map(read_image, street_images)
    return [first, first[:50, :90].copy(), *rest]


@pytest.mark.parametrize(
    ('to', 'output', 'normalize'),
    [
        ('onnx', 'logits', False),
        ('onnx', 'labels', True),
        ('openvino', 'logits', True),
        ('openvino', 'labels', False),
        ('torchscript', 'logits', False),
    ],
)
def test_labels_equal_those_of_the_checkpoint(
    exported, trained, images, to, output, normalize, assert_alike
):
    expected = Segmenter(*trained, device='cpu').probabilities(images)
    ours = ExportedSegmenter(exported(to, output=output, normalize=normalize))
    assert_alike(ours(images), expected)


def test_a_fixed_size_of_another_shape_warns_once(exported, images, caplog):
    same, square = (
        ExportedSegmenter(exported('onnx', output='labels', size=size))
        for size in [(64, 128), (64, 64)]
    )
    caplog.clear()
    same(images[0])
    assert not caplog.messages
    square(images[0])
    square(images[0])
    (message,) = caplog.messages
    assert 'takes images of 64x64 only' in message


def test_probabilities_equal_those_of_the_checkpoint(exported, trained, images):
    expected = Segmenter(*trained, device='cpu').probabilities(images)
    found = ExportedSegmenter(exported('onnx', output='logits')).probabilities(images)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
        np.testing.assert_allclose(ours.sum(0), 1, atol=1e-5)


def test_a_file_of_labels_has_no_probabilities(exported, images):
    segmenter = ExportedSegmenter(exported('onnx', output='labels'))
    with pytest.raises(ConfigError, match='export it with --output logits'):
        segmenter.probabilities(images[0])


def test_a_single_class_has_a_name_and_a_colour_beside_the_background(exported):
    segmenter = ExportedSegmenter(exported('onnx', output='labels'))
    BaseSegmenter.__init__(segmenter, ['crack'], [(9, 9, 9)], None, 3, 1)
    assert segmenter.classes == ['crack', 'class 1']
    first, second = segmenter.palette
    assert first == [9, 9, 9] != second


def test_a_file_of_fixed_size_and_batch_takes_images_of_any(
    exported, images, assert_alike
):
    path = exported('onnx', output='logits', size=(64, 128), batch=2)
    segmenter = ExportedSegmenter(path)
    one_by_one = [segmenter(image) for image in images]
    assert [each.shape for each in one_by_one] == [each.shape[:2] for each in images]
    assert_alike(segmenter(images), map(segmenter.probabilities, images))


def test_images_are_resized_as_the_test_pipeline_does(
    trained, images, tmp_path, assert_alike
):
    cfg = Config.fromfile(trained[0])
    for step in cfg.test_dataloader.dataset.pipeline:
        if step.type == 'Resize':
            step.update(scale=(70, 50), keep_ratio=True)
            break
    else:
        cfg.test_dataloader.dataset.pipeline.insert(
            1, dict(type='Resize', scale=(70, 50), keep_ratio=True)
        )
    path = tmp_path / 'small.onnx'
    model = load_model(cfg.copy(), trained[1])
    export(cfg, model, path, 'onnx', dynamic=True, output='logits')
    segmenter = ExportedSegmenter(path)
    assert (segmenter.metadata.scale, segmenter.metadata.keep_ratio) == ([70, 50], True)
    expected = Segmenter(cfg, trained[1], device='cpu').probabilities(images)
    assert_alike(segmenter(images), expected)


def test_a_path_an_array_and_a_list_give_the_same(exported, street_images):
    segmenter = ExportedSegmenter(exported('onnx', output='logits'))
    path = street_images[0]
    labels = segmenter(path)
    assert np.array_equal(labels, segmenter(read_image(path)))
    assert np.array_equal(labels, segmenter([path, street_images[1]])[0])
    assert segmenter([]) == []
    overlay = segmenter.overlay(path, opacity=1)
    expected = np.array(segmenter.palette, np.uint8)[labels][:, :, ::-1]
    assert np.array_equal(overlay, expected)
    assert np.array_equal(segmenter.overlay([path], opacity=1)[0], expected)


def test_the_file_tells_classes_and_ids(exported, trained):
    ours = ExportedSegmenter(exported('onnx', output='logits'))
    theirs = Segmenter(*trained, device='cpu')
    assert ours.classes == theirs.classes
    assert ours.palette == theirs.palette
    assert ours.label_ids == theirs.label_ids
    assert ours.label_ids[:3] == [7, 8, 11]  # road, sidewalk, building


@pytest.mark.parametrize('to', ['onnx', 'openvino'])
def test_a_file_for_five_bands_gives_the_labels_of_the_checkpoint(
    five_bands, tmp_path, to, assert_alike
):
    config, checkpoint, files = five_bands
    expected = Segmenter(config, checkpoint, device='cpu').probabilities(files)
    cfg = Config.fromfile(config)
    path = tmp_path / f'five{dict(onnx=".onnx", openvino=".xml")[to]}'
    model = load_model(cfg.copy(), checkpoint)
    export(cfg, model, path, to, dynamic=True, output='logits')
    segmenter = ExportedSegmenter(path)
    assert segmenter.metadata.shape == (None, 5, None, None)
    assert_alike(segmenter(files), expected)
    with pytest.raises(ConfigError, match='takes 5: leave out --normalize'):
        export(cfg, model, path, to, dynamic=True, normalize=True)
