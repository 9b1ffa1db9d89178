"""Folders of a trained model: written whole, read without code, sent to a hub."""

import json
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.registry import MODELS

from mmseg_repvgg import Segmenter
from mmseg_repvgg.errors import CheckpointError, ConfigError
from repvgg_runtime.errors import ExtraError


@pytest.fixture(scope='module')
def saved(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp('pretrained') / 'model'
    Segmenter(*trained, device='cpu').save_pretrained(
        folder, metrics={'mIoU': 12.5}, command='make demo', licence='apache-2.0'
    )
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of the folder, and a function that changes its stored config."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())

    def change(function):
        path = tmp_path / 'config.json'
        stored = json.loads(path.read_text())
        function(stored)
        path.write_text(json.dumps(stored))
        return tmp_path

    return change


def test_a_folder_gives_the_same_labels(saved, trained, street_images):
    expected = Segmenter(*trained, device='cpu', engine='torch')
    found = Segmenter.from_pretrained(saved, device='cpu', engine='torch')
    for image in street_images:
        assert np.array_equal(found(image), expected(image))
    assert found.classes == expected.classes
    assert found.palette == expected.palette
    options = dict(device='cpu', engine='torch', tta=True)
    expected = Segmenter(*trained, **options)
    found = Segmenter.from_pretrained(saved, **options)
    assert np.array_equal(found(street_images[0]), expected(street_images[0]))


def test_a_folder_of_a_folder_is_the_same(saved, tmp_path):
    Segmenter.from_pretrained(saved, device='cpu').save_pretrained(tmp_path / 'again')
    name = 'model.safetensors'
    assert (tmp_path / 'again' / name).read_bytes() == (saved / name).read_bytes()


def test_lists_tuples_and_scopes_come_back(trained, tmp_path, street_images):
    cfg = Config.fromfile(trained[0])
    cfg.model.type = f'mmseg.{cfg.model.type}'
    channels = list(MODELS.build(cfg.model.backbone).out_channels)
    # FPN takes no tuple.
    fpn = dict(type='mmseg.FPN', in_channels=channels, out_channels=8, num_outs=4)
    cfg.model.neck = fpn
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.in_channels = 8
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'a.pth')
    segmenter = Segmenter(cfg, tmp_path / 'a.pth', device='cpu', engine='torch')
    folder = segmenter.save_pretrained(tmp_path / 'model')
    again = Segmenter.from_pretrained(folder, device='cpu', engine='torch')
    assert np.array_equal(again(street_images[0]), segmenter(street_images[0]))


def test_a_formula_of_a_block_is_no_file(copy, street_images):
    def use_formula(stored):
        stored['config']['model']['backbone']['block'] = '(3x3-bn + 1x1 + identity)-bn'

    folder = copy(use_formula)
    Segmenter.from_pretrained(folder, device='cpu', engine='torch')(street_images[0])


def test_the_card_tells_what_was_given(saved):
    card = (saved / 'README.md').read_text()
    assert card.startswith('---\nlicense: apache-2.0\n')
    assert '| mIoU | 12.5 |' in card
    assert '`make demo`' in card
    assert re.search(r'SHA-256 of `model.safetensors`: `[0-9a-f]{64}`', card)


def test_the_stored_config_names_no_path_of_the_weights(saved, trained):
    stored = (saved / 'config.json').read_text()
    assert str(Path(trained[1]).parent) not in stored
    assert 'data_root' not in stored


@pytest.mark.parametrize(
    'kind', ['os.system', 'subprocess.Popen', 'this', 'ResNet50Evil', ['RepVGG']]
)
def test_classes_of_others_are_refused(copy, kind):
    folder = copy(lambda stored: stored['config']['model'].update(type=kind))
    with pytest.raises(ConfigError, match=re.escape(repr(kind))):
        Segmenter.from_pretrained(folder, device='cpu')


def test_classes_of_others_in_the_pipeline_are_refused(copy):
    def change(stored):
        stored['config']['test_pipeline'].append(dict(type='os.system', command='ls'))

    with pytest.raises(ConfigError, match=r'os\.system'):
        Segmenter.from_pretrained(copy(change), device='cpu')


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    ('part', 'key'),
    [('backbone', 'checkpoint'), ('decode_head', 'class_weight'), ('test_cfg', 'mode')],
)
def test_no_other_file_is_read(copy, tmp_path, part, key):
    (tmp_path / 'evil.pkl').write_bytes(pickle.dumps(Evil(tmp_path / 'mark')))
    for name in (str(tmp_path / 'evil.pkl'), 'http://127.0.0.1:9/evil.pkl', 'evil.pkl'):

        def change(stored, name=name):
            stored['config']['model'][part][key] = name

        with pytest.raises(ConfigError, match='could name a file'):
            Segmenter.from_pretrained(copy(change), device='cpu')
    assert not (tmp_path / 'mark').exists()


