"""One line of Python gives the labels that a test scores."""

import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.apis import MMSegInferencer, inference_model, init_model
from mmseg.registry import MODELS

from mmseg_repvgg import Segmenter, deploy
from mmseg_repvgg.errors import CheckpointError, ConfigError, DeployError, ImageError
from mmseg_repvgg.inference import segmenter as module
from mmseg_repvgg.models.wrappers import predict
from mmseg_repvgg.reparam import is_deployed
from repvgg_runtime.bands import read_bands, shown
from repvgg_runtime.images import read_image


@pytest.fixture
def segmenter(trained):
    return Segmenter(*trained, device='cpu', engine='torch')


def test_labels_are_those_of_a_test(segmenter, trained, assert_best_labels):
    cfg = Config.fromfile(trained[0])
    cfg.load_from = trained[1]
    runner = Runner.from_cfg(cfg)
    runner.load_checkpoint(trained[1])
    runner.model.eval()
    for batch in runner.test_dataloader:
        (sample,) = predict(runner.model, batch)
        labels = segmenter(sample.img_path)
        assert labels.dtype == np.uint8
        assert_best_labels(labels, sample.seg_logits.data.numpy(), 1e-4)


def test_the_model_is_fused_by_the_engine(trained):
    for engine in ('torch', 'winograd', 'auto'):
        segmenter = Segmenter(*trained, device='cpu', engine=engine)
        assert is_deployed(segmenter.model)


def test_a_device_may_be_one_of_torch(trained):
    segmenter = Segmenter(*trained, device=torch.device('cpu'), engine='winograd')
    assert any(hasattr(m, 'precision') for m in segmenter.model.modules())


@pytest.mark.parametrize(
    'copied', [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_a_copy_segments_alike(segmenter, street_images, copied):
    expected = segmenter(street_images[0])
    assert np.array_equal(copied(segmenter)(street_images[0]), expected)


@pytest.mark.parametrize('precision', ['high', 'medium'])
def test_the_engine_computes_with_the_precision(trained, precision):
    segmenter = Segmenter(*trained, device='cpu', engine='winograd', precision=precision)
    found = {m.precision for m in segmenter.model.modules() if hasattr(m, 'precision')}
    assert found == {precision}
    with pytest.raises(ConfigError, match="precision='high' needs engine='winograd'"):
        Segmenter(*trained, device='cpu', engine='torch', precision='high')


def test_images_of_several_sizes_are_one_list(segmenter, street_images):
    pixels = read_image(street_images[0])
    images = [pixels, pixels[:40, :60].copy(), street_images[1]]
    found = segmenter(images)
    assert [each.shape for each in found] == [(64, 128), (40, 60), (64, 128)]
    for image, labels in zip(images, found):
        assert (segmenter(image) != labels).mean() < 1e-3


def test_probabilities_have_their_maximum_at_the_label(segmenter, street_images):
    probabilities = segmenter.probabilities(street_images[0])
    assert probabilities.shape == (19, 64, 128)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    assert np.array_equal(probabilities.argmax(0), segmenter(street_images[0]))


def test_a_single_output_channel_has_two_labels(trained, street_images, tmp_path):
    cfg = Config.fromfile(trained[0])
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.update(num_classes=1, out_channels=1, threshold=0.5)
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.metainfo = dict(classes=('road',), palette=[[1, 2, 3]])
    torch.save(MODELS.build(cfg.model).state_dict(), tmp_path / 'one.pth')
    segmenter = Segmenter(cfg, tmp_path / 'one.pth', device='cpu')
    assert segmenter.classes == ['road', 'class 1']
    assert len(segmenter.palette) == 2
    assert set(np.unique(segmenter(street_images[0]))) <= {0, 1}
    probabilities = segmenter.probabilities(street_images[0])
    assert probabilities.shape == (2, 64, 128)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)


def test_threads_may_share_a_segmenter(segmenter, street_images):
    expected = segmenter(street_images)
    found = {}

    def work(index):
        found[index] = segmenter(street_images)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for labels in found.values():
        assert all((a != b).mean() < 1e-3 for a, b in zip(labels, expected))
    assert len(found) == 4


def test_time_augmentation_averages_the_views(trained, street_images):
    averaged = Segmenter(*trained, device='cpu', tta=True)
    labels = averaged(street_images[0])
    assert labels.shape == (64, 128)
    assert (labels != Segmenter(*trained, device='cpu')(street_images[0])).any()
    with pytest.raises(ConfigError, match='gives no probabilities'):
        averaged.probabilities(street_images[0])


def test_a_model_that_fusing_changes_is_refused(trained, monkeypatch):
    def broken(model, *options):
        fused = deploy(model, *options)
        with torch.no_grad():
            next(fused.parameters()).mul_(1.5)
        return fused

    monkeypatch.setattr(module, 'deploy', broken)
    with pytest.raises(DeployError, match='more than tolerance=0.001'):
        Segmenter(*trained, device='cpu')


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path):
    torch.save({'state_dict': {'other': torch.zeros(1)}}, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=r'other\.pth'):
        Segmenter(trained[0], tmp_path / 'other.pth', device='cpu')


