"""Loading config files and adding hooks to them."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmseg.registry import HOOKS

from mmseg_repvgg.engine.config import add_missing_hook, remove_hook
from mmseg_repvgg.errors import ConfigError
from mmseg_repvgg.hooks import DeployHook


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('gone.py', 'gone.py does not exist'),
        ('', 'is not a regular file'),
        ('iter_2.pth', r'iter_2.pth cannot be read: OSError: Only py'),
    ],
)
def test_path_that_is_no_config_is_named(load, tmp_path, name, says):
    (tmp_path / 'iter_2.pth').touch()
    with pytest.raises(ConfigError, match=says):
        load(tmp_path / name)


def test_config_of_the_project_loads_by_its_name(load, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load('pspnet_repvgg_b2_cityscapes')
    assert cfg.model.backbone.arch == 'B2'
    assert cfg.work_dir == 'work_dirs/pspnet_repvgg_b2_cityscapes'


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ("_base_ = ['gone.py']", 'own.py cannot be read.*gone.py'),
        ('model = dict(', 'own.py cannot be read'),
        ('classes = eleven', 'own.py cannot be read: NameError: .*eleven'),
        ("custom_imports = dict(imports=['no_module'])", 'own.py cannot .*no_module'),
        ('modle = dict()', 'own.py has no model'),
    ],
)
def test_unreadable_config_is_named(load, tmp_path, text, says):
    (tmp_path / 'own.py').write_text(text)
    with pytest.raises(ConfigError, match=f'(?s){says}'):
        load(tmp_path / 'own.py')


@pytest.mark.parametrize(
    ('option', 'value', 'says'),
    [
        ('custom_hooks.99.engine', 'auto', '--cfg-options does not fit .*Index 99'),
        ('model.backbone.type.x', 1, '--cfg-options does not fit .*type='),
    ],
)
def test_options_that_do_not_fit_are_named(street_config_file, load, option, value, says):
    with pytest.raises(ConfigError, match=says):
        load(street_config_file, **{option: value})


def test_default_hooks_are_optional(street_config_file, load):
    text = Path(street_config_file).read_text()
    Path(street_config_file).write_text(f'{text}\ndel default_hooks\n')
    assert load(street_config_file).default_hooks == {}


@pytest.mark.parametrize('kind', ['DeployHook', 'mmseg.DeployHook', DeployHook])
def test_hook_is_added_once_and_logged(capsys, kind):
    cfg = Config(dict(custom_hooks=[dict(type=kind, engine='auto')]))
    add_missing_hook(cfg, DeployHook)
    assert len(cfg.custom_hooks) == 1
    remove_hook(cfg, DeployHook)
    assert cfg.custom_hooks == []
    assert capsys.readouterr().out == ''
    add_missing_hook(cfg, DeployHook, engine='auto')
    assert cfg.custom_hooks == [dict(type='DeployHook', engine='auto')]
    assert 'DeployHook is added' in capsys.readouterr().out


def test_subclass_counts_as_the_hook(monkeypatch):
    monkeypatch.setitem(HOOKS.module_dict, 'Own', type('Own', (DeployHook,), {}))
    cfg = Config(dict(custom_hooks=[dict(type='Own')]))
    add_missing_hook(cfg, DeployHook)
    assert cfg.custom_hooks == [dict(type='Own')]
    remove_hook(cfg, DeployHook)
    assert cfg.custom_hooks == []