def test_losses_are_not_built(copy, tmp_path, street_images):
    (tmp_path / 'evil.pkl').write_bytes(pickle.dumps(Evil(tmp_path / 'mark')))

    def change(stored):
        stored['config']['model']['decode_head']['loss_decode'] = dict(
            type='CrossEntropyLoss', class_weight=str(tmp_path / 'evil.pkl')
        )
        stored['config']['model']['decode_head']['sampler'] = dict(
            type='OHEMPixelSampler'
        )

    assert Segmenter.from_pretrained(copy(change), device='cpu')(street_images[0]).any()
    assert not (tmp_path / 'mark').exists()


@pytest.mark.parametrize('kind', ['TIMMBackbone', 'VPD', 'BackendSegmentor'])
def test_classes_that_fetch_or_read_others_are_refused(copy, kind):
    folder = copy(lambda stored: stored['config']['model']['backbone'].update(type=kind))
    with pytest.raises(ConfigError, match=kind):
        Segmenter.from_pretrained(folder, device='cpu')


@pytest.mark.parametrize(
    'change',
    [
        lambda stored: stored['config'].pop('model'),
        lambda stored: stored.update(config=[1]),
        lambda stored: stored['config']['model'].update(unknown=1),
        lambda stored: stored.update(classes=5),
        lambda stored: stored.update(classes=[1, 2]),
        lambda stored: stored['palette'].pop(),
        lambda stored: stored['palette'][0].append(1),
        lambda stored: stored['palette'][0].__setitem__(0, 999),
    ],
)
def test_a_wrong_config_is_an_error_that_names_the_folder(copy, change, tmp_path):
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        Segmenter.from_pretrained(copy(change), device='cpu')


def test_the_pipeline_of_the_data_set_is_kept(trained, street_images, tmp_path):
    cfg = Config.fromfile(trained[0])
    resize = dict(type='Resize', scale=(70, 50), keep_ratio=True)
    cfg.test_dataloader.dataset.pipeline.insert(1, resize)
    before = Segmenter(cfg, trained[1], device='cpu', engine='torch')
    before.save_pretrained(tmp_path)
    after = Segmenter.from_pretrained(tmp_path, device='cpu', engine='torch')
    labels = before(street_images[0])
    assert np.array_equal(after(street_images[0]), labels)
    assert (Segmenter(*trained, device='cpu')(street_images[0]) != labels).mean() > 0.01


def test_init_cfg_is_not_followed(copy, street_images):
    def change(stored):
        stored['config']['model']['backbone']['init_cfg'] = dict(
            type='Pretrained', checkpoint='http://127.0.0.1:9/none.pth'
        )

    assert Segmenter.from_pretrained(copy(change), device='cpu')(street_images[0]).any()


def test_damaged_weights_are_refused(copy):
    folder = copy(lambda stored: None)
    data = bytearray((folder / 'model.safetensors').read_bytes())
    data[-1] ^= 1
    (folder / 'model.safetensors').write_bytes(data)
    with pytest.raises(CheckpointError, match='damaged or of another model'):
        Segmenter.from_pretrained(folder, device='cpu')


def test_a_mistyped_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match='the folder .*wrongly does not exist'):
        Segmenter.from_pretrained(tmp_path / 'typed wrongly')


def test_an_incomplete_folder_is_refused(copy):
    folder = copy(lambda stored: stored.pop('classes'))
    with pytest.raises(CheckpointError, match='not a folder of save_pretrained'):
        Segmenter.from_pretrained(folder, device='cpu')
    (folder / 'config.json').unlink()
    with pytest.raises(CheckpointError, match='not a folder of save_pretrained'):
        Segmenter.from_pretrained(folder, device='cpu')


def test_a_missing_folder_is_named_where_the_hub_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ExtraError, match='the folder out/gone does not exist.* pip inst'):
        Segmenter.from_pretrained('out/gone')
