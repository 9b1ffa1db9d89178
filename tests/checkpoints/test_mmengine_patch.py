"""A hostile checkpoint runs no code, whichever way it is loaded."""

import contextlib
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmseg.apis import MMSegInferencer, init_model
from mmseg.registry import MODELS

from mmseg_repvgg import RepVGG
from mmseg_repvgg.checkpoints.files import TRUST
from mmseg_repvgg.checkpoints.mmengine_patch import (
    loading_safely,
    make_loading_safe,
    read_ahead,
    undo,
)
from mmseg_repvgg.errors import CheckpointError
from mmseg_repvgg.models.convert import convert

TINY = dict(depths=(1, 1, 1, 1), a=0.125, b=0.125)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.fixture(autouse=True)
def _unpatched(monkeypatch):
    """Start without the patch; reading a config applies it again."""
    undo()
    monkeypatch.delitem(sys.modules, 'mmseg_repvgg.safe_loading', raising=False)
    yield
    undo()


def pretrained(path):
    return dict(type='Pretrained', checkpoint=path)


def of_the_backbone(path, cfg, repo):
    MODELS.build(dict(type='RepVGG', arch=TINY, init_cfg=pretrained(path))).init_weights()


def of_a_prefix(path, cfg, repo):
    init = dict(**pretrained(path), prefix='backbone.')
    MODELS.build(dict(type='RepVGG', arch=TINY, init_cfg=init)).init_weights()


def of_a_peer(path, cfg, repo):
    cfg = Config.fromfile(repo / 'configs/pspnet_r18_camvid.py')
    cfg.model.backbone.init_cfg = pretrained(path)
    cfg.model.pretrained = None
    MODELS.build(cfg.model).init_weights()


def by_init_model(path, cfg, repo):
    init_model(str(repo / 'configs/pspnet_repvgg_a0_street.py'), path, device='cpu')


def by_inferencer(path, cfg, repo):
    config = str(repo / 'configs/pspnet_repvgg_a0_street.py')
    MMSegInferencer(model=config, weights=path, device='cpu')


def by_load_from(path, cfg, repo):
    cfg.load_from = path
    Runner.from_cfg(cfg).train()


def by_resume(path, cfg, repo):
    cfg.load_from, cfg.resume = path, True
    cfg.custom_hooks = [dict(type='EMAHook')]
    Runner.from_cfg(cfg).train()


def by_converting(path, cfg, repo):
    convert(path, f'{path}.converted.pth', force=True)


WAYS = [
    *[of_the_backbone, of_a_prefix, of_a_peer, by_init_model, by_inferencer],
    *[by_load_from, by_resume, by_converting],
]


@pytest.mark.parametrize(
    ('way', 'key'),
    [*((way, 'state_dict') for way in WAYS), (by_resume, 'ema_state_dict')],
)
def test_hostile_checkpoint_is_refused(
    tmp_path, monkeypatch, small_street_config, street_root, repo, way, key
):
    ran = tmp_path / 'ran'
    path = str(tmp_path / 'hostile.pth')
    parts = dict(meta={}, state_dict={}, ema_state_dict={})
    torch.save({**parts, key: {'x': Hostile(str(ran))}}, path)
    cfg = small_street_config(street_root, tmp_path)
    with pytest.raises(CheckpointError, match=r'hostile\.pth') as caught:
        way(path, cfg, repo)
    assert TRUST in str(caught.value)
    assert not ran.exists()

    # If trusted, the code runs, so this way of loading does reach the file.
    monkeypatch.setenv(TRUST, '1')
    with contextlib.suppress(Exception):
        way(path, small_street_config(street_root, tmp_path), repo)
    assert ran.exists()


def test_importing_the_package_does_not_patch_mmengine():
    code = """
import mmseg_repvgg
from mmengine.runner import CheckpointLoader
def where():
    return CheckpointLoader._get_checkpoint_loader.__module__
print(where())
import mmseg_repvgg.safe_loading
print(where())
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.split()[-2:] == [
        'mmengine.runner.checkpoint',
        'mmseg_repvgg.checkpoints.mmengine_patch',
    ]


def test_temporary_patch_is_undone_and_keeps_a_lasting_one(tmp_path):
    original = CheckpointLoader._get_checkpoint_loader
    with pytest.raises(CheckpointError):
        of_the_backbone(str(tmp_path / 'gone.pth'), None, None)
    assert CheckpointLoader._get_checkpoint_loader == original
    make_loading_safe(trust=True)
    lasting = CheckpointLoader._get_checkpoint_loader
    with loading_safely():
        assert CheckpointLoader._get_checkpoint_loader == lasting
    assert CheckpointLoader._get_checkpoint_loader == lasting
    undo()
    assert CheckpointLoader._get_checkpoint_loader == original


@pytest.mark.parametrize('address', ['https://example.invalid/a.pth', 'torchvision://a'])
def test_urls_are_refused(address):
    make_loading_safe()
    with pytest.raises(CheckpointError, match='download it'):
        load_checkpoint(RepVGG(TINY), address)


def test_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save({'meta': {'iter': 3}}, tmp_path / 'a.pth')
    assert read_ahead('~/a.pth') == {'meta': {'iter': 3}}


def test_config_text_of_old_checkpoints_is_dropped(tmp_path):
    """mmengine's Runner.resume executes ``meta['config']``."""
    torch.save({'meta': {'config': 'raise SystemExit', 'iter': 3}}, tmp_path / 'a.pth')
    with loading_safely():
        read = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))
    assert read['meta'] == {'iter': 3}
