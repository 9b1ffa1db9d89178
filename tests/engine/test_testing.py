"""Preparing a test: it is fused and loads the whole model, whatever the config says."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmseg.registry import HOOKS, MODELS

from mmseg_repvgg import deploy
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.testing import find_miou, ignored_label, prepare_testing
from mmseg_repvgg.errors import CheckpointError, ConfigError
from mmseg_repvgg.hooks import DeployHook
from mmseg_repvgg.reparam import is_deployed

TEST = ('test_dataloader', 'test_cfg', 'test_evaluator')


class Look(Hook):
    def __init__(self):
        self.tested = []

    def after_test_iter(self, runner, *args, **kwargs):
        self.tested.append(is_deployed(runner.model))


def test_types_may_be_written_in_any_way(typed_config, save):
    checkpoint = save(typed_config)
    for fused in (False, True):
        cfg = copy.deepcopy(typed_config)
        prepare_testing(cfg, checkpoint, fused=fused, engine='winograd')
        runner = build_runner(cfg)
        hooks = [hook for hook in runner.hooks if isinstance(hook, DeployHook)]
        assert [hook.engine for hook in hooks] == ['winograd'] * fused
        look = Look()
        runner.register_hook(look)
        runner.test()
        assert look.tested == [fused] * 3


def test_no_training_form_where_the_config_builds_none(street_config, save):
    path = save(street_config)
    street_config.model.backbone.deploy = True
    with pytest.raises(ConfigError, match=r'--no-deploy .*backbone\.deploy=True'):
        prepare_testing(street_config, path, fused=False)


def test_no_training_form_of_what_is_fused(street_config, tmp_path):
    fused = deploy(MODELS.build(street_config.model))
    path = str(tmp_path / 'fused.pth')
    torch.save({'state_dict': fused.state_dict()}, path)
    with pytest.raises(ConfigError, match=r'--no-deploy .*fused.pth is fused'):
        prepare_testing(street_config, path, fused=False)


@pytest.mark.parametrize('hooks', [None, [], [dict(type='mmseg.LoadHook', strict=False)]])
def test_a_test_is_fused_and_loads_the_whole_model(full, load, tmp_path, save, hooks):
    """LoadHook(strict=False) of a config is meant for fine-tuning."""
    full.dump(tmp_path / 'config.py')
    cfg = load(tmp_path / 'config.py')
    cfg.custom_hooks = hooks
    state = MODELS.build(cfg.model).state_dict()
    prepare_testing(cfg, save(cfg))
    runner, look = build_runner(cfg), Look()
    runner.register_hook(look)
    runner.test()
    assert look.tested == [True] * 3
    del state['decode_head.conv_seg.bias']
    torch.save({'state_dict': state}, tmp_path / 'whole.pth')
    with pytest.raises(CheckpointError, match=r'whole\.pth: .*missing: .*conv_seg.bias'):
        build_runner(cfg).test()


def test_a_subclass_of_the_deploy_hook_serves(street_config, save, monkeypatch):
    path = save(street_config)
    monkeypatch.setitem(HOOKS.module_dict, 'Own', type('Own', (DeployHook,), {}))
    street_config.custom_hooks = [dict(type='Own')]
    fused = copy.deepcopy(street_config)
    prepare_testing(fused, path, engine='auto')
    assert dict(type='Own', engine='auto') in fused.custom_hooks
    assert not any('Deploy' in hook['type'] for hook in fused.custom_hooks)
    prepare_testing(street_config, path, fused=False)
    assert not any(hook['type'] == 'Own' for hook in street_config.custom_hooks)


def test_views_of_a_test_set_made_of_others(street_config, save):
    path = save(street_config)
    loader = street_config.test_dataloader
    both = [loader.dataset, copy.deepcopy(loader.dataset)]
    loader.dataset = dict(type='ConcatDataset', datasets=both)
    prepare_testing(street_config, path, tta=True)
    data = build_runner(street_config).test_dataloader.dataset
    assert len(data) == 6
    assert len(data[5]['inputs']) > 1


def test_a_bare_config_is_tested_with_pictures(full, load, tmp_path, save):
    Config({key: full[key] for key in ('model', *TEST)}).dump(tmp_path / 'config.py')
    cfg = load(tmp_path / 'config.py', work_dir=str(tmp_path / 'work'))
    shown = tmp_path / 'shown'
    prepare_testing(cfg, save(cfg), show_dir=str(shown))
    assert 'mIoU' in build_runner(cfg).test()
    assert len(list(shown.rglob('*.png'))) == 3


def test_pictures_are_written_beside_no_tensorboard(street_config, tmp_path, save):
    backends = [dict(type='TensorboardVisBackend')]
    street_config.visualizer = dict(type='SegLocalVisualizer', vis_backends=backends)
    prepare_testing(street_config, save(street_config), show_dir=str(tmp_path / 'shown'))
    build_runner(street_config).test()
    assert len(list((tmp_path / 'shown').rglob('*.png'))) == 3


def test_pictures_of_other_than_three_bands_are_refused(street_config, tmp_path, save):
    path = save(street_config)
    street_config.model.backbone.in_channels = 6
    with pytest.raises(ConfigError, match='3 bands, but the model takes 6: use'):
        prepare_testing(street_config, path, show_dir=str(tmp_path / 'shown'))


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (dict(out='labels'), 'CityscapesMetric empties its folder .*type=IoUMetric'),
        (dict(show_dir='shown'), '--show-dir paints in one process'),
        (dict(fused=False, precision='high'), '--precision high is for the fused form'),
    ],
)
def test_options_that_would_do_harm_or_nothing_are_refused(
    street_config, save, monkeypatch, options, says
):
    path = save(street_config)
    street_config.test_evaluator.type = 'CityscapesMetric'
    street_config.launcher = 'pytorch'
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ConfigError, match=says):
        prepare_testing(street_config, path, **options)


def test_labels_of_more_than_8_bits_are_refused(street_config, save):
    path = save(street_config)
    classes = [f'class {index}' for index in range(257)]
    dataset = street_config.test_dataloader.dataset
    dataset.update(type='BaseSegDataset', metainfo=dict(classes=classes))
    with pytest.raises(ConfigError, match='of 8 bits, but the test set has 257 classes'):
        prepare_testing(street_config, path, out='labels')


def test_a_missing_key_is_named(full, save):
    full.pop('test_evaluator')
    with pytest.raises(ConfigError, match='no test_evaluator'):
        prepare_testing(full, save(full))


@pytest.mark.parametrize('classes', [('sidewalk', 'road'), ('road',)])
def test_classes_of_other_numbers_are_refused(street_config, save, classes):
    for loader in ('train_dataloader', 'test_dataloader'):
        street_config[loader].dataset.metainfo = dict(classes=classes)
    checkpoint = save(
        street_config, meta=dict(dataset_meta=dict(classes=('road', 'sidewalk')))
    )
    with pytest.raises(ConfigError, match='the classes road, sidewalk, but the test'):
        prepare_testing(street_config, checkpoint)


def test_other_names_of_classes_are_a_warning(street_config, save, logged):
    street_config.test_dataloader.dataset.metainfo = dict(classes=('road', 'car'))
    checkpoint = save(
        street_config, meta=dict(dataset_meta=dict(classes=('road', 'sidewalk')))
    )
    prepare_testing(street_config, checkpoint)
    assert logged[0].endswith('but the test set has road, car')


def test_miou_is_found_by_the_end_of_its_name():
    assert find_miou({'aAcc': 1.0, 'val/mIoU': 2.0}) == 2
    with pytest.raises(ConfigError, match='must give mIoU, but gives mDice'):
        find_miou({'mDice': 1.0})


def test_every_evaluator_of_a_tuple_writes_label_maps(street_config, save, tmp_path):
    evaluator = dict(type='IoUMetric', ignore_index=7)
    street_config.test_evaluator = (evaluator, dict(evaluator))
    prepare_testing(street_config, save(street_config), out=str(tmp_path / 'files'))
    folders = [each.output_dir for each in street_config.test_evaluator]
    assert folders == [str(tmp_path / 'files')] * 2
    assert ignored_label(street_config) == 7


def test_label_maps_of_one_name_are_not_written(street_config, save, tmp_path):
    folder = Path(street_config.test_dataloader.dataset.data_root) / 'leftImg8bit/val'
    image = next(folder.rglob('*.png'))
    for kind, suffix in (('images', '.png'), ('masks', '.png')):
        for sequence in ('a', 'b'):
            path = tmp_path / kind / sequence / f'0001{suffix}'
            path.parent.mkdir(parents=True)
            shutil.copy(image, path)
    street_config.test_dataloader.dataset = dict(
        type='FolderDataset',
        metainfo=dict(classes=('a', 'b')),
        data_prefix=dict(
            img_path=str(tmp_path / 'images'), seg_map_path=str(tmp_path / 'masks')
        ),
        pipeline=[],
    )
    checkpoint = save(street_config)
    prepare_testing(copy.deepcopy(street_config), checkpoint)
    with pytest.raises(ConfigError, match=r'a/0001.png and .*b/0001.png to one file'):
        prepare_testing(street_config, checkpoint, out='files')


@pytest.mark.parametrize(
    ('choices', 'says'),
    [
        (dict(format_only=True), '--format-only needs --out'),
        (dict(split='val', out='files'), '--split needs --format-only'),
    ],
)
def test_options_that_need_another_are_refused(street_config, save, choices, says):
    with pytest.raises(ConfigError, match=says):
        prepare_testing(street_config, save(street_config), **choices)
    assert not Path('files').exists()
