"""DeployHook in a real Runner: evaluations are fused, and trainings unchanged."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS

from mmseg_repvgg import deploy
from mmseg_repvgg.errors import ConfigError, DeployError, ImageError
from mmseg_repvgg.hooks import DeployHook
from mmseg_repvgg.models.comparison import relative_difference
from mmseg_repvgg.reparam import RepConv, is_deployed
from mmseg_repvgg.winograd import WinogradConv2d


class Watch(Hook):
    """Hook that notes the form of runner.model at each stage."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.validated = []
        self.trained = []
        self.fail = False

    def after_val_iter(self, runner, *args, **kwargs):
        self.validated.append(is_deployed(runner.model) and not runner.model.training)
        if self.fail:
            raise KeyboardInterrupt

    after_test_iter = after_val_iter

    def before_train_iter(self, runner, *args, **kwargs):
        self.trained.append(not is_deployed(runner.model))


def build(cfg, **changes):
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(changes)
    runner = Runner.from_cfg(cfg)
    watch = Watch()
    runner.register_hook(watch)
    return runner, watch


def test_val_sees_the_fused_copy_and_training_the_original(street_config):
    runner, watch = build(street_config)
    original = runner.model
    runner.train()
    assert runner.model is original
    assert watch.trained == [True] * 4
    assert watch.validated == [True] * 6
    assert any(isinstance(m, RepConv) for m in original.modules())
    state = torch.load(f'{runner.work_dir}/iter_4.pth', weights_only=False)['state_dict']
    assert 'backbone.stem.conv.branch_3x3.conv.weight' in state


def test_a_loop_whose_iterations_cannot_be_fused_is_refused(street_config):
    class OwnLoop(BaseLoop):
        def run(self):
            pass

    runner, _ = build(street_config)
    runner._val_loop = OwnLoop(runner, runner.val_dataloader)
    with pytest.raises(ConfigError, match='a ValLoop or a TestLoop, but got OwnLoop'):
        runner.train()


EMA = dict(type='EMAHook', momentum=0.5)


def test_training_is_bit_for_bit_what_it_is_without_the_hook(
    street_config, tmp_path, one_thread
):
    results = {}
    for name, hooks in {'with': [dict(type='DeployHook'), EMA], 'without': [EMA]}.items():
        folder = tmp_path / name
        runner, watch = build(
            street_config, work_dir=str(folder), custom_hooks=copy.deepcopy(hooks)
        )
        runner.train()
        assert watch.validated == [name == 'with'] * 6
        results[name] = {
            path.name: torch.load(path, weights_only=False)
            for path in folder.glob('*.pth')
        }
    assert results['with'].keys() == results['without'].keys()
    assert any(name.startswith('best_mIoU') for name in results['with'])
    for name, theirs in results['without'].items():
        ours = results['with'][name]
        for part in ('state_dict', 'ema_state_dict'):
            assert ours[part].keys() == theirs[part].keys()
            for key, value in theirs[part].items():
                assert torch.equal(ours[part][key], value), (name, part, key)
        if 'optimizer' in theirs:  # not in "best"
            for index, state in theirs['optimizer']['state'].items():
                for key, value in state.items():
                    assert torch.equal(ours['optimizer']['state'][index][key], value)


@pytest.mark.parametrize('kind', ['CheckpointHook', 'CrashSafeCheckpointHook'])
def test_checkpoints_do_not_depend_on_priorities(
    street_config, tmp_path, assert_same, kind, one_thread
):
    """The metrics do not either; both use EMA's weights."""
    orders = {
        'usual': {},
        'first': dict(checkpoint='VERY_HIGH', ema='VERY_LOW'),
        'between': dict(checkpoint='BELOW_NORMAL', ema='ABOVE_NORMAL'),
        'last': dict(deploy='HIGHEST'),
    }
    cfg, found = street_config, {}
    cfg.train_cfg.update(max_iters=2, val_interval=1)
    cfg.default_hooks.checkpoint.update(type=kind, interval=1, max_keep_ckpts=-1)
    for name, order in orders.items():
        each = copy.deepcopy(cfg)
        each.custom_hooks = [dict(type='DeployHook'), dict(EMA)]
        hooks = dict(zip(('deploy', 'ema'), each.custom_hooks))
        hooks['checkpoint'] = each.default_hooks.checkpoint
        for key, priority in order.items():
            hooks[key]['priority'] = priority
        runner, watch = build(each, work_dir=str(tmp_path / name))
        runner.train()
        assert watch.validated == [True] * 6
        found[name] = {
            path.name: torch.load(path, weights_only=False)
            for path in (tmp_path / name).glob('*.pth')
        }
    assert any(file.startswith('best_mIoU') for file in found['usual'])
    for theirs in found.values():
        assert theirs.keys() == found['usual'].keys()
        for file, checkpoint in theirs.items():
            for part in ('state_dict', 'ema_state_dict'):
                assert_same(checkpoint[part], found['usual'][file][part], file)


def fused_stem(model):
    return deploy(model).backbone.stem.conv.weight


def test_ema_weights_are_validated(street_config):
    seen = []

    class Look(Hook):
        priority = 'VERY_LOW'

        def after_val_iter(self, runner, *args, **kwargs):
            seen.append(runner.model.backbone.stem.conv.weight.clone())

    runner, _ = build(street_config, custom_hooks=[dict(type='DeployHook'), dict(EMA)])
    runner.register_hook(Look())
    runner.train()
    ema = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    assert torch.equal(seen[-1], fused_stem(ema.ema_model.module))
    assert not torch.equal(seen[-1], fused_stem(runner.model))