def test_a_config_without_a_pipeline_is_refused(trained):
    cfg = Config.fromfile(trained[0])
    for key in ('test_dataloader', 'test_pipeline'):
        cfg.pop(key)
    with pytest.raises(ConfigError, match='no test_dataloader and no test_pipeline'):
        Segmenter(cfg, trained[1], device='cpu')


def test_functions_of_mmseg_keep_working(segmenter, trained, street_images, tmp_path):
    path = str(street_images[0])
    expected = segmenter(path)
    model = init_model(*trained, device='cpu')
    found = inference_model(deploy(model), path).pred_sem_seg.data[0].numpy()
    assert (found != expected).mean() < 1e-3
    inferencer = MMSegInferencer(*trained, device='cpu')
    (found,) = [inferencer(path, show=False)['predictions']]
    assert (found != expected).mean() < 1e-3


def test_tiff_files_of_five_bands_give_the_labels_of_a_test(
    five_bands, assert_best_labels
):
    config, checkpoint, files = five_bands
    segmenter = Segmenter(config, checkpoint, device='cpu')
    assert segmenter.bands == 5
    cfg = Config.fromfile(config)
    runner = Runner.from_cfg(cfg)
    runner.load_checkpoint(checkpoint)
    runner.model.eval()
    found = dict(zip(map(str, files), segmenter(files)))
    for batch in runner.test_dataloader:
        (sample,) = predict(runner.model, batch)
        labels = found.pop(sample.img_path)
        assert_best_labels(labels, sample.seg_logits.data.numpy(), 1e-4)
    assert not found


