"""SIGTERM is handled while a training runs, and as before afterwards.

``tests/test_crashes.py`` tests what is saved.
"""

import signal
from contextlib import nullcontext

import pytest
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmseg_repvgg.hooks import TerminationHook


class Fails(Hook):
    def __init__(self, error):
        self.error, self.during = error, None

    def after_train_iter(self, runner, *args, **kwargs):
        self.during = signal.getsignal(signal.SIGTERM)
        if self.error is not None:
            raise self.error


def mine(number, frame):
    """Handler of the program around the training."""


@pytest.mark.parametrize(
    ('error', 'before'),
    [(None, mine), (RuntimeError(), mine), (KeyboardInterrupt(), signal.SIG_IGN)],
)
def test_the_previous_handler_is_restored(street_config, error, before):
    street_config.custom_hooks = [dict(type='TerminationHook')]
    street_config.train_cfg.update(max_iters=1, val_interval=9)
    runner, fails = Runner.from_cfg(street_config), Fails(error)
    runner.register_hook(fails)
    usual = signal.signal(signal.SIGTERM, before)
    try:
        with pytest.raises(type(error)) if error else nullcontext():
            runner.train()
        assert fails.during.__func__ is TerminationHook._ask
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, usual)


def test_it_exits_without_a_checkpoint_hook_too(street_config):
    street_config.custom_hooks = [dict(type='TerminationHook')]
    street_config.default_hooks.checkpoint = None

    class Ends(Hook):
        def after_train_iter(self, runner, *args, **kwargs):
            signal.raise_signal(signal.SIGTERM)

    runner = Runner.from_cfg(street_config)
    runner.register_hook(Ends())
    with pytest.raises(SystemExit) as caught:
        runner.train()
    assert caught.value.code == 143


def test_a_handler_from_outside_python_becomes_the_default(street_config, monkeypatch):
    """Python returns None for it and cannot restore it."""
    street_config.custom_hooks = [dict(type='TerminationHook')]
    street_config.train_cfg.update(max_iters=1, val_interval=1)
    runner, fails = Runner.from_cfg(street_config), Fails(None)
    runner.register_hook(fails)
    install, usual = signal.signal, signal.getsignal(signal.SIGTERM)

    def as_of_c(number, handler):
        return None if install(number, handler) is mine else mine

    install(signal.SIGTERM, mine)
    monkeypatch.setattr(signal, 'signal', as_of_c)
    try:
        runner.train()
        assert fails.during.__func__ is TerminationHook._ask
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        install(signal.SIGTERM, usual)
