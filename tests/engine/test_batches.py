"""Global batch sizes, and the learning rate for them."""

import pytest

from mmseg_repvgg.engine.batches import accumulate
from mmseg_repvgg.engine.training import prepare_training, recipe_warnings
from mmseg_repvgg.errors import ConfigError


def batch_warnings(cfg, processes):
    return [w for w in recipe_warnings(cfg, processes) if 'batch size' in w]


@pytest.mark.parametrize(
    ('fits', 'global_batch', 'processes', 'batch', 'parts'),
    [
        (2, 16, 1, 16, 8),
        (2, 16, 4, 4, 2),
        (2, 16, 8, 2, 1),
        (2, 16, 16, 1, 1),
        (3, 12, 2, 6, 2),
    ],
)
def test_each_process_gets_its_share(
    street_config, monkeypatch, fits, global_batch, processes, batch, parts
):
    street_config.launcher = 'pytorch'
    street_config.train_dataloader.batch_size = fits
    monkeypatch.setenv('WORLD_SIZE', str(processes))
    accumulate(street_config, global_batch)
    assert street_config.train_dataloader.batch_size == batch
    assert street_config.optim_wrapper.accumulative_counts == parts
    # mmengine scales the learning rate by this, and the warning is about it.
    street_config.auto_scale_lr.base_batch_size = global_batch
    assert not batch_warnings(street_config, processes)


@pytest.mark.parametrize('global_batch', [0, -4, 3, 7])
def test_an_uneven_batch_is_refused(street_config, global_batch):
    with pytest.raises(
        ConfigError, match=f'--global-batch {global_batch} .*batch_size=2'
    ):
        prepare_training(street_config, global_batch=global_batch)


def test_training_by_epochs_is_refused(street_config):
    street_config.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
    with pytest.raises(ConfigError, match="'EpochBasedTrainLoop'"):
        prepare_training(street_config, global_batch=4)


def test_another_batch_size_is_a_warning(street_config):
    (warning,) = batch_warnings(street_config, 1)
    assert 'is 2' in warning
    assert 'meant for 8' in warning
    assert '--global-batch 8' in warning
    assert '--auto-scale-lr' in warning
