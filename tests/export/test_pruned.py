"""A pruned segmentor is a config and a checkpoint like any other."""

import copy
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmseg.registry import MODELS
from torch import nn

from mmseg_repvgg import Segmenter, deploy
from mmseg_repvgg.engine.config import load_config
from mmseg_repvgg.engine.load_model import load_model
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.testing import prepare_testing
from mmseg_repvgg.engine.training import prepare_training
from mmseg_repvgg.errors import ConfigError, ExtraError, WriteError
from mmseg_repvgg.export.exported import export
from mmseg_repvgg.export.pruned import prune

pytest.importorskip('torch_pruning', reason="needs pip install -e '.[prune]'")


def read(config):
    return load_config(config)


def convs(net):
    return [m for m in net.backbone.modules() if isinstance(m, nn.Conv2d)]


@torch.no_grad()
def outputs(net):
    image = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    return net(image, mode='tensor')


@pytest.fixture(scope='module')
def pruned(trained, tmp_path_factory):
    """The config, the model that was pruned by a quarter, and what was written."""
    config, checkpoint = trained
    cfg = read(config)
    model = load_model(cfg, checkpoint)
    path = tmp_path_factory.mktemp('pruned') / 'small_pruned.py'
    return cfg, model, prune(cfg, model, path, share=0.25, images=6)


def test_workers_of_the_config_are_not_needed(trained, tmp_path):
    cfg = read(trained[0])
    cfg.train_dataloader.update(num_workers=2, prefetch_factor=4)
    done = prune(cfg, load_model(cfg, trained[1]), tmp_path / 'x.py', images=2)
    assert done.checkpoint.is_file()


def test_config_and_checkpoint_make_the_pruned_model(pruned):
    cfg, model, done = pruned
    net = load_model(read(done.config), done.checkpoint)
    widths = [width for stage in done.after for width in stage]
    assert [conv.out_channels for conv in convs(net)] == widths
    before = [width for stage in done.before for width in stage]
    assert before == [conv.out_channels for conv in convs(deploy(model))]
    assert net.decode_head.in_channels == widths[-1]
    assert net.auxiliary_head.in_channels == widths[-2]
    assert net.dataset_meta['classes'] == model.dataset_meta['classes']
    assert cfg.model.backbone.arch == dict(depths=(1, 2, 2, 1), a=0.25, b=0.25)
    assert {file.name for file in done.config.parent.iterdir()} == {
        'small_pruned.py',
        'small_pruned.pth',
    }


def test_pruned_config_tests_and_exports(pruned, street_images, tmp_path):
    done = pruned[2]
    cfg = read(done.config)
    cfg.work_dir = str(tmp_path / 'work')
    prepare_testing(cfg, str(done.checkpoint))
    assert 0 <= build_runner(cfg).test()['mIoU'] <= 100
    segmenter = Segmenter(str(done.config), str(done.checkpoint), engine='torch')
    assert segmenter(street_images[0]).shape == (64, 128)
    model = load_model(read(done.config), done.checkpoint)
    exported = export(
        read(done.config), model, tmp_path / 'x.pt', 'torchscript', size=(64, 128)
    )
    assert [*map(list, exported.metadata.arch['channels'])] == done.after


def test_training_fine_tunes_the_pruned_net(pruned, tmp_path, monkeypatch):
    done = pruned[2]
    # Config and checkpoint may be moved, and trained in any folder.
    for file in (done.config, done.checkpoint):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    cfg = read(tmp_path / done.config.name)
    cfg.work_dir = str(tmp_path / 'tuned')
    prepare_training(cfg)
    runner = build_runner(cfg)
    runner.train()
    start = torch.load(done.checkpoint, weights_only=False)['state_dict']
    tuned = torch.load(tmp_path / 'tuned' / 'iter_4.pth', weights_only=False)
    for key, value in tuned['state_dict'].items():
        if key.startswith('backbone.'):
            assert value.shape == start[key].shape
            assert not torch.equal(value, start[key]), key
            assert (value - start[key]).abs().max() < 0.1, key
    load_model(read(done.config), tmp_path / 'tuned' / 'iter_4.pth')


@pytest.mark.parametrize('kind', ['UPerHead', 'SegformerHead'])
def test_heads_on_several_maps_are_pruned(trained, tmp_path, kind):
    cfg = read(trained[0])
    several = dict(type=kind, in_index=[0, 1, 2, 3], in_channels=[16, 32, 64, 128])
    cfg.model.decode_head.update(several)
    if kind == 'SegformerHead':
        cfg.model.decode_head.pop('pool_scales')
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    model.dataset_meta = {}
    done = prune(cfg, model, tmp_path / 'x.py', images=2)
    head = load_model(read(done.config), done.checkpoint).decode_head
    assert list(head.in_channels) == [stage[-1] for stage in done.after[1:]]
    assert head.in_channels != several['in_channels']


@pytest.mark.parametrize(
    ('name', 'options', 'says'),
    [
        ('x.py', dict(share=0), 'above 0 and below 0.8, but got 0'),
        ('x.py', dict(share=0.8), 'above 0 and below 0.8, but got 0.8'),
        ('x.py', dict(share=0.79), 'is too much for this backbone'),
        ('x.py', dict(images=0), '--images must be at least 1'),
        ('x.json', {}, r'must be named \*\.py, but got .*x\.json'),
    ],
)
def test_bad_argument_is_named(pruned, tmp_path, name, options, says):
    cfg, model, _ = pruned
    with pytest.raises(ConfigError, match=says):
        prune(cfg, model, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_missing_package_and_folder_are_named(pruned, tmp_path, monkeypatch):
    cfg, model, _ = pruned
    (tmp_path / 'file').touch()
    with pytest.raises(WriteError, match='cannot be written'):
        prune(cfg, model, tmp_path / 'file' / 'x.py', images=2)
    monkeypatch.setitem(sys.modules, 'torch_pruning', None)
    with pytest.raises(ExtraError, match=r"pip install 'mmseg_repvgg\[prune\]'"):
        prune(cfg, model, tmp_path / 'x.py')


def test_model_is_unchanged(trained, tmp_path):
    cfg = read(trained[0])
    model = load_model(cfg, trained[1])
    before, given = copy.deepcopy(model.state_dict()), Config(cfg.to_dict())
    prune(cfg, model, tmp_path / 'x.py', images=2)
    assert cfg.to_dict() == given.to_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