def test_a_model_of_five_bands_is_trained_with_the_same_files(five_bands, tmp_path):
    config, _, files = five_bands
    cfg = Config.fromfile(config)
    cfg.work_dir = str(tmp_path)
    cfg.val_dataloader = cfg.test_dataloader
    cfg.train_dataloader.dataset = {
        **cfg.test_dataloader.dataset,
        'pipeline': [
            dict(type='LoadBands', bands=5),
            dict(type='LoadCheckedAnnotations'),
            dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    }
    Runner.from_cfg(cfg).train()
    segmenter = Segmenter(cfg, tmp_path / 'iter_4.pth', device='cpu')
    assert segmenter(files[0]).shape == (64, 128)
    # The hook that paints samples of the validation shows these files as well.
    assert len(list(tmp_path.rglob('sample_*.png'))) > 0


def test_arrays_of_five_bands_are_taken_and_every_band_counts(five_bands):
    config, checkpoint, files = five_bands
    segmenter = Segmenter(config, checkpoint, device='cpu', engine='torch')
    image = read_bands(files[0])
    expected = segmenter.probabilities(files[0])
    assert np.array_equal(segmenter.probabilities(image), expected)
    assert np.array_equal(segmenter.probabilities(image.astype(np.float32)), expected)
    for band in range(5):
        changed = image.copy()
        changed[:, :, band] += 3000
        assert np.abs(segmenter.probabilities(changed) - expected).max() > 0.01
    overlay = segmenter.overlay(image, opacity=0)
    assert np.array_equal(overlay, shown(image))


def test_an_image_of_another_number_of_bands_is_refused(five_bands, street_images):
    segmenter = Segmenter(*five_bands[:2], device='cpu', engine='torch')
    with pytest.raises(ImageError, match='has 3 bands, but the model takes 5'):
        segmenter(read_image(street_images[0]))
    with pytest.raises(ImageError, match=r'\.png is truncated or not a TIFF file'):
        segmenter(street_images[0])


def test_a_model_of_five_bands_is_saved_and_read(five_bands, tmp_path):
    pytest.importorskip('safetensors')
    config, checkpoint, files = five_bands
    segmenter = Segmenter(config, checkpoint, device='cpu', engine='torch')
    segmenter.save_pretrained(tmp_path / 'five')
    again = Segmenter.from_pretrained(tmp_path / 'five', device='cpu', engine='torch')
    assert again.bands == 5
    assert np.array_equal(again(files[0]), segmenter(files[0]))


def test_a_mean_for_another_number_of_bands_is_refused(five_bands):
    cfg = Config.fromfile(five_bands[0])
    cfg.model.data_preprocessor.update(mean=[1.0] * 4, std=[1.0] * 4)
    with pytest.raises(ConfigError, match='a mean of 4 bands, but the backbone takes 5'):
        Segmenter(cfg, five_bands[1], device='cpu')
    cfg.model.data_preprocessor.update(std=[1.0] * 5)
    with pytest.raises(ConfigError, match='have 4 and 5 values'):
        Segmenter(cfg, five_bands[1], device='cpu')


def test_forms_are_those_of_the_checkpoint_and_agree(trained, street_images, tmp_path):
    segmenter = Segmenter(*trained, device='cpu', keep_trained=True)
    image, forms = read_image(street_images[0]), segmenter.forms()
    assert list(forms)[:2] == ['training form', 'fused form']
    for form in forms.values():
        assert (form(image) != segmenter(image)).mean() < 1e-3
    # A segmenter that did not keep it, and a folder, which does not hold it.
    del forms['training form']
    assert list(Segmenter(*trained, device='cpu').forms()) == list(forms)
    folder = segmenter.save_pretrained(tmp_path / 'model')
    assert list(Segmenter.from_pretrained(folder, device='cpu').forms()) == list(forms)


def test_a_config_object_serves_as_its_file_and_is_not_changed(
    trained, street_images, tmp_path
):
    cfg = Config.fromfile(trained[0])
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    before = cfg.to_dict()
    whole = Segmenter(*trained, device='cpu', engine='torch')
    meta = dict(dataset_meta=dict(classes=whole.classes, palette=whole.palette))
    fused = dict(state_dict=whole.model.state_dict(), meta=meta)
    torch.save(fused, tmp_path / 'fused.pth')
    segmenter = Segmenter(cfg, tmp_path / 'fused.pth', device='cpu', engine='torch')
    assert cfg.to_dict() == before
    assert np.array_equal(segmenter(street_images[0]), whole(street_images[0]))


def test_training_form_runs_the_branches(trained, street_images):
    segmenter = Segmenter(*trained, device='cpu', engine='torch', keep_trained=True)
    image, forms = read_image(street_images[0]), segmenter.forms()
    before = {name: form(image) for name, form in forms.items()}
    with torch.no_grad():
        # The forms share the heads, but the branches belong to the training form.
        for name, weight in segmenter._trained.named_parameters():
            if 'branch_3x3.conv' in name:
                weight.neg_()
    changed = {name: (form(image) != before[name]).any() for name, form in forms.items()}
    assert changed.pop('training form')
    assert not any(changed.values())
