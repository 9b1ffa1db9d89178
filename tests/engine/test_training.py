"""Preparing a training: what runs is what the config says."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import CheckpointLoader
from yapf.yapflib import yapf_api

from mmseg_repvgg.checkpoints import mmengine_patch
from mmseg_repvgg.checkpoints.files import read_checkpoint
from mmseg_repvgg.engine.accumulation import accumulate
from mmseg_repvgg.engine.precision import use_amp
from mmseg_repvgg.engine.runner import build_runner
from mmseg_repvgg.engine.training import prepare_training, recipe_warnings
from mmseg_repvgg.errors import CheckpointError, ConfigError, TrainingError
from mmseg_repvgg.hooks import CrashSafeCheckpointHook, DeployHook, LoadHook, SampleHook

NEEDED = {'model', 'train_dataloader', 'train_cfg', 'optim_wrapper'}
VAL = ('val_dataloader', 'val_cfg', 'val_evaluator')
TEST = ('test_dataloader', 'test_cfg', 'test_evaluator')


@pytest.fixture(autouse=True)
def _dumps_are_not_beautified(monkeypatch):
    """Skip what takes most of the time of a short training."""
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, **_: (text, True))


@pytest.fixture
def prepare(load):
    def prepare(cfg, folder, **options):
        folder.mkdir(exist_ok=True)
        cfg.dump(folder / 'config.py')
        cfg = load(folder / 'config.py', work_dir=str(folder / 'work'))
        resume_from = prepare_training(cfg, **options)
        recipe_warnings(cfg)
        return cfg, resume_from

    return prepare


@pytest.fixture
def train(prepare):
    def train(cfg, folder, **options):
        cfg, resume_from = prepare(cfg, folder, **options)
        runner = build_runner(cfg, resume_from=resume_from)
        runner.train()
        return runner

    return train


# Settings of the config ---------------------------------------------------------------


def test_types_may_be_written_in_any_way(typed_config):
    config = typed_config
    # The recipe of the paper, which starts from ImageNet weights, is the one with SGD.
    config.optim_wrapper.optimizer.type = 'SGD'
    assert 'the backbone starts from random weights' in ' '.join(recipe_warnings(config))
    use_amp(config, 'bfloat16')
    accumulate(config, 2)
    prepare_training(config)
    runner = build_runner(config)
    for kind in (DeployHook, LoadHook):
        assert sum(isinstance(hook, kind) for hook in runner.hooks) == 1


def test_every_key_can_be_left_out(full, tmp_path, prepare, train):
    """Each alone, and one after the other until none is left."""
    optional = [(key,) for key in full if key not in {*NEEDED, *VAL, *TEST}]
    fewer = copy.deepcopy(full)
    for number, keys in enumerate([*optional, VAL, TEST]):
        alone = copy.deepcopy(full)
        for key in keys:
            alone.pop(key), fewer.pop(key)
        prepare(alone, tmp_path / f'alone_{number}')
        train(fewer, tmp_path / f'fewer_{number}')
    assert set(fewer) == NEEDED


@pytest.mark.parametrize(
    'key',
    [
        *('default_hooks', 'custom_hooks', 'visualizer', 'param_scheduler'),
        *('auto_scale_lr', 'log_processor', 'load_from', 'default_scope'),
    ],
)
def test_a_key_can_be_none(full, tmp_path, train, key):
    full[key] = None
    train(full, tmp_path)


def test_each_default_hook_can_be_turned_off(full, tmp_path, train):
    of_mmengine = ('timer', 'sampler_seed', 'param_scheduler')
    for name in (*full.default_hooks, *of_mmengine):
        cfg, folder = copy.deepcopy(full), tmp_path / name
        cfg.default_hooks[name] = None
        hooks = train(cfg, folder).hooks
        saves = any(isinstance(hook, CrashSafeCheckpointHook) for hook in hooks)
        assert saves == (name != 'checkpoint')
        assert bool(list(folder.glob('work/*.pth'))) == saves
        samples = any(isinstance(hook, SampleHook) for hook in hooks)
        assert samples == (name != 'samples')


@pytest.fixture
def barest(full):
    bare = {key: full[key] for key in NEEDED}
    bare['optim_wrapper'] = dict(optimizer=dict(type='SGD', lr=0.01))
    bare['train_cfg'] = dict(by_epoch=False, max_iters=1)
    del bare['train_dataloader']['batch_size']
    del bare['model']['decode_head'], bare['model']['auxiliary_head']
    # PSPNet's pooling cannot train on one image at once.
    head = dict(type='FCNHead', in_channels=64, in_index=3, channels=8, num_classes=19)
    bare['model']['decode_head'] = head
    return Config(bare)


def test_only_the_load_hook_is_added_to_a_config(barest, tmp_path, train):
    runner = train(barest, tmp_path)
    ours = [h for h in runner.hooks if type(h).__module__.startswith('mmseg_repvgg')]
    assert [type(hook) for hook in ours] == [LoadHook]
    assert {CheckpointHook} == {type(h) for h in runner.hooks if hasattr(h, 'save_best')}


def test_the_barest_config_trains_and_resumes(barest, tmp_path, train):
    assert train(barest, tmp_path).iter == 1
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()
    barest.train_cfg.max_iters = 2
    assert train(barest, tmp_path, resume=True).iter == 2


@pytest.mark.parametrize('options', [dict(global_batch=4), dict(amp='bfloat16')])
def test_options_work_with_the_barest_config(barest, tmp_path, train, options):
    assert train(barest, tmp_path, **options).iter == 1


def test_scaling_the_learning_rate_needs_the_batch_it_is_for(barest, tmp_path, prepare):
    with pytest.raises(ConfigError, match=r'auto_scale_lr\.base_batch_size'):
        prepare(barest, tmp_path, auto_scale_lr=True)


@pytest.mark.parametrize('key', ['train_dataloader', 'train_cfg', 'optim_wrapper'])
def test_a_missing_key_is_named(barest, tmp_path, train, key):
    barest.pop(key)
    with pytest.raises(ConfigError, match=f'no {key}'):
        train(barest, tmp_path)


def test_a_recipe_is_recognised_through_wrapped_data_sets(street_config):
    street_config.optim_wrapper.optimizer.type = 'SGD'
    loader = street_config.train_dataloader
    loader.dataset = dict(type='RepeatDataset', times=2, dataset=loader.dataset)
    warnings = ' '.join(recipe_warnings(street_config))
    assert 'the backbone starts from random weights' in warnings


# Mistakes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('option', 'value', 'error', 'says'),
    [
        ('custom_hooks.0.engine', 'wino', ConfigError, "engine must be one.* got 'wino'"),
        ('default_hooks.samples.count', -1, ConfigError, 'at least 0, but got -1'),
        (
            'model.backbone.dilaton',
            'full',
            ConfigError,
            'takes no dilaton, but arch, ',
        ),
        ('model.backbone.type', 'RepVG', KeyError, 'RepVG is not in the mmseg::model re'),
        ('train_dataloader.dataset.type', 'City', KeyError, 'City is not in the mmseg::'),
        ('optim_wrapper.optimizer.momentumm', 1, TypeError, "argument 'momentumm'"),
        ('param_scheduler.0.typ', 1, TypeError, "keyword argument 'typ'"),
    ],
)
def test_the_error_of_a_wrong_option_names_it(
    street_config_file, load, option, value, error, says
):
    def start():
        cfg = load(street_config_file, **{option: value})
        prepare_training(cfg)
        build_runner(cfg).train()

    with pytest.raises(error, match=says):
        start()


def test_options_that_no_run_reads_are_named(street_config_file, load, logged):
    load(street_config_file, find_unused_parameters=True)
    load(street_config_file, max_iters=2, **{'optim_wraper.optimizer.lr': 3})
    assert sorted(logged) == [
        '--cfg-options max_iters changes nothing that a run reads',
        '--cfg-options optim_wraper changes nothing that a run reads. Did you mean '
        'optim_wrapper?',
    ]


def test_data_sets_of_different_classes_are_refused(street_config):
    street_config.val_dataloader.dataset.metainfo = dict(classes=('road', 'car'))
    says = '19 in train_dataloader and 2 in val_dataloader'
    with pytest.raises(ConfigError, match=says):
        prepare_training(street_config)


def test_accumulated_batches_count_for_the_learning_rate(full, tmp_path, prepare):
    full.auto_scale_lr = dict(enable=False, base_batch_size=8)
    full.optim_wrapper.accumulative_counts = 4
    cfg, _ = prepare(full, tmp_path, auto_scale_lr=True)
    assert cfg.auto_scale_lr.base_batch_size == 2
    cfg, _ = prepare(cfg, tmp_path / 'again', auto_scale_lr=True)
    assert cfg.auto_scale_lr.base_batch_size == 2


def test_a_global_batch_takes_the_place_of_accumulated_ones(full, tmp_path, prepare):
    full.auto_scale_lr = dict(enable=False, base_batch_size=8)
    full.optim_wrapper.accumulative_counts = 4
    cfg, _ = prepare(full, tmp_path, auto_scale_lr=True, global_batch=16)
    # mmengine multiplies the learning rate by the quotient of these.
    assert cfg.train_dataloader.batch_size == 16
    assert cfg.auto_scale_lr.base_batch_size == 8


# Checkpoints --------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """Return the paths that are read from disk."""
    paths = []

    def read(path, **options):
        paths.append(Path(path).name)
        return read_checkpoint(path, **options)

    monkeypatch.setattr(mmengine_patch, 'read_checkpoint', read)
    return paths


def test_a_checkpoint_is_read_once(barest, tmp_path, train, save, reads):
    barest.load_from = save(barest)
    train(barest, tmp_path)
    assert reads == ['whole.pth']
    barest.load_from, barest.train_cfg.max_iters = None, 2
    train(barest, tmp_path, resume=True)
    assert reads == ['whole.pth', 'epoch_1.pth']


def test_a_checkpoint_that_is_replaced_is_read_again(barest, save, reads):
    path = save(barest)
    first = mmengine_patch.read_ahead(path)
    assert mmengine_patch.read_ahead(path) is first
    barest.model.decode_head.num_classes = 20
    save(barest)
    mmengine_patch.make_loading_safe()
    loaded = CheckpointLoader.load_checkpoint(path, logger=None)
    assert len(loaded['state_dict']['decode_head.conv_seg.bias']) == 20
    assert reads == ['whole.pth'] * 2


def test_an_unreadable_checkpoint_is_refused_before_anything_is_written(
    street_config, tmp_path
):
    (tmp_path / 'torn.pth').write_bytes(b'PK')
    street_config.load_from = str(tmp_path / 'torn.pth')
    with pytest.raises(CheckpointError, match=r'torn\.pth cannot be read'):
        prepare_training(street_config)
    assert [p.name for p in Path(street_config.work_dir).iterdir()] == ['training.lock']


@pytest.mark.parametrize('strict', [None, False, True])
@pytest.mark.parametrize('resume', [False, True])
def test_a_resumed_checkpoint_has_to_fill_the_model(
    barest, tmp_path, train, save, resume, strict
):
    """The config may be a dump of the first run, with strict=False."""
    barest.model.decode_head.num_classes = 20
    barest.load_from = save(barest, meta=dict(epoch=0, iter=0), optimizer={})
    barest.model.decode_head.num_classes, barest.resume = 19, resume
    barest.custom_hooks = [dict(type='LoadHook', strict=strict)] * (strict is not None)
    if resume or strict:
        with pytest.raises(CheckpointError, match=r'whole\.pth: .*does not fit the mod'):
            train(barest, tmp_path)
    else:
        assert train(barest, tmp_path).iter == 1


def test_a_resumed_run_keeps_its_seed(barest, save):
    barest.load_from, barest.resume = save(barest, meta=dict(seed=123)), True
    barest.work_dir = str(Path(barest.load_from).parent)
    prepare_training(barest)
    assert barest.randomness.seed == 123
    assert torch.initial_seed() != 123


def test_another_training_is_not_overwritten_unless_asked(barest, tmp_path, train):
    train(barest, tmp_path)
    train(barest, tmp_path)  # The same config trains anew in place.
    (tmp_path / 'work' / 'config.py').rename(tmp_path / 'work' / 'another.py')
    before = (tmp_path / 'work' / 'epoch_1.pth').read_bytes()
    with pytest.raises(TrainingError, match='holds the training of another config'):
        train(barest, tmp_path)
    assert (tmp_path / 'work' / 'epoch_1.pth').read_bytes() == before
    assert train(barest, tmp_path, overwrite=True).iter == 1


def test_the_config_of_a_resumed_run_starts_anew(full, tmp_path, train):
    full.train_cfg.update(max_iters=1, val_interval=9)
    full.default_hooks.checkpoint.interval = 1
    train(full, tmp_path)
    full.train_cfg.max_iters = 2
    runner = train(full, tmp_path, resume=True)
    assert runner.iter == 2
    dumped = Config.fromfile(tmp_path / 'work' / 'config.py')
    assert (dumped.load_from, dumped.resume) == (None, False)


def test_one_scheduler_without_a_list_resumes(full, tmp_path, train):
    full.train_cfg.update(max_iters=1, val_interval=9)
    full.default_hooks.checkpoint.interval = 1
    full.param_scheduler = dict(type='PolyLR', power=0.9, end=3, by_epoch=False)
    full.auto_scale_lr = None
    train(full, tmp_path)
    full.train_cfg.max_iters = 2
    full.optim_wrapper.optimizer.lr *= 2
    assert train(full, tmp_path, resume=True).iter == 2


def test_resuming_a_complete_training_says_so(full, tmp_path, train, prepare, logged):
    full.train_cfg.update(max_iters=1, val_interval=9)
    full.default_hooks.checkpoint.interval = 1
    train(full, tmp_path)
    prepare(full, tmp_path, resume=True)
    assert any('the training is complete: 1 iterations' in said for said in logged)


def test_another_schedule_when_resuming_is_a_warning(full, tmp_path, train, capsys):
    full.train_cfg.update(max_iters=1, val_interval=9)
    full.default_hooks.checkpoint.interval = 1
    full.param_scheduler = [dict(type='PolyLR', power=0.9, end=2, by_epoch=False)]
    train(full, tmp_path)
    full.train_cfg.max_iters = 2
    train(full, tmp_path, resume=True)
    assert 'keeps the schedule' not in capsys.readouterr().out
    full.train_cfg.max_iters = full.param_scheduler[0].end = 3
    full.optim_wrapper.optimizer.lr *= 2
    train(full, tmp_path, resume=True)
    said = ' '.join(capsys.readouterr().out.split())
    rate = full.optim_wrapper.optimizer.lr
    assert f'the learning rate {rate}, PolyLR to iteration 3, not 2' in said


def test_resuming_in_an_empty_folder_is_a_warning(full, tmp_path, prepare, logged):
    prepare(full, tmp_path, resume=True)
    (said,) = logged
    assert f'no checkpoint in {tmp_path}/work: the training starts anew' in said
