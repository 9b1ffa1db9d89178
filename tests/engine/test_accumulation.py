"""Global batches: the same training whatever fits at once, and its learning rate."""

import pytest
import torch

from mmseg_repvgg.engine.accumulation import accumulate, split_batch
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.training import prepare_training, recipe_warnings
from mmseg_repvgg.errors import ConfigError


@pytest.fixture
def defined_config(street_config):
    """Freeze norms and dropout, so that a mean over parts is the mean over the batch."""
    cfg = street_config
    cfg.model.backbone.norm_eval = True
    # Frozen norms don't normalise, so three branches of weight 1 would explode.
    cfg.model.backbone.init_cfg = [
        dict(type='Kaiming', layer='Conv2d'),
        dict(type='Constant', layer='_BatchNorm', val=0.5),
    ]
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.norm_cfg = None
        head.dropout_ratio = 0
        # Otherwise a part with few labelled pixels weighs as much as one with many.
        head.loss_decode.avg_non_ignore = False
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.01, momentum=0.9)
    return cfg


def train(cfg, tmp_path, name, fits, global_batch, iterations=4, **options):
    """Train; return the Runner and the loss and learning rate of every iteration."""
    cfg = cfg.copy()
    cfg.work_dir = str(tmp_path / name)
    cfg.train_cfg.max_iters = iterations
    cfg.train_dataloader.batch_size = fits
    resume_from = prepare_training(cfg, global_batch=global_batch, **options)
    runner = build_runner(cfg, resume_from=resume_from)
    runner.train()
    history = runner.message_hub.log_scalars
    return runner, {
        name: torch.tensor(history[f'train/{name}'].data[0]) for name in ('loss', 'lr')
    }


def test_accumulated_parts_train_as_the_whole_batch(defined_config, tmp_path):
    whole, expected = train(defined_config, tmp_path, 'whole', 4, None)
    parts, got = train(defined_config, tmp_path, 'parts', 2, 4)
    assert type(parts.train_loop).__name__ == 'AccumulatingTrainLoop'
    assert parts.iter == whole.iter == 4
    torch.testing.assert_close(got['loss'], expected['loss'], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got['lr'], expected['lr'], rtol=0, atol=0)
    assert not torch.equal(got['loss'][0], got['loss'][-1])
    weights = whole.model.state_dict()
    for name, weight in parts.model.state_dict().items():
        if weight.is_floating_point():
            torch.testing.assert_close(weight, weights[name], rtol=1e-5, atol=1e-6)


def test_resuming_is_exact(defined_config, tmp_path, one_thread):
    """A checkpoint is never saved between two parts of a batch."""
    straight, _ = train(defined_config, tmp_path, 'straight', 1, 3)
    halfway = defined_config.copy()
    train(halfway, tmp_path, 'resumed', 1, 3, iterations=2)
    resumed, _ = train(defined_config, tmp_path, 'resumed', 1, 3, resume=True)
    expected = straight.model.state_dict()
    for name, weight in resumed.model.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_split_batch():
    batch = {'inputs': [1, 2, 3, 4], 'data_samples': list('abcd')}
    assert split_batch(batch, 2) == [
        {'inputs': [1, 2], 'data_samples': ['a', 'b']},
        {'inputs': [3, 4], 'data_samples': ['c', 'd']},
    ]
    with pytest.raises(ConfigError, match='gave 4 images'):
        split_batch(batch, 3)


def batch_warnings(cfg):
    return [w for w in recipe_warnings(cfg) if 'batch size' in w]


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
    assert not batch_warnings(street_config)


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
    (warning,) = batch_warnings(street_config)
    assert 'is 2' in warning
    assert 'meant for 8' in warning
    assert '--global-batch 8' in warning
    assert '--auto-scale-lr' in warning
