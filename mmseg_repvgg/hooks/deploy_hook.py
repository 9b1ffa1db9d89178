"""Hook that evaluates the fused model."""

from functools import partial
from typing import Any

from mmengine.device import get_device
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import BaseLoop, Runner, TestLoop, ValLoop
from mmseg.registry import HOOKS
from torch import nn

from ..errors import ConfigError
from ..models.comparison import LOGIT_TOLERANCES, check_fused
from ..reparam import deploy, is_deployed
from ..winograd import WinogradConv2d
from ..winograd.engines import check_engine
from .same_buffers_hook import SameBuffersHook


@HOOKS.register_module()
class DeployHook(Hook):
    """Hook that validates and tests a deployed copy of the model.

    The copy is in ``runner.model`` during each iteration of a validation or a test, and
    the original at any other time. EMAHook swaps its weights in before the first
    iteration and CheckpointHook saves after the last one, whatever their priorities.

    Args:
        verify: Whether to run the first batch of each evaluation through both forms, log
            how far they differ, and stop if this is beyond ``tolerance``.
        tolerance: Largest allowed difference of a logit, relative to the largest
            absolute logit; default 1e-3, and 5e-2 for ``precision='medium'``.
        engine: What computes the fused model, see :func:`~mmseg_repvgg.deploy`.
        precision: Precision of the Winograd engine, see :func:`~mmseg_repvgg.deploy`.

    Raises:
        DeployError: From the evaluation, if the forms differ beyond ``tolerance``.
    """

    priority = 'LOW'

    def __init__(
        self,
        verify: bool = True,
        tolerance: float | None = None,
        engine: str = 'torch',
        precision: str = 'highest',
    ) -> None:
        check_engine(engine, precision)
        if tolerance is None:
            tolerance = LOGIT_TOLERANCES[precision]
        if not tolerance > 0:
            raise ConfigError(f'tolerance must be positive, but got {tolerance!r}')
        self.verify, self.tolerance = verify, tolerance
        self.engine, self.precision = engine, precision
        self._deployed: nn.Module | None = None
        self._original: nn.Module | None = None

    def before_run(self, runner: Runner) -> None:
        """Wrap the iterations of validation and test, and order the hooks."""
        if self.engine == 'winograd' and get_device() != 'cpu':
            raise ConfigError(
                "DeployHook(engine='winograd') computes on a CPU, but the model is on "
                f"{get_device()}: use engine='torch'"
            )
        for loop in (runner._val_loop, runner._test_loop):
            # A loop that this run does not use is still a config or None.
            if isinstance(loop, (ValLoop, TestLoop)):
                run_iter = partial(self._run_iter, runner, loop)
                loop.run_iter = run_iter  # type: ignore[method-assign]
            elif isinstance(loop, BaseLoop):
                raise ConfigError(
                    'DeployHook needs a loop that is a ValLoop or a TestLoop, but got '
                    f'{type(loop).__name__}'
                )
        _save_after_ema(runner)

    def _run_iter(
        self, runner: Runner, loop: Any, batch_idx: int, data_batch: Any
    ) -> None:
        if batch_idx == 0:
            self._deployed = self._deploy(runner, data_batch)
        if self._deployed is not None:
            self._original, runner.model = runner.model, self._deployed
        try:
            type(loop).run_iter(loop, batch_idx, data_batch)
        finally:
            self.restore(runner)

    def restore(self, runner: Runner) -> None:
        """Put the original back into ``runner.model``, if a copy is in its place."""
        if self._original is not None:
            runner.model, self._original = self._original, None

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Free the copy."""
        self._deployed = None

    after_test_epoch = after_val_epoch

    def _deploy(self, runner: Runner, data_batch: Any) -> nn.Module | None:
        if is_deployed(runner.model) and self.engine == 'torch':
            runner.logger.info('DeployHook: the model has nothing to fuse')
            return None
        deployed = deploy(runner.model, self.engine, self.precision)
        count = sum(isinstance(m, WinogradConv2d) for m in deployed.modules())
        by_winograd = f', {count} of its convs by Winograd'
        by = by_winograd if self.engine in ('winograd', 'auto') else ''
        runner.logger.info(f'DeployHook: evaluating the fused model{by}')
        if self.verify:
            try:
                found = check_fused(runner.model, deployed, data_batch, self.tolerance)
                runner.logger.info(f'DeployHook: on the first batch {found}')
            except ConfigError as error:
                # A segmentor without logits can be trained and evaluated all the same.
                runner.logger.warning(f'DeployHook: the forms are not compared: {error}')
        return deployed


def _save_after_ema(runner: Runner) -> None:
    """Move hooks that use the trained weights behind EMAHook, which swaps them in."""
    hooks = runner.hooks
    end = 1 + max((i for i, h in enumerate(hooks) if isinstance(h, EMAHook)), default=-1)
    early = [h for h in hooks[:end] if isinstance(h, (SameBuffersHook, CheckpointHook))]
    if early:
        names = ' and '.join(type(hook).__name__ for hook in early)
        runner.logger.warning(f'DeployHook: {names} is moved behind EMAHook')
        others = [hook for hook in hooks[:end] if hook not in early]
        # The Runner iterates over the old list, so it has to stay unchanged.
        runner._hooks = [*others, *early, *hooks[end:]]
