"""A loss that is not finite stops the training and reaches no checkpoint."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmseg_repvgg.errors import TrainingError
from mmseg_repvgg.hooks import FiniteHook


class Poison(Hook):
    """Hook that sets weights to NaN before a given iteration."""

    def __init__(self, iteration, name):
        self.iteration, self.name = iteration, name

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            with torch.no_grad():
                runner.model.state_dict()[self.name].fill_(float('nan'))


def train(cfg, poison, **hook):
    cfg.custom_hooks = [dict(type='FiniteHook', **hook)]
    runner = Runner.from_cfg(cfg)
    runner.register_hook(poison)
    runner.train()


@pytest.mark.parametrize('interval', [1, 1000])
def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(street_config, interval):
    poison = Poison(2, 'backbone.stem.conv.branch_3x3.conv.weight')
    with pytest.raises(TrainingError, match=r'(?s)nan.*iter_2\.pth.*learning rate'):
        train(street_config, poison, interval=interval)
    folder = Path(street_config.work_dir)
    assert [path.name for path in folder.glob('iter_*.pth')] == ['iter_2.pth']
    state = torch.load(folder / 'iter_2.pth', weights_only=False)['state_dict']
    assert all(torch.isfinite(v).all() for v in state.values())


def test_weights_that_no_loss_shows_are_not_saved(street_config):
    # Running statistics affect every evaluation, but not the training loss.
    poison = Poison(1, 'backbone.stem.conv.branch_3x3.bn.running_var')
    with pytest.raises(TrainingError, match='running_var is nan'):
        train(street_config, poison)
    assert not list(Path(street_config.work_dir).glob('*.pth'))


def test_bad_interval_is_named():
    with pytest.raises(ValueError, match='at least 1, but got 0'):
        FiniteHook(interval=0)