@pytest.mark.parametrize('loop', ['val', 'test', 'train'])
def test_any_exception_puts_the_original_back(street_config, loop):
    runner, watch = build(street_config)
    watch.fail = True
    original = runner.model
    with pytest.raises(KeyboardInterrupt):
        getattr(runner, loop)()
    assert watch.validated == [True]
    assert runner.model is original
    # The hook is ready for the next evaluation.
    watch.fail = False
    runner.test()
    assert watch.validated[-1]
    assert runner.model is original


def test_failing_dataloader_puts_the_original_back(street_config):
    street_config.val_dataloader.dataset.pipeline[0] = dict(
        type='LoadCheckedImage', imdecode_backend='no such backend'
    )
    runner, _ = build(street_config)
    original = runner.model
    with pytest.raises(ImageError, match='no such backend'):
        runner.val()
    assert runner.model is original


def test_verify_logs_the_difference(street_config):
    runner, _ = build(street_config)
    runner.test()
    (log,) = (path.read_text() for path in Path(runner.log_dir).glob('*.log'))
    assert 'fused logits differ' in log
    assert 'evaluating the fused model' in log


def test_verify_stops_beyond_the_tolerance(street_config, randomize_norms):
    # Rounding alone is more than this.
    hook = dict(type='DeployHook', tolerance=1e-12)
    runner, watch = build(street_config, custom_hooks=[hook])
    original = randomize_norms(runner.model)
    with pytest.raises(DeployError, match='more than tolerance=1e-12'):
        runner.val()
    assert watch.validated == []
    assert runner.model is original


def test_verify_catches_a_fusion_that_is_wrong(street_config, monkeypatch):
    fuse = RepConv.fuse

    def wrong(self):
        conv = fuse(self)
        conv.dilation, conv.padding = (1, 1), (1, 1)
        return conv

    monkeypatch.setattr(RepConv, 'fuse', wrong)
    runner, _ = build(street_config)
    with pytest.raises(DeployError, match='labels differ on'):
        runner.test()


def test_verify_stops_at_nan(street_config):
    runner, _ = build(street_config)
    runner.model.decode_head.conv_seg.weight.data[0, 0] = float('nan')
    with pytest.raises(DeployError):
        runner.val()


def test_a_model_without_logits_is_evaluated_and_not_verified(street_config):
    runner, watch = build(street_config)
    predict = runner.model.postprocess_result

    def without(*args):
        samples = predict(*args)
        for sample in samples:
            del sample.seg_logits
        return samples

    runner.model.postprocess_result = without
    runner.test()
    assert watch.validated == [True] * 3
    (log,) = (path.read_text() for path in Path(runner.log_dir).glob('*.log'))
    assert 'the forms are not compared' in log


def test_without_verify_the_model_runs_once(street_config):
    runner, _ = build(street_config, custom_hooks=[dict(type='DeployHook', verify=False)])
    calls = []
    runner.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    runner.test()
    assert len(calls) == 3


def test_test_time_augmentation_runs_fused(street_config):
    cfg = street_config
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(type='SegTTAModel', module=cfg.model)
    runner, watch = build(cfg)
    original = runner.model
    metrics = runner.test()
    assert watch.validated == [True] * 3
    assert runner.model is original
    assert 'mIoU' in metrics


def test_a_fused_model_is_left_unchanged(street_config):
    street_config.model.backbone.deploy = True
    runner, watch = build(street_config)
    original = runner.model
    runner.test()
    assert runner.model is original
    assert watch.validated == [True] * 3


@pytest.mark.parametrize('fused', [False, True], ids=['training form', 'fused'])
def test_an_engine_computes_the_evaluation(street_config, fused, randomize_norms):
    street_config.model.backbone.deploy = fused
    logits = {}
    for engine in ('torch', 'winograd'):
        hook = dict(type='DeployHook', engine=engine)
        runner, _ = build(street_config, custom_hooks=[hook])
        torch.manual_seed(1)
        original = randomize_norms(runner.model)
        for module in original.backbone.modules():
            if isinstance(module, torch.nn.Conv2d):
                # A fused one begins with weights too small to matter.
                torch.nn.init.kaiming_normal_(module.weight)
        seen, found = [], []

        class Look(Hook):
            priority = 'VERY_LOW'

            def after_test_iter(
                self, runner, batch_idx, data_batch, outputs, seen=seen, found=found
            ):
                modules = runner.model.modules()
                seen.append(sum(isinstance(m, WinogradConv2d) for m in modules))
                found.append(outputs[0].seg_logits.data.clone())

        runner.register_hook(Look())
        runner.test()
        logits[engine] = found
        assert runner.model is original
        assert seen == [0 if engine == 'torch' else max(seen)] * 3
    assert max(seen) == 8  # those of stride 1 with 32 channels or more
    for found, expected in zip(logits['winograd'], logits['torch'], strict=True):
        assert len(expected.argmax(0).unique()) > 1
        assert relative_difference(found, expected) < 1e-5


def test_bad_engine_is_named():
    with pytest.raises(ValueError, match="'winograd', 'auto'.*, but got 'tensorrt'"):
        DeployHook(engine='tensorrt')


def test_bad_tolerance_is_named():
    with pytest.raises(ValueError, match='positive, but got -1'):
        DeployHook(tolerance=-1)


def test_hook_is_registered():
    assert HOOKS.get('DeployHook') is DeployHook
