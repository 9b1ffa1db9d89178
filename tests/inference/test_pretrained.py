"""Folders of a trained model: written whole, read without code, sent to a hub."""

import json
import re

import numpy as np
import pytest

from mmseg_repvgg import Segmenter
from mmseg_repvgg.errors import CheckpointError, ConfigError


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
    expected = Segmenter(*trained, device='cpu')
    found = Segmenter.from_pretrained(saved, device='cpu')
    for image in street_images:
        assert (found(image) != expected(image)).mean() < 1e-3
    assert found.classes == expected.classes
    assert found.palette == expected.palette
    tta = [Segmenter(*trained, device='cpu', tta=True)]
    tta.append(Segmenter.from_pretrained(saved, device='cpu', tta=True))
    assert np.mean(tta[0](street_images[0]) != tta[1](street_images[0])) < 1e-3


def test_a_folder_of_a_folder_is_the_same(saved, tmp_path):
    Segmenter.from_pretrained(saved, device='cpu').save_pretrained(tmp_path / 'again')
    name = 'model.safetensors'
    assert (tmp_path / 'again' / name).read_bytes() == (saved / name).read_bytes()


def test_the_card_tells_what_was_given(saved):
    card = (saved / 'README.md').read_text()
    assert card.startswith('---\nlicense: apache-2.0\n')
    assert '| mIoU | 12.5 |' in card
    assert '`make demo`' in card
    assert re.search(r'SHA-256 of `model.safetensors`: `[0-9a-f]{64}`', card)


def test_the_stored_config_names_no_path_of_the_weights(saved, trained):
    assert trained[1] not in (saved / 'config.json').read_text()


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


def test_other_files_are_not_read(copy):
    def change(stored):
        stored['config']['model']['backbone']['checkpoint'] = '/etc/passwd'

    with pytest.raises(ConfigError, match='checkpoint, which would read another file'):
        Segmenter.from_pretrained(copy(change), device='cpu')


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


def test_an_incomplete_folder_is_refused(copy):
    folder = copy(lambda stored: stored.pop('classes'))
    with pytest.raises(CheckpointError, match='not a folder of save_pretrained'):
        Segmenter.from_pretrained(folder, device='cpu')
    (folder / 'config.json').unlink()
    with pytest.raises(CheckpointError, match='not a folder of save_pretrained'):
        Segmenter.from_pretrained(folder, device='cpu')
