"""Mistakes in a config are found before a training starts."""

import pytest

from mmseg_repvgg.engine import config_checks
from mmseg_repvgg.engine.accumulation import accumulate
from mmseg_repvgg.engine.config_checks import check_backbone, check_classes, check_norms
from mmseg_repvgg.engine.training import recipe_warnings
from mmseg_repvgg.errors import ConfigError


@pytest.mark.parametrize('head', ['decode_head', 'auxiliary_head'])
def test_a_head_of_fewer_classes_is_refused(street_config, head):
    street_config.model[head].num_classes = 18
    with pytest.raises(ConfigError, match=rf'model\.{head}\.num_classes is 18.* 19'):
        check_classes(street_config)


def test_a_head_of_more_classes_is_a_warning(street_config):
    assert check_classes(street_config) == []
    street_config.model.decode_head.num_classes = 20
    (warning,) = check_classes(street_config)
    assert 'model.decode_head.num_classes is 20' in warning
    assert warning in recipe_warnings(street_config)


def test_every_head_and_every_data_set_is_checked(street_config):
    model, loader = street_config.model, street_config.train_dataloader
    model.decode_head = [model.decode_head, {**model.decode_head, 'num_classes': 20}]
    (warning,) = check_classes(street_config)
    assert 'model.decode_head[1].num_classes is 20' in warning
    names = [str(i) for i in range(21)]
    more = dict(loader.dataset, type='BaseSegDataset', metainfo=dict(classes=names))
    both = dict(type='ConcatDataset', datasets=[loader.dataset, more])
    loader.dataset = dict(type='RepeatDataset', times=2, dataset=both)
    with pytest.raises(ConfigError, match='19, but BaseSegDataset has 21 classes'):
        check_classes(street_config)


def test_the_two_classes_of_an_edge_head_are_not_compared(street_config):
    street_config.model.auxiliary_head.update(type='STDCHead', num_classes=2)
    assert check_classes(street_config) == []


def one_image_at_once(cfg, **norm):
    cfg.train_dataloader.batch_size = 1
    for part in ('backbone', 'decode_head', 'auxiliary_head'):
        cfg.model[part].norm_cfg = dict(requires_grad=True, **norm)


def test_one_image_is_too_few_for_a_norm_behind_pooling(street_config):
    one_image_at_once(street_config, type='BN')
    with pytest.raises(ConfigError, match=r'decode_head .* single value'):
        check_norms(street_config)
    street_config.train_dataloader.batch_size = 4
    check_norms(street_config)
    accumulate(street_config, 8)
    check_norms(street_config)
    street_config.optim_wrapper.accumulative_counts = 8
    with pytest.raises(ConfigError, match='single value'):
        check_norms(street_config)


def test_widths_of_the_default_architecture_are_checked(street_config):
    street_config.model.backbone.pop('arch')
    says = r'decode_head.in_channels is \d+, but output 3 of the backbone has 2560'
    with pytest.raises(ConfigError, match=says):
        check_backbone(street_config)


def test_an_auxiliary_head_is_checked(street_config):
    one_image_at_once(street_config, type='BN')
    model = street_config.model
    model.decode_head, model.auxiliary_head = model.auxiliary_head, model.decode_head
    with pytest.raises(ConfigError, match=r'auxiliary_head .* single value'):
        check_norms(street_config)


@pytest.mark.parametrize(
    ('head', 'more'),
    [
        ('ASPPHead', dict(in_index=3, in_channels=1280, dilations=(1, 6))),
        ('UPerHead', dict(in_index=[2, 3], in_channels=[192, 1280])),
    ],
)
def test_other_heads_that_pool(street_config, head, more):
    one_image_at_once(street_config, type='BN')
    norm = dict(type='BN')
    head = dict(type=head, num_classes=19, channels=8, norm_cfg=norm, **more)
    street_config.model.decode_head = head
    with pytest.raises(ConfigError, match=r'decode_head .* single value'):
        check_norms(street_config)


def test_one_image_is_enough_where_nothing_is_pooled(street_config):
    one_image_at_once(street_config, type='BN')
    street_config.model.decode_head = street_config.model.pop('auxiliary_head')
    check_norms(street_config)


def test_one_image_is_enough_for_other_norms(street_config):
    one_image_at_once(street_config, type='GN', num_groups=1)
    street_config.model.backbone.norm_cfg = dict(type='BN')
    check_norms(street_config)


def test_sync_bn_sees_the_images_of_all_gpus(street_config, monkeypatch):
    one_image_at_once(street_config, type='SyncBN')
    with pytest.raises(ConfigError, match='single value'):
        check_norms(street_config)
    street_config.launcher = 'pytorch'
    monkeypatch.setenv('WORLD_SIZE', '2')
    # Without a GPU, SyncBN becomes BN.
    with pytest.raises(ConfigError, match='single value'):
        check_norms(street_config)
    monkeypatch.setattr(config_checks, 'get_device', lambda: 'cuda')
    check_norms(street_config)
    street_config.model.decode_head.norm_cfg = dict(type='BN')
    with pytest.raises(ConfigError, match='single value'):
        check_norms(street_config)


def test_one_image_is_enough_where_no_pool_is_a_single_pixel(street_config):
    one_image_at_once(street_config, type='BN')
    street_config.model.decode_head.pool_scales = (2, 3, 6)
    check_norms(street_config)


def test_norms_that_imported_code_may_freeze_are_not_checked(street_config):
    one_image_at_once(street_config, type='BN')
    street_config.custom_imports.imports.append('own_hooks')
    check_norms(street_config)


@pytest.mark.parametrize(
    ('key', 'value', 'says'),
    [
        ('pretrained', 'resnet.pth', 'model.pretrained names weights of another'),
        ('backbone.depth', 50, 'RepVGG takes no depth, but arch, .* set _delete_=True'),
        ('decode_head.in_channels', 7, r'in_channels is 7, but output 3 .* 128'),
        ('auxiliary_head.in_index', 0, r'but output 0 of the backbone has \d+ channels'),
    ],
)
def test_leftovers_of_another_backbone_are_refused(street_config, key, value, says):
    check_backbone(street_config)
    street_config.merge_from_dict({f'model.{key}': value})
    with pytest.raises(ConfigError, match=says):
        check_backbone(street_config)
