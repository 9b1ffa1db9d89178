"""The hook by which every evaluation runs on the fused model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner, get_priority
from mmseg.registry import HOOKS
from torch import nn

from ..errors import ConfigError, DeployError
from ..models.comparison import Comparison
from ..models.wrappers import predict, unwrap
from ..reparam import deploy, is_deployed
from ..winograd import ENGINES, WinogradConv2d
from .loop_end import on_loop_end
from .same_buffers_hook import SameBuffersHook
from .tf32 import tf32


@HOOKS.register_module()
class DeployHook(Hook):
    """Validate and test a deployed copy; train on with the model as it was.

    The copy is in ``runner.model`` from before to after a val or test epoch; then, or
    after any exception on the way, the original is back. EMAHook puts its weights in
    before, and CheckpointHook saves the trained form after, whatever their priorities.

    Args:
        verify: Whether to run the first batch of each evaluation through both forms, log
            how far they differ, and stop where it is beyond ``tolerance``.
        tolerance: Largest allowed difference of a logit, relative to the largest
            absolute logit.
        engine: What computes the fused model, see :func:`~mmseg_repvgg.deploy`.

    Raises:
        DeployError: From the evaluation, if the forms differ beyond ``tolerance``.
    """

    priority = 'LOW'

    def __init__(
        self, verify: bool = True, tolerance: float = 1e-3, engine: str = 'torch'
    ) -> None:
        if not tolerance > 0:
            raise ConfigError(f'tolerance must be positive, but got {tolerance!r}')
        if engine not in ENGINES:
            raise ConfigError(
                f'engine must be one of {tuple(ENGINES)}, but got {engine!r}'
            )
        self.verify = verify
        self.tolerance = tolerance
        self.engine = engine
        self._original: nn.Module | None = None

    def before_run(self, runner: Runner) -> None:
        """Order the hooks, and undo the swap after an exception in an evaluation too."""
        _order(runner)
        if self.engine == 'winograd' and get_device() != 'cpu':
            raise ConfigError(
                "DeployHook(engine='winograd') computes on a CPU, but this runs on "
                f'{get_device()}: take the engine torch there'
            )
        for loop in (runner._val_loop, runner._test_loop):
            on_loop_end(loop, partial(self.restore, runner))

    def _swap_in(self, runner: Runner) -> None:
        if is_deployed(runner.model) and self.engine == 'torch':
            runner.logger.info('DeployHook: nothing to fuse, the model stays as it is')
            return
        # First, since it may refuse.
        deployed = deploy(runner.model, self.engine)
        self._original, runner.model = runner.model, deployed
        by = ''
        if self.engine != 'torch':
            count = sum(isinstance(m, WinogradConv2d) for m in deployed.modules())
            by = f', {count} of its convs by Winograd'
        runner.logger.info(f'DeployHook: evaluating the fused model{by}')

    def restore(self, runner: Runner) -> None:
        """Put the original back, if a copy is in."""
        if self._original is not None:
            runner.model, self._original = self._original, None

    def _verify(self, runner: Runner, batch_idx: int, data_batch: Any) -> None:
        if batch_idx or not self.verify or self._original is None:
            return
        try:
            found = compare_logits(self._original, runner.model, data_batch)
        except ConfigError as error:
            # A training of such a model must not end at its first validation.
            runner.logger.warning(f'DeployHook: nothing is verified: {error}')
            return
        difference, disagreement = found.logit_difference, found.label_disagreement
        runner.logger.info(
            'DeployHook: on the first batch the fused logits differ from the training '
            f"form's by at most {difference:.1e} of their scale, the label on "
            f'{disagreement:.3%} of the pixels'
        )
        # Written so that NaN fails as well.
        if not difference <= self.tolerance:
            raise DeployError(
                f"the fused model's logits differ from the training form's by "
                f'{difference:.3g} of their scale, more than tolerance={self.tolerance} '
                f'(labels differ on {disagreement:.2%} of the pixels). Nothing was '
                'evaluated. Check the norms for variances near 0 or values that are not '
                'finite, or raise the tolerance of DeployHook'
            )

    def before_val_epoch(self, runner: Runner) -> None:
        """Put the deployed copy in."""
        self._swap_in(runner)

    def before_test_epoch(self, runner: Runner) -> None:
        """Put the deployed copy in."""
        self._swap_in(runner)

    def before_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Compare both forms on the first batch."""
        self._verify(runner, batch_idx, data_batch)

    def before_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Compare both forms on the first batch."""
        self._verify(runner, batch_idx, data_batch)

    def after_val_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Put the original back."""
        self.restore(runner)

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Put the original back."""
        self.restore(runner)


def _order(runner: Runner) -> None:
    """Put the hooks that change or save the weights into the order that is right.

    EMAHook after the fusion would change the model that is fused, and CheckpointHook
    before the end of an evaluation would save the weights that are evaluated.
    """
    kinds: tuple[type[Hook], ...] = (EMAHook, SameBuffersHook, DeployHook, CheckpointHook)
    found = [
        (rank, hook)
        for hook in runner.hooks
        for rank, kind in enumerate(kinds)
        if isinstance(hook, kind)
    ]
    if found == sorted(found, key=lambda pair: pair[0]):
        return
    for rank, hook in found:
        hook.priority = kinds[rank].priority
    # A new list: the Runner is walking through the old one.
    runner._hooks = sorted(runner.hooks, key=lambda hook: get_priority(hook.priority))
    names = ', '.join(kind.__name__ for kind in kinds)
    runner.logger.warning(f'DeployHook: the priorities were changed to run {names}')


@torch.no_grad()
def compare_logits(
    original: nn.Module, deployed: nn.Module, data_batch: Any
) -> Comparison:
    """Compare what two forms of a segmentor compute on a batch of a dataloader.

    Args:
        original: The training form; evaluated in eval mode, its mode is kept.
        deployed: The fused form.
        data_batch: As the dataloader yields it; of a TTA batch the first view is taken.

    Raises:
        ConfigError: If the segmentor predicts no logits.
    """
    if isinstance(data_batch['inputs'][0], (list, tuple)):
        data_batch = {key: value[0] for key, value in data_batch.items()}
    # Alone it makes differences of about 1e-3.
    with tf32(False):
        with _in_eval_mode(unwrap(original)) as reference:
            expected = predict(reference, data_batch)
        actual = predict(unwrap(deployed), data_batch)
    comparison = Comparison()
    comparison.add(expected, actual)
    return comparison


@contextmanager
def _in_eval_mode(model: BaseModel) -> Iterator[BaseModel]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode
