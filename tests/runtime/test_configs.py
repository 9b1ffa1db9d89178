"""Configs are listed, found by name and copied with the files that they build on."""

import os
from pathlib import Path

import pytest
from mmengine.config import Config

from repvgg_runtime.configs import (
    config_files,
    copy_configs,
    describe_configs,
    find_config,
    project_root,
)
from repvgg_runtime.errors import ConfigError, WriteError

B2 = 'pspnet_repvgg_b2_cityscapes'


def test_root_is_that_of_the_checkout(repo):
    assert project_root() == repo


def test_every_leaf_config_has_a_name_and_a_line(repo):
    files = config_files()
    assert files[B2] == repo / 'configs' / f'{B2}.py'
    assert not {'cityscapes', 'pspnet', 'runtime'} & set(files)
    lines = describe_configs()
    assert set(lines) == set(files)
    assert lines[B2] == 'PSPNet with RepVGG-B2 for Cityscapes'


@pytest.mark.parametrize('given', [B2, f'{B2}.py'])
def test_config_is_found_by_its_name(given, repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(given) == repo / 'configs' / f'{B2}.py'


def test_file_in_the_current_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(f'{B2}.py').touch()
    assert find_config(f'{B2}.py') == Path(f'{B2}.py')


def test_unknown_name_is_an_error_with_the_nearest_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f'b2_cityscape does not exist.*{B2}, '):
        find_config('pspnet_repvgg_b2_cityscape')
    with pytest.raises(ConfigError, match='regular file$'):
        find_config('nothing_like_it')
    with pytest.raises(ConfigError, match=f'configs/{B2}.py does not exist.* {B2}'):
        find_config(f'configs/{B2}.py')


@pytest.mark.parametrize('name', [B2, 'pspnet_repvgg_a0_fast_camvid'])
def test_copies_are_the_same_config(name, repo, tmp_path):
    (copy,) = copy_configs([name], tmp_path / 'mine')
    assert copy == tmp_path / 'mine' / f'{name}.py'
    original = Config.fromfile(repo / 'configs' / f'{name}.py')
    assert Config.fromfile(copy).to_dict() == original.to_dict()


def test_only_what_the_configs_build_on_is_copied(tmp_path):
    copy_configs(['pspnet_repvgg_a0_fast_street'], tmp_path)
    copies = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob('*') if f.is_file()}
    assert copies == {
        'pspnet_repvgg_a0_fast_street.py',
        'pspnet_repvgg_a0_street.py',
        '_base_/models/encoder_decoder.py',
        '_base_/models/pspnet.py',
        '_base_/models/pspnet_small.py',
        '_base_/datasets/segmentation.py',
        '_base_/datasets/street.py',
        '_base_/schedules/segmentation.py',
        '_base_/schedules/street.py',
        '_base_/runtime.py',
    }


def test_changed_files_are_not_overwritten(tmp_path):
    copy_configs([B2], tmp_path)
    copy_configs([B2, 'pspnet_r50_cityscapes.py'], tmp_path)
    (tmp_path / '_base_/runtime.py').write_text('mine = 1\n')
    with pytest.raises(ConfigError, match='runtime.py exists and differs'):
        copy_configs([B2, 'pspnet_repvgg_b0_cityscapes'], tmp_path)
    assert (tmp_path / '_base_/runtime.py').read_text() == 'mine = 1\n'
    assert not (tmp_path / 'pspnet_repvgg_b0_cityscapes.py').exists()


def test_copies_onto_the_configs_themselves_change_nothing(repo):
    (copy,) = copy_configs([B2], repo / 'configs')
    assert copy == repo / 'configs' / f'{B2}.py'


def test_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(WriteError, match='cannot be written: Not a directory'):
        copy_configs([B2], tmp_path / 'file')


def test_only_configs_of_the_project_are_copied(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('mine.py').touch()
    with pytest.raises(ConfigError, match='mine.py does not exist'):
        copy_configs(['mine.py'], 'folder')
    assert os.listdir() == ['mine.py']
